"""From a person's image to what a model was trained on: one object, of familiar size, on a plain
background."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from occvae.errors import UserError
from occvae.images.background import BorderNotPlainError, remove_background, remove_with_rembg
from occvae.images.io import WHITE, composite, open_image, pad_to_square

BACKGROUNDS = ("auto", "keep", "remove", "rembg")

# The longer edge of the object's bounding box as a share of the frame. Of 1650 training views of
# 330 ModelNet10 shapes, rendered as `occvae.visualize.rendering` does, the median is 0.70, and 98 %
# lie between 0.52 and 0.90; the center of the box is within 0.11 of the middle of the frame.
OBJECT_SHARE = 0.70
USUAL_SHARES = (0.52, 0.90)
USUAL_OFFSET = 0.11
# What is fainter than this is no part of the object.
_OPAQUE = 32
# An object that is cut out has at least this share of the image transparent around it. Rounded
# corners or a soft edge are no cut-out.
_LEAST_TRANSPARENT = 0.05


class PreparedImage(NamedTuple):
    pixels: np.ndarray
    """(S, S, 3) uint8 RGB: what the model sees."""
    note: str
    """What was done and what could not be, in a phrase; empty where nothing was."""


def prepare_image(
    source: str | Path | bytes,
    image_size: int,
    background: str = "auto",
    background_gray: int = WHITE,
) -> PreparedImage:
    """Reads an image and brings it into the form of training views.

    An object that is cut out, by the image's own transparency or here, is composited on
    `background_gray`. It is framed so that its longer edge takes `OBJECT_SHARE` of the frame,
    unless it already stands in the frame as in training views. Other images are only made square,
    as `load_image` does. An image that is transparent in few places, or in few places along its
    border, does not count as cut out and is first composited on white.

    Args:
        source: path or encoded bytes.
        image_size: S, edge of the result in pixels.
        background: `keep` leaves the image as it is; `auto` cuts the object out where the image
            has not done so and its border is plain; `remove` refuses other borders; `rembg` cuts
            it out with the library of that name.
        background_gray: the model's gray, 0 to 255.

    Raises:
        UserError: no image, or no object in it; with `remove` a border that is not plain; with
            `rembg` no such library.
    """
    if background not in BACKGROUNDS:
        raise UserError(f"unknown background {background!r}; choose from {', '.join(BACKGROUNDS)}")
    image = open_image(source)
    if background == "keep":
        return PreparedImage(np.asarray(pad_to_square(image, image_size, background_gray)), "")
    try:
        cut_out, note = _cut_out(image, background)
        if cut_out is None:
            return PreparedImage(
                np.asarray(pad_to_square(image, image_size, background_gray)), note
            )
        framed, moved = frame_object(cut_out, image_size, background_gray)
    except UserError as error:
        raise UserError(f"{'image' if isinstance(source, bytes) else source}: {error}") from None
    notes = [note] * bool(note) + ["framed anew"] * moved
    return PreparedImage(np.asarray(framed), ", ".join(notes))


def frame_object(
    image: Image.Image, image_size: int, background_gray: int = WHITE
) -> tuple[Image.Image, bool]:
    """Lays a cut-out object on the background, as large and as central as in training views.

    Args:
        image: RGBA.
        image_size: edge of the result in pixels.
        background_gray: a gray, 0 to 255.

    Returns:
        An RGB square, and whether the object was moved or scaled in its frame.

    Raises:
        UserError: everything is transparent.
    """
    seen = image.getchannel("A").point(lambda alpha: 255 * (alpha >= _OPAQUE))
    box = seen.getbbox()
    if box is None:
        raise UserError("is transparent everywhere")
    if _stands_as_usual(box, image.size):
        return pad_to_square(image, image_size, background_gray), False
    left, top, right, bottom = box
    edge = max(right - left, bottom - top) / OBJECT_SHARE
    # Cropped to the box before it is scaled, so that little is scaled whatever the frame was.
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
    edge = max(size)  # of the square that the image is padded to
    share = max(right - left, bottom - top) / edge
    offset = max(abs(left + right - size[0]), abs(top + bottom - size[1])) / (2 * edge)
    return USUAL_SHARES[0] <= share <= USUAL_SHARES[1] and offset <= USUAL_OFFSET


def _cut_out(image: Image.Image, background: str) -> tuple[Image.Image | None, str]:
    """The object with transparency around it, or None where it stays as it is; and a note."""
    if image.mode == "RGBA" and _is_cut_out(np.asarray(image.getchannel("A"))):
        return image, ""
    image = composite(image)
    if background == "rembg":
        return remove_with_rembg(image), "background removed"
    try:
        return remove_background(image), "background removed"
    except BorderNotPlainError as error:
        if background == "remove":
            raise UserError(f"{error}; choose keep or rembg") from None
        return None, str(error)


def _is_cut_out(alpha: np.ndarray) -> bool:
    """Whether a real share of (H, W) uint8 is transparent, and most of its border."""
    transparent = alpha < _OPAQUE
    sides = (transparent[0], transparent[-1], transparent[:, 0], transparent[:, -1])
    border = np.concatenate(sides)
    return transparent.mean() >= _LEAST_TRANSPARENT and border.mean() > 0.5
