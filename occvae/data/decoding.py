"""Stored pictures to tensors: what `load_image` makes of them, in less than half the time."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from occvae.data.images import load_image

# Parts of the names of what `load_image` honours and ordinary pictures do not have: notes of how
# the camera was held, and a transparent colour.
_SPECIAL = ("exif", "xmp", "transparency")


def decode_picture(content: bytes, image_size: int, *, mirrored: bool = False) -> Tensor:
    """Decodes a picture of any size and mode into a square on white, see `load_image`.

    Ordinary pictures are resized by torch, three times as fast as by Pillow and within one grey
    level of it; whatever is special about a file is left to `load_image`.

    Args:
        content: encoded bytes.
        image_size: edge of the result in pixels.
        mirrored: left and right exchanged.

    Returns:
        (3, image_size, image_size) uint8 RGB.

    Raises:
        UserError: it is not a picture.
    """
    pixels = _decode_ordinary(content)
    if pixels is None:
        pixels = load_image(content, image_size).copy()
    picture = torch.from_numpy(pixels).permute(2, 0, 1)
    if mirrored:
        picture = picture.flip(-1)  # before it is resized, because it is smaller then
    return _fit_in_square(picture, image_size, mirrored)


def _decode_ordinary(content: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8, or None where `load_image` is needed, be it to say what is wrong."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
    except Exception:  # decoders raise all sorts of things on damaged files
        return None
    if picture.format not in ("PNG", "JPEG", "WEBP") or picture.mode not in ("RGB", "RGBA"):
        return None
    if any(mark in key.lower() for key in map(str, picture.info) for mark in _SPECIAL):
        return None
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture).convert("RGB")
    return np.array(picture)


def _fit_in_square(picture: Tensor, edge: int, mirrored: bool) -> Tensor:
    scale = edge / max(picture.shape[1:])
    height, width = (max(1, round(length * scale)) for length in picture.shape[1:])
    if picture.shape[1:] != (height, width):
        picture = interpolate(picture[None], (height, width), mode="bilinear", antialias=True)[0]
    if height == width:
        return picture
    square = picture.new_full((3, edge, edge), 255)
    top, left = (edge - height) // 2, (edge - width + mirrored) // 2  # an odd pixel is mirrored too
    square[:, top : top + height, left : left + width] = picture
    return square
