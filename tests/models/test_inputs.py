"""`load_image` and `reconstruct` take images in any form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import occvae
from occvae.errors import UserError
from occvae.images.preprocess import prepare_image
from tests.fakes import CENTER, ball_model, tiny_voxel_model
from tests.photographs import ellipse, photograph

pytestmark = pytest.mark.filterwarnings("ignore:Ball has no fused kernels")
PHOTO = photograph(ellipse(120, (0.4, 0.5), (0.2, 0.15)), shadow=0.4)
RED = Image.new("RGB", (8, 8), (51, 0, 0))  # adds 0.2 to the ball's radius


@pytest.fixture
def path(tmp_path) -> Path:
    PHOTO.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def radius(mesh) -> float:
    return float(np.linalg.norm(mesh.vertices - CENTER, axis=1).mean())


def test_load_image_prepares_like_the_command(path):
    model = tiny_voxel_model(background_gray=240)
    image = occvae.load_image(path, model)
    expected = prepare_image(path, 64, background_gray=240).pixels
    assert image.shape == (3, 64, 64) and image.dtype == torch.float32
    np.testing.assert_array_equal((image * 255).round().permute(1, 2, 0), expected)
    kept = occvae.load_image(path, model, background="keep")
    assert not torch.equal(kept, image)


def test_all_forms_of_an_image_give_the_same_mesh(path):
    model = ball_model()
    pixels = np.asarray(PHOTO)
    forms = [
        path,
        str(path),
        path.read_bytes(),
        PHOTO,
        pixels,
        pixels / 255,
        pixels.transpose(2, 0, 1),
        torch.tensor(pixels),
        occvae.load_image(path, model),
        occvae.load_image(path, model)[None, None],
        [[path]],
    ]
    [expected] = model.reconstruct(str(path), 32)
    assert expected.is_watertight
    for form in forms:
        [mesh] = model.reconstruct(form, 32)
        np.testing.assert_array_equal(mesh.vertices, expected.vertices)


def test_a_list_has_objects_and_a_list_in_it_has_views():
    model = ball_model()
    black = torch.zeros(3, 8, 8)
    red = black.clone()
    red[0] = 0.1
    meshes = model.reconstruct([black, red], 32)
    assert [radius(mesh) for mesh in meshes] == pytest.approx([0.2, 0.3], abs=2e-3)
    meshes = model.reconstruct([[black, red], (red, red)], 32)
    assert [radius(mesh) for mesh in meshes] == pytest.approx([0.25, 0.3], abs=2e-3)


def test_voxel_models_take_the_same_forms(path):
    model = tiny_voxel_model("pix2vox-vae").eval()
    batch = occvae.load_image(path, model)[None, None]
    for options in ({"blocks": True}, {"blocks": True, "num_samples": 2}):
        torch.manual_seed(0)
        [expected] = model.reconstruct(batch, 32, 0.4, **options)
        torch.manual_seed(0)
        [found] = model.reconstruct(str(path), 32, 0.4, **options)
        pairs = (
            zip(found, expected, strict=True) if "num_samples" in options else [(found, expected)]
        )
        for one, other in pairs:
            np.testing.assert_array_equal(one.vertices, other.vertices)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("missing.jpg", "missing.jpg: no such file"),
        ([], "there are no images"),
        ([[]], "there are no images"),
        ([[RED, RED], [RED]], "the same number of views, got 1 to 2; reconstruct them one by one"),
        (
            torch.zeros(3, 8, 9),
            r"one prepared image \(3, 8, 8\) or a batch .* got \(3, 8, 9\); pre",
        ),
        (torch.zeros(2, 3, 8, 8), r"got \(2, 3, 8, 8\); prepare it with occvae.load_image"),
        (torch.full((3, 8, 8), 255.0), r"values in \[0, 1\], got 255 to 255"),
        (torch.full((1, 1, 3, 8, 8), 255.0), r"values in \[0, 1\], got 255 to 255"),
        (torch.full((1, 1, 3, 8, 8), torch.nan), r"values in \[0, 1\], got nan to nan"),
        (np.zeros((2, 8, 8, 3)), "give several images as a list"),
    ],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(UserError, match=message):
        ball_model().reconstruct(images, 32)


def test_a_background_that_is_not_removed_is_a_warning(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "street.png")
    with pytest.warns(UserWarning, match="street.png: background not removed: the border"):
        ball_model().reconstruct(tmp_path / "street.png", 32)
    with pytest.warns(UserWarning, match="image: background not removed"):
        occvae.load_image(noise, ball_model())
