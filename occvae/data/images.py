"""Reading pictures: any file a person has becomes a square RGB picture on white."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from occvae.errors import UserError


def load_image(source: str | Path | bytes, image_size: int) -> np.ndarray:
    """Reads a picture of any size and mode.

    A phone's note of how it was held is honoured, transparency is laid over white, the longer edge
    is resized with antialiasing and the shorter one padded with white: what training views look
    like.

    Args:
        source: path or encoded bytes.
        image_size: edge of the result in pixels.

    Returns:
        (image_size, image_size, 3) uint8 RGB.

    Raises:
        UserError: the file is missing or is not a picture.
    """
    name = "picture" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            picture.load()
            square = _fit_in_square(_over_white(ImageOps.exif_transpose(picture)), image_size)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a picture (expected PNG, JPEG, WebP, ...)") from None
    except Exception as error:  # decoders raise all sorts of things on damaged files
        raise UserError(f"{name}: cannot be read as a picture ({error})") from None
    return np.asarray(square)


def encode_png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 to the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _over_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # Pillow's own conversion clips at 255 instead of scaling.
        picture = Image.fromarray((np.asarray(picture) / 257.0).clip(0, 255).astype(np.uint8))
    elif picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _fit_in_square(picture: Image.Image, edge: int) -> Image.Image:
    # Resized before it is padded: the padded square of a long panorama could fill the memory.
    scale = edge / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    square = Image.new("RGB", (edge, edge), (255, 255, 255))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(resized, ((edge - width) // 2, (edge - height) // 2))
    return square
