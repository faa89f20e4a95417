"""The random changes of `augmentation.py`, applied to a batch of samples on any device.

What changes at random is drawn on the CPU, a few numbers per sample. Images never leave the device,
and nothing waits for it. Blur and lower resolution are products with a matrix from each side. JPEG
is computed in floating point and is within about one gray level of a decoder's result.
"""

import functools
import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn import functional as F

from occvae.data.augmentation import (
    draw_backgrounds,
    draw_color_maps,
    draw_gammas,
    draw_noise,
    draw_qualities,
    draw_sigmas,
    draw_sizes,
    draw_warps,
    linear_images,
    recolor,
    warp,
)

_Change = Callable[[Tensor, np.ndarray], Tensor]

_BLOCK = 8  # edge of the blocks of JPEG
# Rows: luma, and the differences of blue and red, of RGB (JFIF).
_TO_YCBCR = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]


@torch.no_grad()
def augment_batch(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Changes the images of samples at random, each sample as `augment_views` does.

    Args:
        images: (B, V, 3, S, S) uint8. Pixels that are exactly white are background.
        rng: source of all randomness.

    Returns:
        (B, V, 3, S, S) uint8 on the same device.
    """
    count, views, _, size, _ = images.shape
    device = images.device
    gammas = _sent(draw_gammas(rng, count), device).repeat_interleave(views)
    inverted = 255.0 - 255.0 * (images.flatten(0, 1) / 255.0) ** gammas[:, None, None, None]
    layers = torch.cat([inverted, estimate_alpha(inverted)], dim=1)
    layers = warp(layers, draw_warps(rng, count * views))
    alpha = layers[:, 3:]
    maps = (values.repeat(views, axis=0) for values in draw_color_maps(rng, count))
    changed = recolor(layers, *maps)
    backgrounds = linear_images(draw_backgrounds(rng, count), size, device)
    changed += (1.0 - alpha) * backgrounds.repeat_interleave(views, dim=0)
    samples = changed.view(count, views, 3, size, size)
    _change_some(samples, draw_sigmas(rng, count, size), blur)
    _add_noise(samples, alpha.view(count, views, 1, size, size), *draw_noise(rng, count))
    samples = samples.round_().clamp_(0.0, 255.0)
    _change_some(samples, draw_sizes(rng, count, size), lower_resolution)
    _change_some(samples, draw_qualities(rng, count), compress)
    return samples.to(torch.uint8)


def _sent(values: np.ndarray, device: torch.device) -> Tensor:
    """Returns values on a device, floats as float32, without waiting for the device."""
    tensor = torch.from_numpy(values)
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.to(device, non_blocking=True)


def _change_some(samples: Tensor, strengths: np.ndarray, change: _Change) -> None:
    """Replaces the samples whose strength is not 0 by `change(samples, strengths)`."""
    chosen = strengths.nonzero()[0]
    if len(chosen):
        places = _sent(chosen, samples.device)
        samples[places] = change(samples[places], strengths[chosen])


def estimate_alpha(inverted: Tensor) -> Tensor:
    """Estimates opacities (M, 1, S, S) from inverted images on white (M, 3, S, S)."""
    darkness = inverted.amax(dim=1, keepdim=True)
    lightest = -F.max_pool2d(-darkness, 3, stride=1, padding=1)
    darkest = F.max_pool2d(darkness, 3, stride=1, padding=1)
    return torch.where(lightest > 0.0, 1.0, darkness / darkest.clamp(min=1.0))


def _add_noise(samples: Tensor, alpha: Tensor, strengths: np.ndarray, seeds: np.ndarray) -> None:
    if not strengths.any():
        return
    generator = torch.Generator(samples.device).manual_seed(int(seeds[0]))
    noise = torch.randn(samples.shape, generator=generator, device=samples.device)
    noise *= _sent(strengths, samples.device)[:, None, None, None, None]
    samples += noise.mul_(alpha)


def blur(samples: Tensor, sigmas: np.ndarray) -> Tensor:
    """Blurs samples (B, V, C, S, S) with Gaussian filters of `sigmas` (B,) pixels.

    Pixels outside the frame have the value of the nearest one inside.
    """
    size, device = samples.shape[-1], samples.device
    radii = (4.0 * sigmas + 0.5).astype(int)
    reach = radii.max() + 1
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights[np.abs(offsets) > radii[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    line, sums = np.arange(size), weights.cumsum(axis=1)
    matrices = _sent(weights, device)[:, _band(size, int(reach), device)]
    matrices[:, :, 0] += _sent(sums[:, np.maximum(-line - 1, -reach) + reach], device)
    matrices[:, :, -1] += _sent(1.0 - sums[:, np.minimum(size - 1 - line, reach) + reach], device)
    return _from_both_sides(matrices, samples)


@functools.cache
def _band(size: int, reach: int, device: torch.device) -> Tensor:
    """Returns the index (S, S) of the offset from a row to a column, among -reach to reach."""
    line = np.arange(size)
    return _sent(np.clip(line - line[:, None], -reach, reach) + reach, device)


def lower_resolution(samples: Tensor, sizes: np.ndarray) -> Tensor:
    """Reduces samples (B, V, C, S, S) to edges of `sizes` (B,) and enlarges them again."""
    size, device = samples.shape[-1], samples.device
    matrices = torch.stack([_resampling(size, int(fewer), device) for fewer in sizes])
    return _from_both_sides(matrices, samples).round_().clamp_(0.0, 255.0)


@functools.cache
def _resampling(size: int, fewer: int, device: torch.device) -> Tensor:
    """Returns the matrix (S, S) that reduces a line of pixels to `fewer` and enlarges it again."""
    columns = torch.eye(size, device=device)[None, None]
    for edge in (fewer, size):
        columns = F.interpolate(columns, (edge, size), mode="bilinear", antialias=True)
    return columns[0, 0]


def _from_both_sides(matrices: Tensor, samples: Tensor) -> Tensor:
    """Returns M X M^T for each image X of samples (B, V, C, S, S) and matrices (B, S, S)."""
    matrices = matrices[:, None, None]
    return matrices @ samples @ matrices.mT


def compress(samples: Tensor, qualities: np.ndarray) -> Tensor:
    """Returns samples (B, V, 3, S, S) as a JPEG file of `qualities` (B,) would keep them.

    The files are those of Pillow: color at half the resolution, and quantized cosines of blocks.
    """
    size, device = samples.shape[-1], samples.device
    tables = _sent(np.stack([_quantization(int(quality)) for quality in qualities]), device)
    images, views = samples.flatten(0, 1), samples.shape[1]
    padding = -size % (2 * _BLOCK)
    images = F.pad(images, (0, padding, 0, padding), mode="replicate")
    to_ycbcr, to_rgb = _color_matrices(device)
    channels = torch.einsum("kc,mchw->mkhw", to_ycbcr, images).round_()
    luma, chroma = channels[:, :1], F.avg_pool2d(channels[:, 1:], 2).round_()
    tables = tables.repeat_interleave(views, dim=0)
    luma = _quantized(luma - 128.0, tables[:, :1]) + 128.0
    chroma = F.interpolate(_quantized(chroma, tables[:, 1:]), scale_factor=2.0, mode="bilinear")
    images = torch.einsum("ck,mkhw->mchw", to_rgb, torch.cat([luma, chroma], dim=1))
    images = images[..., :size, :size].round_().clamp_(0.0, 255.0)
    return images.reshape(samples.shape)


def _quantized(channels: Tensor, tables: Tensor) -> Tensor:
    """Rounds the cosines of the blocks of (M, C, H, W) to multiples of tables (M, 1, 8, 8)."""
    cosines = _cosines(channels.device)
    high, wide = (length // _BLOCK for length in channels.shape[2:])
    blocks = channels.unflatten(3, (wide, _BLOCK)).unflatten(2, (high, _BLOCK)).transpose(3, 4)
    steps = tables[:, :, None, None]
    blocks = (cosines @ blocks @ cosines.T / steps).round_() * steps
    blocks = (cosines.T @ blocks @ cosines).transpose(3, 4)
    return blocks.flatten(4, 5).flatten(2, 3).round_().clamp_(-128.0, 127.0)


@functools.cache
def _color_matrices(device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the matrices (3, 3) from RGB to luma and chroma, and back."""
    matrix = np.array(_TO_YCBCR)
    return _sent(matrix, device), _sent(np.linalg.inv(matrix), device)


@functools.cache
def _cosines(device: torch.device) -> Tensor:
    """Returns the orthonormal cosine transform (8, 8) of a block's column."""
    frequency, place = np.meshgrid(np.arange(_BLOCK), np.arange(_BLOCK) + 0.5, indexing="ij")
    matrix = np.cos(np.pi * frequency * place / _BLOCK) * np.sqrt(2.0 / _BLOCK)
    matrix[0] /= np.sqrt(2.0)
    return _sent(matrix, device)


@functools.cache
def _quantization(quality: int) -> np.ndarray:
    """Returns Pillow's steps (2, 8, 8) of the cosines of luma and color, row by row."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
    tables = JpegImageFile(io.BytesIO(buffer.getvalue())).quantization
    return np.array([tables[0], tables[1]], np.float32).reshape(2, _BLOCK, _BLOCK)
