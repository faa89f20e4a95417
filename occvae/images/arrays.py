"""Arrays and tensors as Pillow images."""

import sys
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from PIL import Image

from occvae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_CHANNELS = (1, 3, 4)
_LAYOUTS = "(H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4"
# Resizing by splines leaves [0, 1] by a little.
_TOLERANCE = 0.01


def is_tensor(value: object) -> "TypeGuard[Tensor]":
    """Whether a value is a tensor. Does not import torch, which takes most of a second."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def array_to_image(values: "np.ndarray | Tensor") -> Image.Image:
    """Converts pixels to a Pillow image.

    Args:
        values: uint8, or floating point in [0, 1]. (H, W), (H, W, C) or (C, H, W), where one
            channel is gray, three are RGB and four are RGBA.

    Raises:
        UserError: The dtype, shape or values are others, or the shape fits both (H, W, C) and
            (C, H, W).
    """
    if is_tensor(values):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    pixels = _to_uint8(_channels_last(np.asarray(values)))
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def check_unit_range(least: float, most: float) -> None:
    """Raises a UserError unless floating point pixels from `least` to `most` are in [0, 1]."""
    if not (least >= -_TOLERANCE and most <= 1 + _TOLERANCE):  # also for NaN
        raise UserError(
            f"floating point images must have values in [0, 1], got {least:g} to {most:g}; "
            "divide by 255, or undo the normalization"
        )


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Returns (H, W, C) from any of the accepted layouts."""
    if array.ndim == 2 and array.size:
        return array[:, :, None]
    first, last = (array.ndim == 3 and array.shape[axis] in _CHANNELS for axis in (0, -1))
    if array.size == 0 or not (first or last):
        several = "; give several images as a list" * (array.ndim > 3)
        raise UserError(f"an image is {_LAYOUTS}, got shape {array.shape}{several}")
    if first and last:
        raise UserError(
            f"shape {array.shape} may be (H, W, C) or (C, H, W); give a Pillow image instead"
        )
    return array if last else array.transpose(1, 2, 0)


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"images must be uint8 or floating point in [0, 1], got {array.dtype}; convert it"
        )
    check_unit_range(float(array.min()), float(array.max()))
    return np.ascontiguousarray((array * 255.0).round().clip(0, 255).astype(np.uint8))
