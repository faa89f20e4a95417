"""Gray images of more than 8 bits, as 8 bits. Pillow's own conversions clip at 255 instead."""

import numpy as np
from PIL import Image

from occvae.errors import UserError

# White of gray values of 8, 10, 12 and 16 bits. Cameras store 10 and 12 bits in 16.
_WHITES = (255, 1023, 4095, 65535)
# Floating point values up to here are from [0, 1], after resizing by splines.
_UNIT_MOST = 1.01
# Floating point images with a maximum between that and this may have either range.
_LEAST_MOST = 16


def is_high_range(image: Image.Image) -> bool:
    """Returns whether an image has integers of 16 or 32 bits, or floating point values."""
    return image.mode.startswith("I") or image.mode == "F"


def gray_to_rgb(image: Image.Image) -> Image.Image:
    """Scales an image for which `is_high_range` holds to RGB, or RGBA if a value is transparent.

    White is the largest value of 8, 10, 12 or 16 bits, whichever is the first that holds all
    values. For floating point values up to 1, white is 1. NaN is black.

    Raises:
        UserError: Values are negative or above 65535, or floating point values are from 1 to 16.
    """
    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=np.inf, neginf=0.0)
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    white = _white(image.mode == "F", least, most)
    shades = (values * (255 / white)).clip(0, 255).astype(np.uint8)
    result = Image.fromarray(shades).convert("RGB")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        result.putalpha(Image.fromarray((values != transparent).astype(np.uint8) * 255))
    return result


def _white(is_float: bool, least: float, most: float) -> float:
    slack = _UNIT_MOST - 1 if is_float else 0
    if least < -slack or most > _WHITES[-1]:
        raise UserError(
            f"gray values from {least:g} to {most:g}; scale them to 0 to 255 or 0 to 65535"
        )
    if is_float and most <= _UNIT_MOST:
        return 1.0
    if is_float and most < _LEAST_MOST:
        raise UserError(f"floating point values up to {most:g}; scale them to 0 to 1 or 0 to 255")
    return float(next(white for white in _WHITES if most <= white))
