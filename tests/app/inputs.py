"""Files that the tests of the page drop into it."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.photographs import ellipse, photograph


def colored(path: Path, color: tuple[int, int, int] = (255, 255, 255)) -> Path:
    """Writes an image of one color, which `background="keep"` shows to the model unchanged."""
    Image.new("RGB", (32, 32), color).save(path)
    return path


def photo(path: Path, size: int = 600) -> Path:
    """Writes a JPEG like a photograph: an object with a shadow on a plain, unevenly lit table."""
    mask = ellipse(size, (0.5, 0.45), (0.25, 0.3))
    photograph(mask, shadow=0.4).save(path, quality=85)
    return path


def cloud(path: Path, center: tuple[float, float, float] = (10.0, 0.0, 0.0)) -> Path:
    """Writes points on a sphere with radius 2."""
    points = np.random.default_rng(0).normal(size=(400, 3))
    points *= 2.0 / np.linalg.norm(points, axis=1, keepdims=True)
    np.save(path, points + center)
    return path
