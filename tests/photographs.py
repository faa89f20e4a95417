"""Builds images like photographs, with known masks of their objects."""

import numpy as np
from PIL import Image
from scipy import ndimage


def ellipse(size: int, center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """Returns the mask (size, size) of an ellipse. `center` and `radii` are (y, x) in [0, 1]."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 <= 1


def photograph(
    mask: np.ndarray,
    *,
    color: tuple[int, int, int] = (190, 70, 50),
    surroundings: tuple[tuple[int, int, int], tuple[int, int, int]] = (
        (150, 175, 200),
        (95, 120, 150),
    ),
    shadow: float = 0.0,
    noise: float = 3.0,
    seed: int = 0,
) -> Image.Image:
    """Renders an object, shaded from left to right, on a background that darkens downward.

    Args:
        mask: (H, W) bool mask of the object.
        color: RGB color of the object.
        surroundings: RGB colors of the background at the top and at the bottom.
        shadow: share of the light that is missing in the middle of a soft shadow on the right.
        noise: standard deviation of the camera noise.
    """
    height, width = mask.shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    image = np.array(surroundings[0]) + y[..., None] * np.subtract(surroundings[1], surroundings[0])
    shifted = np.roll(mask, width // 16, axis=1).astype(np.float64)
    blurred = ndimage.gaussian_filter(shifted, width / 25)
    image = image * (1 - shadow * blurred / max(blurred.max(), 1e-9))[..., None]
    shaded = np.array(color) * (1.15 - 0.4 * x[..., None])
    image = np.where(mask[..., None], shaded, image)
    image += np.random.default_rng(seed).normal(0.0, noise, image.shape)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))
