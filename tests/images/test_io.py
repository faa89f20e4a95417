"""Images of any kind become square RGB images on white; errors are one line."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, features

from occvae.errors import UserError
from occvae.images.heif import register_heif
from occvae.images.io import composite, encode_png, load_square_image, open_image

WHITE = [255, 255, 255]


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def palette_image() -> Image.Image:
    """Left half color 0, right half color 1."""
    image = Image.new("P", (8, 8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (4, 0, 8, 8))
    return image


def gray16(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, np.uint16))


def test_png_round_trip_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load_square_image(encode_png(image), 16), image)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0))), WHITE),
        (encode(Image.new("RGBA", (8, 8), (255, 0, 0, 255))), [255, 0, 0]),
        (encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128))), [127, 127, 127]),
        (encode(Image.new("LA", (8, 8), (50, 0))), WHITE),
        (encode(Image.new("LA", (8, 8), (50, 255))), [50, 50, 50]),
        (encode(Image.new("L", (8, 8), 77)), [77, 77, 77]),
        (encode(Image.new("1", (8, 8), 1)), WHITE),
        (encode(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3)), WHITE),
        (encode(gray16(65535)), WHITE),
        (encode(gray16(257 * 60)), [60, 60, 60]),
        # Pillow's conversion to RGBA would clip this dark gray to white.
        (encode(gray16(257 * 60), transparency=5), [60, 60, 60]),
        (encode(gray16(257 * 60), transparency=257 * 60), WHITE),
        (encode(gray16(60)), [60, 60, 60]),  # 8, 10 and 12 bits in 16
        (encode(gray16(1023)), WHITE),
        (encode(gray16(2048)), [127, 127, 127]),
        (encode(gray16(4095), "TIFF"), WHITE),
        (encode(Image.fromarray(np.full((8, 8), 60, np.int32)), "TIFF"), [60, 60, 60]),
        (encode(Image.fromarray(np.full((8, 8), 60, np.float32)), "TIFF"), [60, 60, 60]),
        (encode(Image.fromarray(np.full((8, 8), 257 * 60, np.float32)), "TIFF"), [60, 60, 60]),
        (encode(Image.fromarray(np.full((8, 8), np.inf, np.float32)), "TIFF"), WHITE),
        (encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), [255, 0, 0]),
        (encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), [255, 0, 0]),
        (encode(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"), [127, 127, 127]),
        (encode(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), [0, 0, 0]),
        (encode(Image.fromarray(np.full((8, 8), 257 * 60, np.int32)), "TIFF"), [60, 60, 60]),
        (encode(Image.new("RGB", (1, 1), (9, 8, 7))), [9, 8, 7]),
    ],
)
def test_every_mode_becomes_rgb_over_white(content, expected):
    loaded = load_square_image(content, 8)
    assert loaded.shape == (8, 8, 3) and loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, np.broadcast_to(expected, (8, 8, 3)))


def test_opened_images_keep_their_size_and_transparency():
    opened = open_image(encode(palette_image(), transparency=0))
    assert (opened.mode, opened.size) == ("RGBA", (8, 8))
    assert opened.getpixel((0, 0))[3] == 0 and opened.getpixel((7, 7)) == (200, 100, 50, 255)
    np.testing.assert_array_equal(np.asarray(composite(opened))[0, 0], WHITE)
    assert open_image(encode(gray16(9))).mode == "RGB"


def test_all_values_of_an_image_have_one_scale():
    ramp = np.linspace(0, 4095, 64).reshape(8, 8)
    for values in (ramp.astype(np.uint16), ramp.astype(np.int32), (ramp / 4095).astype(np.float32)):
        loaded = load_square_image(encode(Image.fromarray(values), "TIFF"), 8)
        np.testing.assert_allclose(loaded[..., 0], ramp / 4095 * 255, atol=1)


def test_one_gray_value_of_16_bits_is_transparent():
    values = np.full((8, 8), 257 * 60, np.uint16)
    values[:, 4:] = 257 * 60 + 1  # the same value in 8 bits
    opened = open_image(encode(Image.fromarray(values), transparency=257 * 60 + 1))
    assert opened.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(opened)[..., 3], [[255] * 4 + [0] * 4] * 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((8, 8), -1, np.int32), "gray values from -1 to -1; scale them to 0 to 255"),
        (np.full((8, 8), 65536, np.int32), "gray values from 65536 to 65536; scale"),
        (np.full((8, 8), -0.5, np.float32), "gray values from -0.5 to -0.5; scale"),
        (np.full((8, 8), 1.5, np.float32), "floating point values up to 1.5; scale them to 0 to 1"),
    ],
)
def test_values_of_an_unknown_range_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif: {message}"):
        open_image(tmp_path / "a.tif")


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    register_heif.cache_clear()
    yield
    register_heif.cache_clear()


@pytest.mark.usefixtures("without_heif")
@pytest.mark.parametrize("brand", [b"heic", b"hevc", b"mif1"])
def test_heic_names_the_package_it_needs(tmp_path, brand):
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(HEIC.replace(b"ftypheic", b"ftyp" + brand))
    for source, name in ((path, path), (path.read_bytes(), "image")):
        with pytest.raises(UserError) as caught:
            open_image(source)
        assert str(caught.value) == f"{name}: HEIC: pip install pillow-heif"


@pytest.mark.usefixtures("without_heif")
def test_other_media_of_the_same_container_are_not_heic():
    with pytest.raises(UserError, match="image: not an image"):
        open_image(b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2")


def test_heic_is_read_with_its_package():
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 100, 50))).save(buffer, quality=95)
    loaded = open_image(buffer.getvalue())
    assert (loaded.mode, loaded.size) == ("RGB", (64, 48))
    np.testing.assert_allclose(np.asarray(loaded)[24, 32], [200, 100, 50], atol=4)
    with pytest.raises(UserError, match="image: (damaged HEIC|cannot be read)"):
        open_image(HEIC)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_avif_is_read():
    content = encode(Image.new("RGB", (64, 48), (200, 100, 50)), "AVIF", quality=95)
    assert content[4:12] == b"ftypavif"
    loaded = open_image(content)
    np.testing.assert_allclose(np.asarray(loaded)[24, 32], [200, 100, 50], atol=4)


def test_palettes_with_transparency_are_read():
    loaded = load_square_image(encode(palette_image(), transparency=0), 8)
    np.testing.assert_array_equal(loaded[0, 0], WHITE)
    np.testing.assert_array_equal(loaded[7, 7], [200, 100, 50])


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (400, 200), (20, 10)])
def test_the_shorter_edge_is_padded_with_white(size):
    loaded = load_square_image(encode(Image.new("RGB", size, (0, 0, 0))), 40)
    expected = np.full((40, 40), 255)
    expected[10:30] = 0
    np.testing.assert_array_equal(
        loaded[..., 0], expected if size[0] > size[1] else expected.T, strict=False
    )


def test_transparency_is_composited_on_any_gray():
    half = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    half.paste((9, 8, 7, 255), (10, 0, 20, 10))
    loaded = load_square_image(encode(half), 20, background_gray=240)
    expected = np.full((20, 20, 3), 240)
    expected[5:15, 10:] = [9, 8, 7]
    np.testing.assert_array_equal(loaded[:, [0, 8, 11, 19]], expected[:, [0, 8, 11, 19]])


def test_a_long_panorama_needs_little_memory():
    loaded = load_square_image(encode(Image.new("L", (60_000, 1), 0)), 8)
    assert (loaded == 0).all(axis=(1, 2)).sum() == 1  # as a square it would take 10 GB


@pytest.mark.filterwarnings("error")
def test_images_of_the_largest_cameras_are_read(tmp_path):
    """Pillow itself would warn from 89 million pixels on."""
    path = tmp_path / "large.pbm"
    path.write_bytes(
        b"P4 10000 10000\n" + bytes(10_000 // 8 * 10_000)
    )  # one bit per pixel, all white
    loaded = load_square_image(path, 8)
    assert (loaded == 255).all()
    for height in (15_001, 100_000):
        path.write_bytes(b"P4 20000 %d\n" % height)
        with pytest.raises(UserError) as caught:
            load_square_image(path, 8)
        message = f"{path}: has more than 300 million pixels; make it smaller"
        assert str(caught.value) == message


def test_resizing_is_antialiased():
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * 255
    loaded = load_square_image(encode(Image.fromarray(checkers.astype(np.uint8))), 8)
    np.testing.assert_allclose(loaded, 127.5, atol=3)


# (row, column) of the stored image's red corner in the result, for each orientation.
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0))]
    + [(5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
def test_exif_orientation_is_applied(orientation, corner):
    image = Image.new("RGB", (8, 8))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_square_image(encode(image, exif=exif), 8)
    np.testing.assert_array_equal(loaded[corner], [255, 0, 0])
    assert (loaded[..., 0] == 255).sum() == 1


def test_errors_name_broken_files(tmp_path):
    whole = encode(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    )
    for name, content, message in (
        ("text.jpg", b"not an image at all", "not an image"),
        ("empty.png", b"", "not an image"),
        ("cut.png", whole[: len(whole) // 2], "cannot be read as an image"),
        ("missing.png", None, "no such file"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: {message}") as caught:
            load_square_image(path, 8)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow on odd TIFF tags
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_random_damage_raises_only_user_errors(format):
    rng = np.random.default_rng(1)
    whole = encode(Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)), format)
    for _ in range(30):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            assert load_square_image(bytes(damaged), 8).shape == (8, 8, 3)
        except UserError:
            pass
