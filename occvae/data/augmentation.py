"""Random changes that make training images as varied as photographs on a plain background.

Renderings differ from photographs in framing, perspective, colors, background and sharpness. The
shape is in the frame of the object, so none of these changes it. Mirroring changes the shape as
well, so dataset.py does it where it reads the shape.

The functions named `draw_...` draw the changes of `count` samples or views. The others apply them
to the views of one sample, on the CPU. `batch_augmentation.py` applies them to whole batches on any
device.

Color, lighting and channel permutation follow Pix2Vox (Xie et al. 2019). Some functions take
*inverted* images, in which 0 is white and 255 is black: outside the frame there is then 0.
"""

import functools
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Weights of red, green and blue in the brightness (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])
# Principal components of ImageNet's colors and their standard deviations (Krizhevsky et al. 2012).
_COLOR_AXES = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_COLOR_STDS = np.array([0.2175, 0.0188, 0.0045])


def augment_views(images: Tensor, seed: Sequence[int]) -> Tensor:
    """Changes the views of one sample at random.

    Every view gets its own perspective and position in the frame. Colors, background, blur and
    compression are the same for all views.

    Args:
        images: (V, 3, S, S) uint8. Pixels that are exactly white are background.
        seed: non-negative integers, `[seed, epoch, index]` of a sample. The result depends only
            on the images and the seed.

    Returns:
        (V, 3, S, S) uint8.
    """
    rng = np.random.default_rng([*seed, 1])
    num_views, _, size, _ = images.shape
    inverted = change_gamma(images.numpy(), draw_gammas(rng, 1)[0])
    layers = torch.from_numpy(np.concatenate([inverted, estimate_alpha(inverted)], axis=1))
    layers = warp(layers, draw_warps(rng, num_views))
    alpha = layers[:, 3:]
    matrices, offsets = draw_color_maps(rng, 1)
    changed = recolor(layers, matrices[0], offsets[0])
    changed += (1.0 - alpha) * linear_images(draw_backgrounds(rng, 1), size, layers.device)
    changed = blur(changed, draw_sigmas(rng, 1, size)[0])
    changed = add_noise(changed, alpha, *draw_noise(rng, 1)[:, 0])
    changed = changed.round_().clamp_(0.0, 255.0).to(torch.uint8)
    changed = lower_resolution(changed, int(draw_sizes(rng, 1, size)[0]))
    return compress(changed, int(draw_qualities(rng, 1)[0]))


