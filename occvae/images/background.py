"""Cuts objects out of photographs with a plain background.

The background is modeled as a color that varies slowly over the image: per channel a quadratic
polynomial in x and y, fitted to the border pixels that agree with one. Pixels with that color are
background. Shadow is removed too: darker shades of the background next to it, with no edge between.
"""

import functools
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from occvae.errors import UserError

# Longest edge of the working copy in pixels. Models see images about a quarter of that size.
_WORKING_EDGE = 1024
# Share of the border's pixels that must agree with the fit. The object may cover the others.
_PLAIN_SHARE = 0.7
# In images with a longest edge of at least this many pixels, parts one pixel wide are removed,
# because they are fringes of the background.
_FINE_EDGE = 400
# Color distances are Euclidean, in RGB from 0 to 255.
_LEAST_TOLERANCE, _MOST_TOLERANCE = 14.0, 36.0
_TOLERANCE_STDS = 5.0
# Largest change of brightness between neighboring pixels of a shadow, after smoothing. The value is
# for images with a longest edge of at least _SHADOW_EDGE pixels. Smaller images allow up to three
# times as much.
_SHADOW_SLOPE, _SHADOW_EDGE = 2.5, 512
# Largest share of the light that a shadow takes away: _DEEP_SHADOW on backgrounds whose saturation
# is above _LEAST_SATURATION, _LIGHT_SHADOW on gray ones, where a darker shade may be an object.
_DEEP_SHADOW, _LIGHT_SHADOW = 0.65, 0.40
_LEAST_SATURATION = 0.15
_NEARLY_WHITE = 250.0
# Foreground regions smaller than this share of the largest one are removed as dust.
_DUST = 0.01
# Enclosed regions of the background's color, such as between the legs of a chair, are background if
# they cover at least this share of the image.
_LEAST_HOLE = 1e-4


class BorderNotPlainError(UserError):
    """The border of the image does not have one slowly varying color."""


