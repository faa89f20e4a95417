"""Random changes that make training images as varied as photographs on a plain background.

Renderings differ from photographs in framing, perspective, colors, background and sharpness. Each
function here draws one of these at random. The shape is in the frame of the object, so none of them
changes it. Mirroring changes the shape as well, so dataset.py does it where it reads the shape.

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
    inverted = change_gamma(rng, images.numpy())
    layers = torch.from_numpy(np.concatenate([inverted, estimate_alpha(inverted)], axis=1))
    layers = warp(layers, np.stack([random_warp(rng) for _ in range(num_views)]))
    alpha = layers[:, 3:]
    changed = recolor(layers, *random_color_map(rng))
    changed += (1.0 - alpha) * random_background(rng, size)
    changed = add_noise(rng, blur(rng, changed), alpha)
    changed = changed.round_().clamp_(0.0, 255.0).to(torch.uint8)
    return compress(rng, lower_resolution(rng, changed))


def change_gamma(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Returns float32 images, inverted, with a random gamma. White stays white."""
    values = (np.arange(256) / 255.0) ** rng.uniform(0.8, 1.25)
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


def random_warp(rng: np.random.Generator) -> np.ndarray:
    """Draws a (3, 3) homography from changed to original positions, with the frame as [-1, 1]^2."""
    scale, angle = rng.uniform(0.85, 1.15), np.deg2rad(rng.uniform(-5.0, 5.0))
    warp = np.eye(3)
    warp[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    warp[:2] /= scale
    warp[:2, 2] = warp[:2, :2] @ rng.uniform(-0.12, 0.12, 2)  # 6 % of the edge, which is 2
    warp[2, :2] = rng.uniform(-0.04, 0.04, 2)
    return warp


def warp(layers: Tensor, warps: np.ndarray) -> Tensor:
    """Moves the pixels of (V, C, S, S) by homographies (V, 3, 3). What comes from outside is 0."""
    views, _, size, _ = layers.shape
    places = _matmul(warps, _pixel_centers(size))
    grid = (places[:, :2] / places[:, 2:]).mT.view(views, size, size, 2)
    return F.grid_sample(layers, grid, mode="bilinear", align_corners=False)


def _matmul(matrix: np.ndarray, rows: Tensor) -> Tensor:
    """Product of (..., R, K) and (..., K, P) whose rounding is the same for any number of threads.

    `torch.matmul` does not guarantee that, and a sample must be the same in every process.
    """
    weights = torch.from_numpy(matrix.astype(np.float32))
    total = weights[..., :1] * rows[..., :1, :]
    for k in range(1, weights.shape[-1]):
        total += weights[..., k : k + 1] * rows[..., k : k + 1, :]
    return total


@functools.cache
def _pixel_centers(size: int) -> Tensor:
    """Returns homogeneous positions (3, S * S) of the pixels of a frame [-1, 1]^2, row by row."""
    line = (torch.arange(size) + 0.5) * (2.0 / size) - 1.0
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def random_color_map(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a matrix (3, 3) and an offset (3,) that change colors of 0 to 255.

    They combine brightness, contrast, saturation, hue, lighting, and a permutation of the channels.
    One object in five is gray or nearly gray.
    """
    is_gray = rng.random() < 0.2
    saturation = rng.uniform(0.0, 0.2) if is_gray else rng.uniform(0.6, 1.4)
    gain, contrast = rng.uniform(0.5, 1.25), rng.uniform(0.6, 1.3)
    matrix = saturation * np.eye(3) + (1.0 - saturation) * _LUMA
    matrix = rotate_hue(rng.uniform(-0.35, 0.35)) @ matrix * gain * contrast
    offset = 128.0 * gain * (1.0 - contrast) + random_lighting(rng)
    order = rng.permutation(3)
    return matrix[order], offset[order]


def random_lighting(rng: np.random.Generator) -> np.ndarray:
    """Draws a shift (3,) of colors along the principal components of natural colors (AlexNet)."""
    return 255.0 * _COLOR_AXES @ (rng.normal(0.0, 0.1, 3) * _COLOR_STDS)


def rotate_hue(angle: float) -> np.ndarray:
    """Returns the rotation (3, 3) of colors about the axis of grays, by an angle in radians."""
    turn = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
    mean = np.full((3, 3), 1.0 / 3.0)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * turn + (1.0 - np.cos(angle)) * mean


def recolor(layers: Tensor, matrix: np.ndarray, offset: np.ndarray) -> Tensor:
    """Changes the colors of the object.

    Args:
        layers: (V, 4, S, S), inverted image on white, and opacity.
        matrix: (3, 3), of colors that are not inverted.
        offset: (3,), of colors that are not inverted.

    Returns:
        (V, 3, S, S), colors multiplied by the opacity, not inverted.
    """
    # With opacity a and color c, the image on white is 255 - a (255 - c).
    white = 255.0 * matrix.sum(axis=1) + offset
    both = np.column_stack([-matrix, white])
    return _matmul(both, layers.flatten(2)).view(len(layers), 3, *layers.shape[2:])


def random_background(rng: np.random.Generator, size: int) -> Tensor:
    """Draws a background (3, S, S), or (3, 1, 1): white in half of all cases, else light.

    A light background has a tint and changes linearly from one side to the other.
    """
    if rng.random() < 0.5:
        return torch.full((3, 1, 1), 255.0)
    color = rng.uniform(150.0, 255.0) + rng.normal(0.0, 8.0, 3)
    direction = rng.uniform(-15.0, 15.0, 2)
    planes = np.column_stack([np.tile(direction, (3, 1)), color])
    return _matmul(planes, _pixel_centers(size)).clamp_(0.0, 255.0).view(3, size, size)


def blur(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Blurs 30 % of the samples with a Gaussian filter."""
    if rng.random() >= 0.3:
        return images
    from scipy.ndimage import gaussian_filter  # takes 0.4 s to import

    sigma = rng.uniform(0.2, 1.2) * images.shape[-1] / 128
    return torch.from_numpy(gaussian_filter(images.numpy(), sigma, axes=(2, 3), mode="nearest"))


def add_noise(rng: np.random.Generator, images: Tensor, alpha: Tensor) -> Tensor:
    """Adds Gaussian noise to the object in half of the samples.

    The background stays clean, as behind an object that was cut out.
    """
    if rng.random() < 0.5:
        return images
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(images.shape, generator=generator).mul_(rng.uniform(0.0, 4.0))
    return noise.mul_(alpha).add_(images)


def lower_resolution(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Reduces 15 % of the samples, uint8, to fewer pixels and enlarges them again."""
    if rng.random() >= 0.15:
        return images
    size = images.shape[-1]
    fewer = round(size * rng.uniform(0.5, 0.9))
    small = F.interpolate(images, (fewer, fewer), mode="bilinear", antialias=True)
    return F.interpolate(small, (size, size), mode="bilinear", antialias=True)


def compress(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Encodes 20 % of the samples as JPEG of random quality and decodes them."""
    if rng.random() >= 0.2:
        return images
    quality = int(rng.integers(30, 90))
    return torch.stack([_through_jpeg(image, quality) for image in images])


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return torch.from_numpy(np.array(decoded)).permute(2, 0, 1)
