"""`decode_image` gives what `load_square_image`, the slow reference, gives."""

import io

import numpy as np
import pytest
from PIL import Image

from occvae.errors import UserError
from occvae.images import decode as decoding
from occvae.images.decode import decode_image
from occvae.images.io import load_square_image


def scene(width: int, height: int) -> Image.Image:
    """RGBA: smooth colors, sharp edges and every amount of transparency."""
    y, x = np.mgrid[:height, :width]
    waves = [127.5 + 127.5 * np.sin(x / a + y / b) for a, b in ((5, 9), (17, 6), (11, -8))]
    waves.append((x + y) * 3 % 256)
    image = np.stack(waves, axis=-1).astype(np.uint8)
    image[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 30, 255)
    return Image.fromarray(image)


def encode(mode: str, format: str, size: tuple[int, int] = (61, 61), **options) -> bytes:
    image = scene(*size)
    image = image if mode == "RGBA" else image.convert("RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def difference(content: bytes, size: int, **options) -> int:
    found = decode_image(content, size, **options)
    assert found.shape == (3, size, size)
    expected = load_square_image(content, size, options.get("background_gray", 255))
    expected = expected[:, ::-1] if options.get("mirrored") else expected
    return np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected).max()


@pytest.mark.parametrize("size", [96, 61, 24])
@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("RGB", "PNG", {}),
        ("RGB", "JPEG", {"quality": 90}),
        ("RGB", "JPEG", {"quality": 60, "progressive": True}),
        ("RGB", "WEBP", {"lossless": True}),
    ],
)
def test_ordinary_images_are_within_one_gray_level(mode, format, options, size, monkeypatch):
    content = encode(mode, format, **options)
    assert difference(content, size) <= 1
    assert difference(content, size, mirrored=True) <= 1
    monkeypatch.setattr(decoding, "load_square_image", None)  # shows that the fast path was used
    decode_image(content, size)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("size", [96, 61, 24])
@pytest.mark.parametrize("background_gray", [255, 240])
def test_transparency_is_composited_on_the_background(format, size, background_gray):
    content = encode("RGBA", format, **({"lossless": True} if format == "WEBP" else {}))
    assert difference(content, size, background_gray=background_gray) <= 1
    assert difference(content, size, mirrored=True, background_gray=background_gray) <= 1


@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("P", "PNG", {"transparency": 0}),
        ("L", "PNG", {}),
        ("L", "JPEG", {}),
        ("LA", "PNG", {}),
        ("1", "PNG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {"transparency": (255, 0, 30)}),
        ("RGB", "GIF", {}),
        ("RGB", "BMP", {}),
        ("RGB", "TIFF", {}),
    ],
)
def test_special_images_equal_those_of_load_image(mode, format, options):
    content = encode(mode, format, **options)
    assert difference(content, 40) == 0
    assert difference(content, 40, mirrored=True) == 0


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert difference(encode("RGB", format, (40, 25), exif=exif), 30) <= 1


@pytest.mark.parametrize("size", [(90, 31), (20, 77), (31, 96), (400, 1)])
def test_oblong_images_are_padded_with_the_background(size):
    content = encode("RGB", "PNG", size)
    assert difference(content, 48) <= 1
    assert difference(content, 48, mirrored=True, background_gray=240) <= 1


def test_bytes_that_are_not_an_image_are_refused():
    for content in (b"", b"no image", encode("RGB", "PNG")[:200]):
        with pytest.raises(UserError, match="image: "):
            decode_image(content, 8)
