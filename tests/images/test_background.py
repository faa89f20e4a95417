"""Plain backgrounds are removed with pixel accuracy. Other backgrounds are rejected."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from occvae.errors import UserError
from occvae.images import background
from occvae.images.background import BorderNotPlainError, remove_background, remove_with_rembg
from tests.photographs import ellipse, photograph

SIZE = 400
OBJECT = ellipse(SIZE, (0.5, 0.45), (0.3, 0.2))


def mask_iou(cut_out: Image.Image, mask: np.ndarray) -> float:
    assert cut_out.mode == "RGBA" and cut_out.size == mask.shape[::-1]
    found = np.asarray(cut_out)[..., 3] >= 128
    return (found & mask).sum() / (found | mask).sum()


GRAY = dict(color=(110, 112, 115), surroundings=((205, 203, 198), (165, 160, 155)))


@pytest.mark.parametrize(
    "scene",
    [
        dict(noise=0.0),
        dict(noise=6.0),
        dict(shadow=0.5),
        dict(GRAY),
        GRAY | dict(shadow=0.3),
        dict(surroundings=((20, 20, 22), (40, 38, 36)), color=(120, 130, 60)),
        dict(surroundings=((255, 255, 255), (235, 235, 238)), color=(60, 70, 110), shadow=0.25),
    ],
)
def test_only_the_object_remains(scene):
    assert mask_iou(remove_background(photograph(OBJECT, **scene)), OBJECT) > 0.95


def test_jpeg_noise_does_not_matter():
    buffer = io.BytesIO()
    photograph(OBJECT, shadow=0.5).save(buffer, "JPEG", quality=60)
    assert mask_iou(remove_background(Image.open(buffer)), OBJECT) > 0.95


def test_background_inside_a_hole_is_removed():
    ring = OBJECT & ~ellipse(SIZE, (0.5, 0.45), (0.15, 0.1))
    assert mask_iou(remove_background(photograph(ring)), ring) > 0.95


def test_thin_legs_in_small_images_remain():
    table = ellipse(160, (0.4, 0.5), (0.1, 0.3))
    table[64:120, 50:52] = table[64:120, 108:110] = True
    assert mask_iou(remove_background(photograph(table)), table) > 0.99
    assert mask_iou(remove_background(photograph(table, shadow=0.5)), table) > 0.9


def test_dust_is_removed():
    dusty = OBJECT | ellipse(SIZE, (0.1, 0.9), (0.008, 0.008))
    assert mask_iou(remove_background(photograph(dusty)), OBJECT) > 0.95


def test_an_object_may_touch_the_border():
    low = ellipse(SIZE, (0.8, 0.5), (0.3, 0.2))
    assert mask_iou(remove_background(photograph(low)), low) > 0.95


def test_large_images_are_reduced_first():
    mask = ellipse(500, (0.5, 0.5), (0.3, 0.2))[:400]
    cut_out = remove_background(photograph(mask, shadow=0.5).resize((2500, 2000)))
    assert cut_out.size == (1024, 819)
    small = np.asarray(Image.fromarray(mask).resize(cut_out.size))
    assert mask_iou(cut_out, small) > 0.95


def test_a_rendering_on_white_keeps_its_pixels():
    mask = ellipse(137, (0.5, 0.5), (0.35, 0.25))
    white = ((255, 255, 255), (255, 255, 255))
    image = photograph(mask, color=(200, 205, 215), surroundings=white, noise=0.0)
    soft = image.resize((68, 68), Image.Resampling.BILINEAR)
    cut_out = remove_background(soft)
    alpha = np.asarray(cut_out)[..., 3]
    assert set(np.unique(alpha)) == {0, 255}
    np.testing.assert_array_equal(np.asarray(cut_out)[..., :3], np.asarray(soft))
    assert (np.asarray(soft)[alpha == 0] >= 240).all()


def stripes() -> np.ndarray:
    return np.where(np.arange(SIZE)[:, None, None] < 200, [220, 220, 215], [90, 60, 40])


@pytest.mark.parametrize(
    "pixels",
    [
        np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)),
        np.broadcast_to(stripes(), (SIZE, SIZE, 3)),
        np.broadcast_to(stripes().transpose(1, 0, 2), (SIZE, SIZE, 3)),
    ],
    ids=["carpet", "wall and floor", "corner"],
)
def test_other_borders_are_refused(pixels):
    image = Image.fromarray(pixels.astype(np.uint8))
    with pytest.raises(BorderNotPlainError, match="the border of the image is not plain"):
        remove_background(image)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (300, 200), (255, 255, 255)),
        Image.new("RGB", (1, 1), (3, 4, 5)),
        Image.new("RGB", (2, 900), (3, 4, 5)),
        photograph(np.zeros((SIZE, SIZE), bool)),
    ],
    ids=["white", "one pixel", "thread", "background_gray"],
)
def test_background_alone_is_refused(image):
    with pytest.raises(UserError, match="shows nothing but its background"):
        remove_background(image)


@pytest.fixture
def no_session():
    background._rembg_session.cache_clear()
    yield
    background._rembg_session.cache_clear()


def test_rembg_is_used_if_installed(monkeypatch, no_session):
    sessions, used = [], []

    def new_session():
        sessions.append("net")
        return "net"

    def remove(image, session):
        used.append(session)
        image = image.copy()
        image.putalpha(7)
        return image

    working = SimpleNamespace(new_session=new_session, remove=remove)
    monkeypatch.setitem(sys.modules, "rembg", working)
    for _ in range(2):
        cut_out = remove_with_rembg(Image.new("RGB", (5, 4)))
        assert cut_out.mode == "RGBA" and cut_out.getpixel((0, 0))[3] == 7
    assert sessions == ["net"] and used == ["net", "net"]  # the network is loaded once


def test_failures_of_rembg_give_one_line(monkeypatch, no_session):
    def new_session():
        raise ConnectionError("no network")

    failing = SimpleNamespace(new_session=new_session, remove=None)
    monkeypatch.setitem(sys.modules, "rembg", failing)
    with pytest.raises(UserError, match=r"rembg failed \(no network\)"):
        remove_with_rembg(Image.new("RGB", (5, 4)))
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(UserError, match="needs rembg: pip install"):
        remove_with_rembg(Image.new("RGB", (5, 4)))
