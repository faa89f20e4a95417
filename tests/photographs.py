"""Photograph-like pictures whose objects are known to the pixel."""

import numpy as np
from PIL import Image
from scipy import ndimage


def ellipse(size: int, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """(size, size) bool; (y, x) in shares of the frame."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def photograph(
    mask: np.ndarray,
    *,
    colour: tuple[int, int, int] = (190, 70, 50),
    backdrop: tuple[tuple[int, int, int], tuple[int, int, int]] = ((150, 175, 200), (95, 120, 150)),
    shadow: float = 0.0,
    noise: float = 3.0,
    seed: int = 0,
) -> Image.Image:
    """An object, shaded from left to right, before a backdrop that gets darker downwards.

    Args:
        mask: (H, W) bool, of the object.
        backdrop: its colours at the top and at the bottom.
        shadow: share of the light that is missing in the middle of a soft shadow to its right.
        noise: standard deviation of that of the camera.
    """
    height, width = mask.shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    picture = np.array(backdrop[0]) + y[..., None] * np.subtract(backdrop[1], backdrop[0])
    shifted = np.roll(mask, width // 16, axis=1).astype(np.float64)
    blurred = ndimage.gaussian_filter(shifted, width / 25)
    picture = picture * (1 - shadow * blurred / max(blurred.max(), 1e-9))[..., None]
    shaded = np.array(colour) * (1.15 - 0.4 * x[..., None])
    picture = np.where(mask[..., None], shaded, picture)
    picture += np.random.default_rng(seed).normal(0.0, noise, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))
