"""Decodes stored images for training, in less than half the time of `load_square_image`."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from occvae.images.io import WHITE, composite, load_square_image

# Substrings of metadata names that need `load_square_image`: orientation of the camera, and a
# transparent color.
_SPECIAL = ("exif", "xmp", "transparency")


def decode_image(
    content: bytes, image_size: int, *, mirrored: bool = False, background_gray: int = WHITE
) -> Tensor:
    """Decodes an image of any size and mode to a square, like `load_square_image`.

    Most images are resized by torch, which is three times as fast as Pillow. The result is within
    one gray level of `load_square_image`, which decodes rare modes, formats and metadata itself.

    Args:
        content: Encoded bytes.
        image_size: Edge of the result in pixels.
        mirrored: Whether to exchange left and right.
        background_gray: Gray level of the background, 0 to 255.

    Returns:
        (3, image_size, image_size) uint8 RGB.

    Raises:
        UserError: The bytes are not an image.
    """
    pixels = _decode_ordinary(content, background_gray)
    if pixels is None:
        pixels = load_square_image(content, image_size, background_gray).copy()
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if mirrored:
        image = image.flip(-1)  # before resizing, because stored views are mostly smaller
    return _pad_to_square(image, image_size, mirrored, background_gray)


def _decode_ordinary(content: bytes, background_gray: int = WHITE) -> np.ndarray | None:
    """Pixels (H, W, 3) uint8, or None if `load_square_image` must decode it or report its error."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception:  # decoders raise many kinds of errors on damaged files
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
    # `mirrored` decides on which side an odd pixel of padding is, so that it is mirrored too.
    top, left = (edge - height) // 2, (edge - width + mirrored) // 2
    square[:, top : top + height, left : left + width] = image
    return square
