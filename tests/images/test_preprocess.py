"""Images are prepared like training views: an object on white, of the usual size."""

import io

import numpy as np
import pytest
from PIL import Image

from occvae.data.procedural import CATEGORIES, make_shape
from occvae.errors import UserError
from occvae.images import preprocess as preparation
from occvae.images.io import load_square_image
from occvae.images.preprocess import (
    OBJECT_SHARE,
    USUAL_OFFSET,
    USUAL_SHARES,
    frame_object,
    prepare_image,
)
from occvae.visualize.rendering import random_extrinsics, render_views
from tests.photographs import ellipse, photograph

EDGE = 128


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def cut_out(mask: np.ndarray, color: tuple[int, int, int] = (200, 60, 40)) -> Image.Image:
    image = Image.new("RGB", mask.shape[::-1], color)
    image.putalpha(Image.fromarray(mask.astype(np.uint8) * 255))
    return image


def object_box(pixels: np.ndarray) -> np.ndarray:
    """(top, bottom, left, right) of all pixels that are not white, as shares of the frame."""
    seen = (pixels < 250).any(axis=-1)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]) / len(pixels)


@pytest.mark.parametrize("center", [(0.2, 0.7), (0.5, 0.5), (0.85, 0.1)])
@pytest.mark.parametrize("radii", [(0.1, 0.03), (0.04, 0.1)])
def test_objects_are_framed_as_in_training(center, radii):
    prepared = prepare_image(encode(cut_out(ellipse(600, center, radii))), EDGE)
    top, bottom, left, right = object_box(prepared.pixels)
    assert max(bottom - top, right - left) == pytest.approx(OBJECT_SHARE, abs=2 / EDGE)
    seen_ratio = (bottom - top) / (right - left)
    assert seen_ratio == pytest.approx(radii[0] / radii[1], rel=0.1) or center[0] > 0.8
    assert top + bottom == pytest.approx(1, abs=2 / EDGE)
    assert left + right == pytest.approx(1, abs=2 / EDGE)
    assert prepared.note == "scaled and centered"


def test_objects_framed_as_in_training_are_not_moved():
    image = cut_out(ellipse(300, (0.53, 0.47), (0.33, 0.2)))
    prepared = prepare_image(encode(image), EDGE)
    np.testing.assert_array_equal(prepared.pixels, load_square_image(encode(image), EDGE))
    assert prepared.note == ""
    for center, radius in (((0.7, 0.5), 0.3), ((0.5, 0.5), 0.2), ((0.5, 0.5), 0.49)):
        _, moved = frame_object(cut_out(ellipse(300, center, (radius, radius))), EDGE)
        assert moved, (center, radius)


def test_the_constants_describe_our_training_views():
    rng = np.random.default_rng(0)
    shares, offsets = [], []
    for category in list(CATEGORIES)[:6]:
        for number in range(2):
            vertices, faces = make_shape(category, number).mesh()
            views = render_views(vertices, faces, random_extrinsics(rng, 4), 96)
            for view in views:
                top, bottom, left, right = object_box(view)
                shares.append(max(bottom - top, right - left))
                offsets.append(max(abs(top + bottom - 1), abs(left + right - 1)) / 2)
    assert np.median(shares) == pytest.approx(OBJECT_SHARE, abs=0.06)
    assert USUAL_SHARES[0] < np.median(shares) < USUAL_SHARES[1]
    assert np.mean(np.array(offsets) <= USUAL_OFFSET) > 0.9


def test_photographs_are_cut_out_and_framed():
    mask = ellipse(500, (0.4, 0.6), (0.15, 0.1))
    prepared = prepare_image(encode(photograph(mask, shadow=0.5), "JPEG", quality=85), EDGE)
    assert prepared.note == "background removed, scaled and centered"
    expected, _ = frame_object(cut_out(mask), EDGE)
    found, truth = (prepared.pixels < 250).any(-1), (np.asarray(expected) < 250).any(-1)
    assert (found & truth).sum() / (found | truth).sum() > 0.93
    assert (prepared.pixels[0] == 255).all() and (prepared.pixels[:, 0] == 255).all()


def test_a_phone_image_of_4000_pixels_is_turned_upright():
    mask = ellipse(1000, (0.4, 0.5), (0.16, 0.08))[:750]
    upright = photograph(mask, noise=2.0).resize((4000, 3000))
    exif = Image.Exif()
    exif[0x0112] = 6  # "the top of the scene is on the right of what is stored"
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    found = prepare_image(encode(stored, "JPEG", exif=exif, quality=90), EDGE)
    expected = prepare_image(encode(upright, "BMP"), EDGE)
    assert found.note == expected.note == "background removed, scaled and centered"
    top, bottom, left, right = object_box(found.pixels)
    assert bottom - top == pytest.approx(2 * (right - left), rel=0.1)
    assert np.abs(found.pixels.astype(int) - expected.pixels).mean() < 2


