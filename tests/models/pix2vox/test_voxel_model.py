"""Predictions of voxel models: grids, points and meshes, also with missing views."""

import numpy as np
import pytest
import torch

from occvae.errors import UserError
from occvae.geometry.voxelize import cell_centers
from occvae.models.protocol import VoxelModel, VoxelOutput
from tests.fakes import CENTER, tiny_voxel_model

RADIUS = 0.3


class BallOfVoxels(VoxelModel):
    """A soft ball for each item, larger the more red its images are."""

    def __init__(self, resolution: int = 32, threshold: float = 0.5):
        super().__init__(image_size=8, resolution=resolution, threshold=threshold)

    def forward(self, images):
        assert not self.training and not torch.is_grad_enabled()
        distance = (cell_centers(self.resolution, images.device) - torch.tensor(CENTER)).norm(dim=1)
        radius = RADIUS * images.mean(dim=(1, 2, 3, 4))[:, None]
        edge = self.resolution
        volume = (8.0 * (radius - distance)).sigmoid().view(-1, edge, edge, edge)
        return VoxelOutput(volume, volume)


def make_images(*shades: float) -> torch.Tensor:
    return torch.stack([torch.full((1, 3, 8, 8), shade) for shade in shades])


@pytest.mark.parametrize("arch", ["pix2vox-a", "pix2voxpp-f", "pix2vox-vae", "pix2voxpp-vae"])
def test_missing_views_have_no_effect(arch):
    """Not even on batch norm statistics in training, whatever the pixels are."""
    model = tiny_voxel_model(arch).eval()
    mask = torch.tensor([[True, False, True], [False, True, False]])
    images = torch.rand(2, 3, 3, 64, 64)
    images[~mask] = torch.nan
    found = model.predict_voxels(images, view_mask=mask)
    torch.testing.assert_close(found[:1], model.predict_voxels(images[:1, [0, 2]]))
    torch.testing.assert_close(found[1:], model.predict_voxels(images[1:, 1:2]))
    model.train()
    assert model(images, mask).refined.isfinite().all()


@pytest.mark.parametrize(
    "arch", ["pix2vox-a", pytest.param("pix2voxpp-f", marks=pytest.mark.slow), "pix2vox-vae"]
)
def test_24_views_give_the_same_in_any_order(arch):
    model = tiny_voxel_model(arch, image_size=32 if arch == "pix2voxpp-f" else 64)
    images = torch.rand(1, 24, 3, 32, 32)
    found = model.predict_voxels(images)
    torch.testing.assert_close(found, model.predict_voxels(images.flip(1)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, model.predict_voxels(images[:, :1]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 2), r"view_mask must be bool \(1, 2\), got torch.float32"),
        (torch.ones(2, dtype=torch.bool), r"view_mask must be bool \(1, 2\)"),
        (torch.zeros(1, 2, dtype=torch.bool), "leaves an item without any view"),
    ],
)
def test_wrong_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        tiny_voxel_model().predict_voxels(torch.rand(1, 2, 3, 64, 64), view_mask=mask)


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match=r"images must be floating point \(B, V, 3, H, W\)"):
        tiny_voxel_model().predict_voxels(torch.rand(1, 3, 64, 64))


def test_other_resolutions_sample_the_same_field():
    model = BallOfVoxels()
    own = model.predict_voxels(make_images(1.0))
    assert own.shape == (1, 32, 32, 32)
    coarse = model.predict_voxels(make_images(1.0), 16)
    blocks = own.view(16, 2, 16, 2, 16, 2).mean(dim=(1, 3, 5))
    torch.testing.assert_close(coarse[0], blocks)
    points = cell_centers(16, own.device)[None]
    logits = model.predict_points(make_images(1.0), points)
    torch.testing.assert_close(logits.sigmoid().view_as(coarse), coarse, rtol=1e-4, atol=1e-5)


def test_points_far_outside_are_empty_and_finite():
    logits = BallOfVoxels().predict_points(make_images(1.0), torch.full((1, 2, 3), 0.55))
    assert (logits < -13).all() and logits.isfinite().all()


def test_each_item_gets_its_own_smooth_mesh():
    small, large = BallOfVoxels().reconstruct(make_images(0.6, 1.0), resolution=64)
    for mesh, radius in ((small, 0.6 * RADIUS), (large, RADIUS)):
        assert mesh.is_watertight
        found = np.linalg.norm(mesh.vertices - CENTER, axis=1)
        np.testing.assert_allclose(found, radius, atol=0.01)  # a third of a voxel
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)


@pytest.mark.parametrize("threshold", [None, 0.3, 0.7])
def test_the_threshold_moves_the_surface(threshold):
    model = BallOfVoxels(threshold=0.5)
    [mesh] = model.reconstruct(make_images(1.0), 64, threshold)
    used = 0.5 if threshold is None else threshold
    expected = RADIUS - np.log(used / (1 - used)) / 8.0
    found = np.linalg.norm(mesh.vertices - CENTER, axis=1)
    assert found.mean() == pytest.approx(expected, abs=0.005)
    with pytest.raises(UserError, match="threshold must be a probability"):
        model.reconstruct(make_images(1.0), 64, 1.5)


def test_blocks_are_the_occupied_voxels():
    model = BallOfVoxels()
    [mesh] = model.reconstruct(make_images(1.0), blocks=True)
    count = int((model.predict_voxels(make_images(1.0)) >= 0.5).sum())
    assert mesh.is_watertight and mesh.volume == pytest.approx(count / 32**3)


def test_predicting_restores_the_training_mode():
    model = tiny_voxel_model().train()
    model.encoder.backbone.eval()
    model.predict_voxels(torch.rand(1, 1, 3, 64, 64))
    assert model.training and model.refiner.training and not model.encoder.backbone.training
