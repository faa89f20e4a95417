"""Prepares images like training views: one object on a plain background, framed as in training."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from occvae.errors import UserError
from occvae.images.background import BorderNotPlainError, remove_background, remove_with_rembg
from occvae.images.io import (
    WHITE,
    ImageSource,
    composite,
    open_image,
    pad_to_square,
    source_name,
)

BACKGROUNDS = ("auto", "keep", "remove", "rembg")

# Longer edge of the object's bounding box, as a share of the frame. In 1650 training views of 330
# ModelNet10 shapes, rendered by `occvae.visualize.rendering`, the median is 0.70, and 98 % are
# between 0.52 and 0.90. The center of the box is within 0.11 of the center of the frame.
OBJECT_SHARE = 0.70
USUAL_SHARES = (0.52, 0.90)
USUAL_OFFSET = 0.11
# Pixels with a smaller alpha are not part of the object.
_OPAQUE = 32
# An image counts as cut out if at least this share of it is transparent. Rounded corners and soft
# edges of screenshots are less.
_LEAST_TRANSPARENT = 0.05


class PreparedImage(NamedTuple):
    """What `prepare_image` returns."""

    pixels: np.ndarray
    """(S, S, 3) uint8 RGB, the input of the model."""
    note: str
    """What was changed, in a phrase; empty if nothing was."""
    warning: str = ""
    """Why the background was not removed, in a phrase; empty if there is nothing to warn of."""


def prepare_image(
    source: ImageSource,
    image_size: int,
    background: str = "auto",
    background_gray: int = WHITE,
) -> PreparedImage:
    """Reads an image and prepares it like training views.

    If the object is cut out, by the image's own transparency or by this function, it is composited
    on `background_gray`. It is then framed: scaled until its longer edge takes `OBJECT_SHARE` of
    the frame, and centered. An object with the usual size and position is not moved. Other images
    are only made square, as by `load_square_image`.

    An image counts as cut out if enough of it, and most of its border, is transparent. Any other
    image is composited on white before its background is removed.

    Args:
        source: See `occvae.images.io.ImageSource`.
        image_size: S, edge of the result in pixels.
        background: `auto` cuts the object out if the image is not cut out and its border is plain.
            If the border is not plain, it keeps the image and sets the `warning`. `remove` does
            the same, but raises if the border is not plain. `rembg` cuts it out with
            the library of that name. `keep` neither cuts out nor frames.
        background_gray: Gray level of the model's background, 0 to 255.

    Raises:
        UserError: The source is not an image, or shows no object. With `remove`, the border is not
            plain. With `rembg`, the library is not installed.
    """
    if background not in BACKGROUNDS:
        raise UserError(f"unknown background {background!r}; choose from {', '.join(BACKGROUNDS)}")
    image = open_image(source)
    if background == "keep":
        return PreparedImage(np.asarray(pad_to_square(image, image_size, background_gray)), "")
    try:
        cut_out, note = _cut_out(image, background)
        framed, moved = frame_object(cut_out, image_size, background_gray)
    except BorderNotPlainError as error:
        if background == "remove":
            raise UserError(f"{source_name(source)}: {error}; choose keep or rembg") from None
        square = pad_to_square(image, image_size, background_gray)
        return PreparedImage(np.asarray(square), "", str(error))
    except UserError as error:
        raise UserError(f"{source_name(source)}: {error}") from None
    notes = [note] * bool(note) + ["scaled and centered"] * moved
    return PreparedImage(np.asarray(framed), ", ".join(notes))


def frame_object(
    image: Image.Image, image_size: int, background_gray: int = WHITE
) -> tuple[Image.Image, bool]:
    """Composites a cut-out object on the background, with size and position of training views.

    Args:
        image: RGBA.
        image_size: Edge of the result in pixels.
        background_gray: Gray level of the background, 0 to 255.

    Returns:
        An RGB square, and whether the object was scaled or moved relative to its frame.

    Raises:
        UserError: The whole image is transparent.
    """
    seen = image.getchannel("A").point(lambda alpha: 255 * (alpha >= _OPAQUE))
    box = seen.getbbox()
    if box is None:
        raise UserError("is transparent everywhere")
    if _stands_as_usual(box, image.size):
        return pad_to_square(image, image_size, background_gray), False
    left, top, right, bottom = box
    edge = max(right - left, bottom - top) / OBJECT_SHARE
    # Crop to the box first, so that the cost of scaling does not depend on the empty frame.
    scale = image_size / edge
    size = [max(1, round(length * scale)) for length in (right - left, bottom - top)]
    framed = composite(image.crop(box), background_gray).resize(size, Image.Resampling.BILINEAR)
    square = Image.new(
        "RGB", (image_size, image_size), (background_gray, background_gray, background_gray)
    )
    square.paste(framed, ((image_size - size[0]) // 2, (image_size - size[1]) // 2))
    return square, True


def _stands_as_usual(box: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    edge = max(size)  # of the padded square
    share = max(right - left, bottom - top) / edge
    offset = max(abs(left + right - size[0]), abs(top + bottom - size[1])) / (2 * edge)
    return USUAL_SHARES[0] <= share <= USUAL_SHARES[1] and offset <= USUAL_OFFSET


def _cut_out(image: Image.Image, background: str) -> tuple[Image.Image, str]:
    """The object RGBA, and a note. Raises BorderNotPlainError if it cannot be cut out."""
    if image.mode == "RGBA" and _is_cut_out(np.asarray(image.getchannel("A"))):
        return image, ""
    image = composite(image)
    if background == "rembg":
        return remove_with_rembg(image), "background removed"
    return remove_background(image), "background removed"


def _is_cut_out(alpha: np.ndarray) -> bool:
    """Whether enough of an alpha channel (H, W) uint8 is transparent, and most of its border."""
    transparent = alpha < _OPAQUE
    sides = (transparent[0], transparent[-1], transparent[:, 0], transparent[:, -1])
    border = np.concatenate(sides)
    return transparent.mean() >= _LEAST_TRANSPARENT and border.mean() > 0.5
