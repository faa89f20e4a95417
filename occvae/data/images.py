"""Reading pictures: any file a person has becomes a square RGB picture on white."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from occvae.errors import UserError


def load_image(source: str | Path | bytes, image_size: int) -> np.ndarray:
    """Reads a picture of any size and mode.

    Transparency is laid over white, the shorter edge is padded with white, and the square is
    resized with antialiasing: what the training views look like.

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
            square = _pad_to_square(_over_white(picture))
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a picture (expected PNG, JPEG, WebP, ...)") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: cannot be read as a picture ({error})") from None
    if square.size != (image_size, image_size):
        square = square.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(square)


def encode_png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 to the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _over_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    elif picture.mode.startswith("I;16") or picture.mode == "I":
        picture = Image.fromarray((np.asarray(picture) / 257.0).clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")


def _pad_to_square(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if width == height:
        return picture
    edge = max(width, height)
    square = Image.new("RGB", (edge, edge), (255, 255, 255))
    square.paste(picture, ((edge - width) // 2, (edge - height) // 2))
    return square
