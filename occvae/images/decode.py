"""Stored images to tensors: what `load_image` makes of them, in less than half the time."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from occvae.images.io import WHITE, composite, load_image

# Parts of the names of what `load_image` honours and ordinary images do not have: notes of how
# the camera was held, and a transparent color.
_SPECIAL = ("exif", "xmp", "transparency")


def decode_image(
    content: bytes, image_size: int, *, mirrored: bool = False, background_gray: int = WHITE
) -> Tensor:
    """Decodes an image of any size and mode into a square on the background, see `load_image`.

    Ordinary images are resized by torch, three times as fast as by Pillow and within one gray
    level of it; whatever is special about a file is left to `load_image`.

    Args:
        content: encoded bytes.
        image_size: edge of the result in pixels.
        mirrored: left and right exchanged.
        background_gray: a gray, 0 to 255.

    Returns:
        (3, image_size, image_size) uint8 RGB.

    Raises:
        UserError: it is not an image.
    """
    pixels = _decode_ordinary(content, background_gray)
    if pixels is None:
        pixels = load_image(content, image_size, background_gray).copy()
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if mirrored:
        image = image.flip(-1)  # before it is resized, because it is smaller then
    return _pad_to_square(image, image_size, mirrored, background_gray)


def _decode_ordinary(content: bytes, background_gray: int = WHITE) -> np.ndarray | None:
    """(H, W, 3) uint8, or None where `load_image` is needed, be it to say what is wrong."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception:  # decoders raise all sorts of things on damaged files
        return None
    if image.format not in ("PNG", "JPEG", "WEBP") or image.mode not in ("RGB", "RGBA"):
        return None
    if any(mark in key.lower() for key in map(str, image.info) for mark in _SPECIAL):
        return None
    return np.array(composite(image, background_gray))


def _pad_to_square(
    image: Tensor, edge: int, mirrored: bool, background_gray: int = WHITE
) -> Tensor:
    scale = edge / max(image.shape[1:])
    height, width = (max(1, round(length * scale)) for length in image.shape[1:])
    if image.shape[1:] != (height, width):
        image = interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    if height == width:
        return image
    square = image.new_full((3, edge, edge), background_gray)
    top, left = (edge - height) // 2, (edge - width + mirrored) // 2  # an odd pixel is mirrored too
    square[:, top : top + height, left : left + width] = image
    return square