def rounded(height: int, width: int, radius: int) -> np.ndarray:
    """Alpha of a screenshot that shows a window with rounded corners."""
    y, x = np.ogrid[:height, :width]
    beyond = [
        np.maximum(radius - place, place - (size - 1 - radius)).clip(min=0)
        for place, size in ((y, height), (x, width))
    ]
    return np.where(np.hypot(*beyond) > radius, 0, 255).astype(np.uint8)


def one_corner(height: int, width: int) -> np.ndarray:
    alpha = np.full((height, width), 255, np.uint8)
    alpha[0, -1] = 0
    return alpha


@pytest.mark.parametrize(
    "alpha",
    [one_corner(400, 500), np.full((400, 500), 254, np.uint8), rounded(400, 500, 20)],
    ids=["one corner", "hardly", "rounded"],
)
def test_little_transparency_does_not_count_as_cut_out(alpha):
    """Otherwise the whole rectangle would be framed as the object."""
    mask = ellipse(500, (0.45, 0.6), (0.15, 0.1))[:400]
    opaque = photograph(mask)
    transparent = opaque.copy()
    transparent.putalpha(Image.fromarray(alpha))
    prepared = prepare_image(encode(transparent), EDGE)
    expected = prepare_image(encode(opaque), EDGE)
    assert prepared.note == expected.note == "background removed, scaled and centered"
    assert np.abs(prepared.pixels.astype(int) - expected.pixels).mean() < 1


@pytest.mark.parametrize("radius", [0.1, 0.33])
@pytest.mark.parametrize("background", ["auto", "keep"])
def test_cut_outs_are_composited_on_the_models_gray(radius, background):
    """Whether framed, not moved, or kept."""
    image = encode(cut_out(ellipse(300, (0.5, 0.5), (radius, radius))))
    on_white = prepare_image(image, EDGE, background).pixels
    on_gray = prepare_image(image, EDGE, background, 240).pixels
    behind = (on_white == 255).all(axis=-1)
    assert behind.any() and (on_gray[behind] == 240).all()
    inside = (on_white == (200, 60, 40)).all(axis=-1)
    assert inside.any() and np.array_equal(on_gray[inside], on_white[inside])


def test_transparency_without_cut_out_becomes_white():
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.putalpha(Image.fromarray(rounded(90, 120, 8)))
    prepared = prepare_image(encode(image), EDGE)
    np.testing.assert_array_equal(prepared.pixels, load_square_image(encode(image), EDGE))
    assert prepared.warning.startswith("background not removed")


def test_backgrounds_that_are_not_plain_are_kept_or_refused():
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    image = encode(Image.fromarray(noise))
    prepared = prepare_image(image, EDGE)
    np.testing.assert_array_equal(prepared.pixels, load_square_image(image, EDGE))
    assert prepared.warning == "background not removed: the border of the image is not plain"
    assert "\n" not in prepared.warning and prepared.note == ""
    with pytest.raises(UserError, match="^image: background not removed"):
        prepare_image(image, EDGE, "remove")


def test_keep_changes_nothing():
    for image in (photograph(ellipse(200, (0.3, 0.3), (0.1, 0.1))), Image.new("L", (5, 5), 9)):
        prepared = prepare_image(encode(image), EDGE, "keep")
        np.testing.assert_array_equal(prepared.pixels, load_square_image(encode(image), EDGE))
        assert prepared.note == ""


def test_rembg_cuts_out(monkeypatch):
    mask = ellipse(200, (0.3, 0.3), (0.1, 0.1))
    monkeypatch.setattr(preparation, "remove_with_rembg", lambda image: cut_out(mask))
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    prepared = prepare_image(encode(Image.fromarray(noise)), EDGE, "rembg")
    expected, _ = frame_object(cut_out(mask), EDGE)
    np.testing.assert_array_equal(prepared.pixels, np.asarray(expected))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGBA", (30, 20), (200, 0, 0, 0)), "is transparent everywhere"),
        (Image.new("RGBA", (30, 20), (200, 0, 0, 9)), "is transparent everywhere"),
        (Image.new("RGB", (30, 20), (255, 255, 255)), "shows nothing but its background"),
        (Image.new("L", (1, 1)), "shows nothing but its background"),
    ],
)
def test_errors_name_images_without_object(tmp_path, image, message):
    path = tmp_path / "nothing.png"
    image.save(path)
    with pytest.raises(UserError) as caught:
        prepare_image(path, EDGE)
    assert str(caught.value) == f"{path}: {message}"


def test_unknown_backgrounds_are_refused():
    with pytest.raises(UserError, match="unknown background 'magic'; choose from auto, keep"):
        prepare_image(b"", EDGE, "magic")