def draw_gammas(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws exponents (count,) of values in [0, 1]."""
    return rng.uniform(0.8, 1.25, count)


def draw_warps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws homographies (count, 3, 3) from changed to original positions.

    The frame is [-1, 1]^2.
    """
    scale, angle = rng.uniform(0.85, 1.15, count), np.deg2rad(rng.uniform(-5.0, 5.0, count))
    shift = rng.uniform(-0.12, 0.12, (count, 2, 1))  # 6 % of the edge, which is 2
    warps = np.tile(np.eye(3), (count, 1, 1))
    turns = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    warps[:, :2, :2] = (turns / scale).transpose(2, 0, 1)
    warps[:, :2, 2:] = warps[:, :2, :2] @ shift
    warps[:, 2, :2] = rng.uniform(-0.04, 0.04, (count, 2))
    return warps


def draw_color_maps(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws matrices (count, 3, 3) and offsets (count, 3) that change colors of 0 to 255.

    They combine brightness, contrast, saturation, hue, lighting, and a permutation of the channels.
    One object in five is gray or nearly gray.
    """
    is_gray = rng.random(count) < 0.2
    low, high = np.where(is_gray, 0.0, 0.6), np.where(is_gray, 0.2, 1.4)
    saturation = rng.uniform(low, high)[:, None, None]
    gain, contrast = rng.uniform(0.5, 1.25, count), rng.uniform(0.6, 1.3, count)
    matrices = saturation * np.eye(3) + (1.0 - saturation) * _LUMA
    matrices = rotate_hue(rng.uniform(-0.35, 0.35, count)) @ matrices
    matrices *= (gain * contrast)[:, None, None]
    offsets = 128.0 * (gain * (1.0 - contrast))[:, None] + draw_lighting(rng, count)
    order = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    return (
        np.take_along_axis(matrices, order[:, :, None], axis=1),
        np.take_along_axis(offsets, order, axis=1),
    )


def draw_lighting(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws shifts (count, 3) of colors along their natural principal components (AlexNet)."""
    return 255.0 * (rng.normal(0.0, 0.1, (count, 3)) * _COLOR_STDS) @ _COLOR_AXES.T


def draw_backgrounds(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws backgrounds (count, 3, 3) for `linear_images`: white in half of all cases, else light.

    A light background has a tint and changes linearly from one side to the other.
    """
    is_white = rng.random(count) < 0.5
    colors = rng.uniform(150.0, 255.0, (count, 1)) + rng.normal(0.0, 8.0, (count, 3))
    slopes = np.repeat(rng.uniform(-15.0, 15.0, (count, 1, 2)), 3, axis=1)
    planes = np.concatenate([slopes, colors[:, :, None]], axis=2)
    planes[is_white] = [0.0, 0.0, 255.0]
    return planes


def draw_sigmas(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Draws standard deviations (count,) of a blur in pixels, 0 in 70 % of all cases."""
    return _in_some(rng, 0.3, rng.uniform(0.2, 1.2, count) * size / 128)


def draw_noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws standard deviations of noise, 0 in half of all cases, and its seeds, (2, count)."""
    strengths = _in_some(rng, 0.5, rng.uniform(0.0, 4.0, count))
    return np.stack([strengths, rng.integers(2**53, size=count)])


def draw_sizes(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Draws smaller edges (count,) for images of edge `size`, 0 in 85 % of all cases."""
    return _in_some(rng, 0.15, (size * rng.uniform(0.5, 0.9, count)).round().astype(int))


def draw_qualities(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws qualities (count,) of JPEG, 0 in 80 % of all cases."""
    return _in_some(rng, 0.2, rng.integers(30, 90, count))


def _in_some(rng: np.random.Generator, share: float, values: np.ndarray) -> np.ndarray:
    """Keeps a random share of values (count,), and sets the others to 0."""
    return np.where(rng.random(len(values)) < share, values, 0)


def change_gamma(images: np.ndarray, gamma: float) -> np.ndarray:
    """Returns float32 images, inverted and with another gamma. White stays white."""
    values = (np.arange(256) / 255.0) ** gamma
    return np.take(np.float32(255.0 - 255.0 * values), images)


def estimate_alpha(inverted: np.ndarray) -> np.ndarray:
    """Estimates the opacity (V, 1, S, S) of the object from its inverted image on white.

    White is background. A pixel with a white neighbor is a mix of white and its darkest neighbor.
    All other pixels are opaque.
    """
    darkness = inverted.max(axis=1, keepdims=True)
    lightest, darkest = _filter(np.minimum, darkness), _filter(np.maximum, darkness)
    return np.where(lightest > 0.0, np.float32(1.0), darkness / np.maximum(darkest, 1.0))


def _filter(extreme: np.ufunc, image: np.ndarray) -> np.ndarray:
    """Returns the minimum or maximum of the 3 x 3 pixels around each pixel of (..., S, S)."""
    rows = image.copy()
    extreme(rows[..., 1:, :], image[..., :-1, :], out=rows[..., 1:, :])
    extreme(rows[..., :-1, :], image[..., 1:, :], out=rows[..., :-1, :])
    both = rows.copy()
    extreme(both[..., 1:], rows[..., :-1], out=both[..., 1:])
    extreme(both[..., :-1], rows[..., 1:], out=both[..., :-1])
    return both


def warp(layers: Tensor, warps: np.ndarray) -> Tensor:
    """Moves the pixels of (V, C, S, S) by homographies (V, 3, 3). What comes from outside is 0."""
    views, _, size, _ = layers.shape
    places = _matmul(warps, _pixel_centers(size, layers.device))
    grid = (places[:, :2] / places[:, 2:]).mT.view(views, size, size, 2)
    return F.grid_sample(layers, grid, mode="bilinear", align_corners=False)


def _matmul(matrix: np.ndarray, rows: Tensor) -> Tensor:
    """Product of (..., R, K) and (..., K, P) whose rounding is the same for any number of threads.

    `torch.matmul` does not guarantee that, and a sample must be the same in every process.
    """
    weights = torch.from_numpy(matrix.astype(np.float32)).to(rows.device, non_blocking=True)
    total = weights[..., :1] * rows[..., :1, :]
    for k in range(1, weights.shape[-1]):
        total += weights[..., k : k + 1] * rows[..., k : k + 1, :]
    return total


@functools.cache
def _pixel_centers(size: int, device: torch.device) -> Tensor:
    """Returns homogeneous positions (3, S * S) of the pixels of a frame [-1, 1]^2, row by row."""
    line = (torch.arange(size, device=device) + 0.5) * (2.0 / size) - 1.0
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def rotate_hue(angles: np.ndarray) -> np.ndarray:
    """Returns rotations (..., 3, 3) of colors about the axis of grays, by angles in radians."""
    turn = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
    mean = np.full((3, 3), 1.0 / 3.0)
    cos, sin = (f(angles)[..., None, None] for f in (np.cos, np.sin))
    return cos * np.eye(3) + sin * turn + (1.0 - cos) * mean


def recolor(layers: Tensor, matrix: np.ndarray, offset: np.ndarray) -> Tensor:
    """Changes the colors of the object.

    Args:
        layers: (V, 4, S, S), inverted image on white, and opacity.
        matrix: (3, 3), or (V, 3, 3) for a matrix per view, of colors that are not inverted.
        offset: (3,) or (V, 3), of colors that are not inverted.

    Returns:
        (V, 3, S, S), colors multiplied by the opacity, not inverted.
    """
    # With opacity a and color c, the image on white is 255 - a (255 - c).
    white = 255.0 * matrix.sum(axis=-1) + offset
    both = np.concatenate([-matrix, white[..., None]], axis=-1)
    return _matmul(both, layers.flatten(2)).view(len(layers), 3, *layers.shape[2:])


def linear_images(planes: np.ndarray, size: int, device: torch.device) -> Tensor:
    """Returns images whose channels are linear in the position, between 0 and 255.

    They are (M, 3, S, S), or (M, 3, 1, 1) if all are constant.

    Args:
        planes: (M, 3, 3), per channel the slopes along x and y and the value in the middle.
        size: S.
        device: device of the result.
    """
    if not planes[:, :, :2].any():
        return torch.from_numpy(planes[:, :, 2:, None].astype(np.float32)).to(device)
    images = _matmul(planes, _pixel_centers(size, device)).clamp_(0.0, 255.0)
    return images.view(len(planes), 3, size, size)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blurs images with a Gaussian filter, or not for a standard deviation of 0."""
    if not sigma:
        return images
    from scipy.ndimage import gaussian_filter  # takes 0.4 s to import

    return torch.from_numpy(gaussian_filter(images.numpy(), sigma, axes=(2, 3), mode="nearest"))


def add_noise(images: Tensor, alpha: Tensor, strength: float, seed: float) -> Tensor:
    """Adds Gaussian noise to the object.

    The background stays clean, as behind an object that was cut out.
    """
    if not strength:
        return images
    generator = torch.Generator().manual_seed(int(seed))
    noise = torch.randn(images.shape, generator=generator).mul_(strength)
    return noise.mul_(alpha).add_(images)


def lower_resolution(images: Tensor, fewer: int) -> Tensor:
    """Reduces images, uint8, to `fewer` pixels and enlarges them again. 0 changes nothing."""
    if not fewer:
        return images
    size = images.shape[-1]
    small = F.interpolate(images, (fewer, fewer), mode="bilinear", antialias=True)
    return F.interpolate(small, (size, size), mode="bilinear", antialias=True)


def compress(images: Tensor, quality: int) -> Tensor:
    """Encodes images as JPEG and decodes them. A quality of 0 changes nothing."""
    if not quality:
        return images
    return torch.stack([_through_jpeg(image, quality) for image in images])


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return torch.from_numpy(np.array(decoded)).permute(2, 0, 1)