def remove_background(image: Image.Image) -> Image.Image:
    """Makes a plain background transparent.

    Args:
        image: RGB. If an edge has more than 1024 pixels, the image is reduced first.

    Returns:
        RGBA, at most 1024 pixels along each edge. Alpha is 0 in the background and 255 inside the
        object.

    Raises:
        BorderNotPlainError: The border does not have one slowly varying color.
        UserError: The whole image is background.
    """
    working = image.convert("RGB")
    working.thumbnail((_WORKING_EDGE, _WORKING_EDGE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    colors = np.asarray(working, np.float32)
    background, tolerance = _fit_background(colors)
    mask = _object_mask(colors, background, tolerance)
    if not mask.any():
        raise UserError("shows nothing but its background")
    working.putalpha(Image.fromarray(_soft_alpha(mask, background)))
    return working


def remove_with_rembg(image: Image.Image) -> Image.Image:
    """Makes any background transparent with the default network of the library rembg.

    rembg downloads the network at the first use.

    Args:
        image: RGB.

    Returns:
        RGBA of the same size.

    Raises:
        UserError: rembg is not installed, or fails.
    """
    rembg = import_rembg()
    try:
        return rembg.remove(image, session=_rembg_session()).convert("RGBA")
    except Exception as error:  # from the download, the runtime or the network
        raise UserError(f"rembg failed ({error})") from None


def import_rembg() -> ModuleType:
    """Imports rembg, or raises a UserError that says how to install it."""
    try:
        import rembg
    except (ImportError, SystemExit):  # rembg exits if onnxruntime is missing
        raise UserError(
            "background rembg needs rembg: pip install 'rembg[cpu]', or choose background auto"
        ) from None
    return rembg


@functools.cache
def _rembg_session() -> Any:
    return import_rembg().new_session()


def _fit_background(colors: np.ndarray) -> tuple[np.ndarray, float]:
    """Fits the model of the background to the border of an image (H, W, 3) float32.

    Returns:
        The color of the background (H, W, 3) at every pixel, and the color distance from it up to
        which a pixel is background.

    Raises:
        BorderNotPlainError: too few pixels of the border agree with the fit.
    """
    height, width = colors.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)
    frame = np.ones((height, width), bool)
    edge = max(1, min(height, width) // 64)
    frame[edge:-edge, edge:-edge] = False
    inputs, values = terms[frame], colors[frame]
    kept = np.linalg.norm(values - np.median(values, axis=0), axis=1) < 3 * _MOST_TOLERANCE
    for _ in range(5):
        if np.count_nonzero(kept) < _PLAIN_SHARE * len(kept):
            break
        weights = np.linalg.lstsq(inputs[kept], values[kept], rcond=None)[0]
        residuals = np.linalg.norm(values - inputs @ weights, axis=1)
        std = float(np.sqrt(np.mean(residuals[kept] ** 2)))
        tolerance = max(_LEAST_TOLERANCE, _TOLERANCE_STDS * std / np.sqrt(3))
        kept = residuals < min(tolerance, _MOST_TOLERANCE)
    if np.count_nonzero(kept) < _PLAIN_SHARE * len(kept) or tolerance > _MOST_TOLERANCE:
        raise BorderNotPlainError("background not removed: the border of the image is not plain")
    return np.clip(terms @ weights, 0, 255), tolerance


def _object_mask(colors: np.ndarray, background: np.ndarray, tolerance: float) -> np.ndarray:
    """The object (H, W) bool: all pixels except background, shadow and dust.

    `background` and `tolerance` are from `_fit_background`.
    """
    alike = np.linalg.norm(colors - background, axis=-1) < tolerance
    regions, count = ndimage.label(alike)
    sizes = np.bincount(regions.reshape(-1), minlength=count + 1)
    large = sizes >= _LEAST_HOLE * alike.size
    large[0] = False
    plain = large[regions]
    plain |= _shadow(colors, background, plain)
    mask = ndimage.binary_opening(~plain) if max(plain.shape) >= _FINE_EDGE else ~plain
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(regions.reshape(-1), minlength=count + 1)
    sizes[0] = 0
    return (sizes > _DUST * sizes.max())[regions] & mask


def _soft_alpha(mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Alpha (H, W) uint8. The outermost pixels of an object are mixed with the background."""
    if background.min() > _NEARLY_WHITE:  # training views are mixed with white: keep these pixels
        return ndimage.binary_dilation(mask, iterations=2).astype(np.uint8) * 255
    if max(mask.shape) < _FINE_EDGE:
        return mask.astype(np.uint8) * 255
    inner = ndimage.binary_erosion(mask, border_value=1).astype(np.float32)
    return np.round(ndimage.gaussian_filter(inner, 0.7) * 255).astype(np.uint8)


def _shadow(colors: np.ndarray, background: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """The shadow (H, W) bool: darker shades of the background that adjoin it without an edge.

    `plain` (H, W) bool marks the background found so far. The result may include it.
    """
    if background.min() > _NEARLY_WHITE:  # a rendering or a cut-out object, without shadow
        return np.zeros_like(plain)
    std = max(0.7, 2.5 * max(plain.shape) / _WORKING_EDGE)
    smooth = ndimage.gaussian_filter(colors, (std, std, 0))
    light = (smooth * background).sum(-1) / (background**2).sum(-1).clip(min=1.0)
    hue = np.linalg.norm(smooth - light[..., None] * background, axis=-1)
    gray = smooth.mean(-1)
    slope = np.hypot(ndimage.sobel(gray, 0), ndimage.sobel(gray, 1)) / 8
    steepest = _SHADOW_SLOPE * np.clip(_SHADOW_EDGE / max(plain.shape), 1.0, 3.0)
    brightest = background.max(-1).clip(min=1.0)
    saturated = 1 - background.min(-1) / brightest > _LEAST_SATURATION
    darkest = 1 - np.where(saturated, _DEEP_SHADOW, _LIGHT_SHADOW)
    shade = (light > darkest) & (light < 1.05) & (hue < _LEAST_TOLERANCE)
    return ndimage.binary_propagation(plain, mask=plain | shade & (slope < steepest))
