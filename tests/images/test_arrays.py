"""Arrays and tensors in all layouts give the same image, and others are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from occvae.errors import UserError
from occvae.images.arrays import array_to_image
from occvae.images.io import open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64, torch.uint8, torch.float16])
def test_layouts_and_dtypes_give_the_same_image(channels, first, kind):
    pixels = PIXELS[:, :, :channels]
    given = pixels.transpose(2, 0, 1) if first else pixels
    floating = kind not in (np.uint8, torch.uint8)
    values = given / 255 if floating else given
    array = torch.tensor(values).to(kind) if isinstance(kind, torch.dtype) else values.astype(kind)
    image = array_to_image(array)
    assert image.mode == MODES[channels] and image.size == (5, 6)
    found = np.asarray(image).reshape(pixels.shape)
    np.testing.assert_allclose(found, pixels, atol=kind == torch.float16)


def test_two_dimensions_are_gray():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)  # neither side counts as channels
    np.testing.assert_array_equal(np.asarray(array_to_image(gray)), gray)


def test_tensors_with_gradients_and_bfloat16_are_read():
    values = torch.full((3, 2, 5), 0.5, requires_grad=True)
    assert array_to_image(values).getpixel((0, 0)) == (128, 128, 128)
    assert array_to_image(values.bfloat16()).getpixel((0, 0)) == (128, 128, 128)


def test_values_beyond_the_range_by_rounding_are_clipped():
    values = np.array([[-0.005, 1.005]])
    assert np.asarray(array_to_image(values)).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 6, 2), np.uint8), r"an image is \(H, W\), .* got shape \(5, 6, 2\)"),
        (np.zeros((2, 3, 6, 5)), r"got shape \(2, 3, 6, 5\); give several images as a list"),
        (np.zeros(7), r"got shape \(7,\)"),
        (np.zeros((0, 5, 3)), r"got shape \(0, 5, 3\)"),
        (np.zeros((0, 5)), r"got shape \(0, 5\)"),
        (np.zeros((3, 9, 3)), r"\(3, 9, 3\) may be \(H, W, C\) or \(C, H, W\); give a Pillow"),
        (np.zeros((6, 5, 3), np.uint16), "must be uint8 or floating point .* got uint16"),
        (np.zeros((6, 5, 3), bool), "got bool"),
        (np.zeros((6, 5, 3), complex), "got complex128"),
        (np.full((6, 5, 3), 255.0), r"values in \[0, 1\], got 255 to 255; divide by 255"),
        (np.full((6, 5, 3), -1.0), "got -1 to -1"),
        (np.full((6, 5, 3), np.nan), "got nan to nan"),
        (torch.zeros(6, 5, 3, dtype=torch.int64), "got int64"),
    ],
)
def test_other_arrays_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        array_to_image(values)


def test_a_pillow_image_is_read_and_stays_open(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(open_image(image)), PIXELS)
        assert image.getpixel((0, 0)) == tuple(PIXELS[0, 0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/chair.jpg", "chair.jpg: is an address; download the image"),
        (".", r"\.: is a folder; give an image file"),
        (None, "got a NoneType"),
        (3, "an image is a path, bytes, a Pillow image, an array or a tensor; got a int"),
    ],
)
def test_other_sources_are_refused(source, message):
    with pytest.raises(UserError, match=message):
        open_image(source)
