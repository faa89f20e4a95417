"""Reading pictures: any file a person has becomes a square RGB picture without transparency."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from occvae.errors import UserError

# Phones take pictures of 200 million pixels. Pillow takes half of that for an attack, wherever a
# picture is opened or cropped.
MOST_PIXELS = 300_000_000
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
WHITE = 255


def load_image(source: str | Path | bytes, image_size: int, backdrop: int = WHITE) -> np.ndarray:
    """Reads a picture of any size and mode.

    A phone's note of how it was held is honoured, transparency is laid on the backdrop, the longer
    edge is resized with antialiasing and the shorter one padded with the backdrop: what training
    views look like.

    Args:
        source: path or encoded bytes.
        image_size: edge of the result in pixels.
        backdrop: a grey, 0 to 255.

    Returns:
        (image_size, image_size, 3) uint8 RGB.

    Raises:
        UserError: the file is missing or is not a picture.
    """
    return np.asarray(fit_in_square(open_picture(source), image_size, backdrop))


def open_picture(source: str | Path | bytes) -> Image.Image:
    """Reads a picture upright, of its own size, in mode RGB, or RGBA where it has transparency.

    Pictures of 16 bits are scaled to 8, and floating point ones from [0, 1].

    Args:
        source: path or encoded bytes.

    Raises:
        UserError: the file is missing, is not a picture, or has more than `MOST_PIXELS`.
    """
    name = "picture" if isinstance(source, bytes) else str(source)
    try:
        with _open(source) as picture:
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a picture (expected PNG, JPEG, WebP, ...)") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        most = f"{MOST_PIXELS // 1_000_000} million pixels"
        raise UserError(f"{name}: has more than {most}; make it smaller") from None
    except Exception as error:  # decoders raise all sorts of things on damaged files
        raise UserError(f"{name}: cannot be read as a picture ({error})") from None


def lay_on(picture: Image.Image, backdrop: int = WHITE) -> Image.Image:
    """RGB of a picture that `open_picture` read."""
    if picture.mode == "RGB":
        return picture
    plain = Image.new("RGBA", picture.size, (backdrop, backdrop, backdrop, 255))
    return Image.alpha_composite(plain, picture).convert("RGB")


def fit_in_square(picture: Image.Image, edge: int, backdrop: int = WHITE) -> Image.Image:
    """An RGB or RGBA picture in the middle of a square of `edge` pixels, antialiased."""
    # Resized before it is padded: the padded square of a long panorama could fill the memory.
    picture = lay_on(picture, backdrop)
    scale = edge / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    square = Image.new("RGB", (edge, edge), (backdrop, backdrop, backdrop))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(resized, ((edge - width) // 2, (edge - height) // 2))
    return square


def encode_png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 to the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _open(source: str | Path | bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _to_rgb(picture: Image.Image) -> Image.Image:
    # Pillow's own conversions clip at 255 instead of scaling.
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return _grey(np.asarray(picture) / 257.0)
    if picture.mode == "F":
        return _grey(np.nan_to_num(np.asarray(picture)) * 255.0)
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
