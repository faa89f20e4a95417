"""Reads images of any kind as square RGB images without transparency."""

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from occvae.errors import UserError
from occvae.images.arrays import array_to_image, is_tensor
from occvae.images.heif import FIRST_BYTES, describe_heif, register_heif
from occvae.images.high_range import gray_to_rgb, is_high_range

if TYPE_CHECKING:
    from torch import Tensor

# Phones take images of 200 million pixels. By default Pillow suspects an attack from 89 million on,
# whenever it opens or crops an image.
MOST_PIXELS = 300_000_000
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
WHITE = 255
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `Path` reduces // to /

_Encoded = str | Path | bytes
ImageSource: TypeAlias = Union[_Encoded, Image.Image, np.ndarray, "Tensor"]
"""An image: a path, encoded bytes, a Pillow image, or an array or tensor as `array_to_image` takes
it."""


def load_square_image(
    source: ImageSource, image_size: int, background_gray: int = WHITE
) -> np.ndarray:
    """Reads an image of any size and mode as a square, in the form of training views.

    The EXIF orientation is applied, and transparency is composited on the background. The image is
    resized with antialiasing until its longer edge fits. The shorter edge is padded with the
    background.

    Args:
        source: See `ImageSource`.
        image_size: Edge of the result in pixels.
        background_gray: Gray level of the background, 0 to 255.

    Returns:
        (image_size, image_size, 3) uint8 RGB.

    Raises:
        UserError: The file is missing or is not an image.
    """
    return np.asarray(pad_to_square(open_image(source), image_size, background_gray))


def open_image(source: ImageSource) -> Image.Image:
    """Reads an image in its own size, upright, in mode RGB, or RGBA if it has transparency.

    Gray values of more than 8 bits are scaled to 8 bits, see `high_range`.

    Args:
        source: See `ImageSource`.

    Raises:
        UserError: The file is missing, is not an image, or has more than `MOST_PIXELS`. An array
            or tensor is not an image.
    """
    if isinstance(source, np.ndarray) or is_tensor(source):
        return array_to_image(source)
    if not isinstance(source, _Encoded | Image.Image):
        raise UserError(
            f"an image is a path, bytes, a Pillow image, an array or a tensor; got a "
            f"{type(source).__name__}"
        )
    name = source_name(source)
    try:
        with _open(source) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        refuse_url(source)
        raise UserError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder; give an image file") from None
    except UnidentifiedImageError:
        kind = describe_heif(_first_bytes(source))
        raise UserError(
            f"{name}: {kind or 'not an image (expected PNG, JPEG, WebP, ...)'}"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        most = f"{MOST_PIXELS // 1_000_000} million pixels"
        raise UserError(f"{name}: has more than {most}; make it smaller") from None
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise UserError(f"{name}: cannot be read as an image ({error})") from None


def source_name(source: ImageSource) -> str:
    """Returns the path of an image, or "image" if it is not a file."""
    return str(source) if isinstance(source, str | Path) else "image"


def refuse_url(source: ImageSource) -> None:
    """Raises a UserError if the source is an address and not a path."""
    if isinstance(source, str | Path) and _URL.match(str(source)):
        raise UserError(f"{source}: is an address; download the image and give the file")


def composite(image: Image.Image, background_gray: int = WHITE) -> Image.Image:
    """Composites an image from `open_image` on a gray background and returns it as RGB."""
    if image.mode == "RGB":
        return image
    plain = Image.new("RGBA", image.size, (background_gray, background_gray, background_gray, 255))
    return Image.alpha_composite(plain, image).convert("RGB")


def pad_to_square(image: Image.Image, edge: int, background_gray: int = WHITE) -> Image.Image:
    """Resizes an RGB or RGBA image and centers it in a square of `edge` pixels."""
    # Resize first: the padded square of a long panorama could fill the memory.
    image = composite(image, background_gray)
    scale = edge / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (edge, edge), (background_gray, background_gray, background_gray))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(resized, ((edge - width) // 2, (edge - height) // 2))
    return square


def encode_png(image: np.ndarray) -> bytes:
    """Encodes pixels (H, W, 3) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _open(
    source: str | Path | bytes | Image.Image,
) -> contextlib.AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return contextlib.nullcontext(source)  # the caller's image stays open
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        except UnidentifiedImageError:
            if not register_heif():
                raise
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _to_rgb(image: Image.Image) -> Image.Image:
    if is_high_range(image):
        return gray_to_rgb(image)
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _first_bytes(source: str | Path | bytes | Image.Image) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, Image.Image):
        return b""
    with open(source, "rb") as file:
        return file.read(FIRST_BYTES)
