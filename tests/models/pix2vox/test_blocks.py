"""Parts of the networks against known answers."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from occvae.geometry.voxelize import cell_centers
from occvae.geometry.voxels_to_mesh import sample_volume
from occvae.models.pix2vox.blocks import (
    ContextMerger,
    MultiScaleMerger,
    Refiner,
    VolumeDecoder,
    merge,
    scaled,
)


def test_fusion_is_the_softmax_weighted_mean_of_the_existing_views():
    rng = np.random.default_rng(0)
    mask = np.array([[True, False, True, True], [False, True, False, False]])
    volumes, scores = rng.random((4, 2, 2, 2)), rng.normal(size=(4, 2, 2, 2))
    weights = np.exp(scores[:3]) / np.exp(scores[:3]).sum(axis=0)
    found = merge(*(torch.from_numpy(array) for array in (volumes, scores, mask)))
    np.testing.assert_allclose(found[0], (weights * volumes[:3]).sum(axis=0))
    np.testing.assert_allclose(found[1], volumes[3])  # a single view has weight 1


def test_fusion_does_not_depend_on_the_order_of_views():
    volumes, scores = torch.rand(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
    mask = torch.ones(1, 3, dtype=torch.bool)
    order = [2, 0, 1]
    torch.testing.assert_close(
        merge(volumes, scores, mask), merge(volumes[order], scores[order], mask)
    )


@pytest.mark.parametrize("merger", [ContextMerger, MultiScaleMerger])
def test_a_views_scores_do_not_depend_on_other_views(merger):
    merger = merger().eval()
    raw = torch.rand(3, 9, 8, 8, 8)
    alone = torch.cat([merger(view[None]) for view in raw])
    torch.testing.assert_close(merger(raw), alone, rtol=1e-4, atol=1e-5)
    assert alone.shape == (3, 1, 8, 8, 8)


def test_the_multi_scale_merger_has_a_larger_receptive_field():
    """Six convolutions of 3^3 reach 6 voxels in each direction."""
    merger = MultiScaleMerger().eval()
    raw = torch.rand(1, 9, 17, 17, 17).requires_grad_()
    merger(raw)[0, 0, 8, 8, 8].backward()
    reached = raw.grad[0].abs().sum(dim=(0, 2, 3)) > 0
    assert reached.nonzero().flatten().tolist() == list(range(2, 15))


def test_the_decoder_starts_from_a_cube_of_two():
    decoder = VolumeDecoder(128, (16, 8, 8, 8), 32)
    assert decoder.start_channels == 16
    maps, logits = decoder(torch.rand(2, 128))
    assert maps.shape == (2, 8, 32, 32, 32) and logits.shape == (2, 1, 32, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decoder(torch.rand(2, 128))[1].dtype == torch.float32


def test_the_refiner_returns_the_mean_of_volume_and_correction():
    refiner = Refiner(32, 0.1).eval()
    volume = torch.rand(2, 32, 32, 32)
    nn.init.zeros_(refiner.to_volume.weight)
    torch.testing.assert_close(refiner(volume), 0.5 * (volume + 0.5))


@pytest.mark.parametrize(("width", "expected"), [(1.0, 512), (0.25, 128), (0.001, 8), (0.03, 16)])
def test_widths_are_multiples_of_eight(width, expected):
    assert scaled(512, width) == expected


def test_sampling_is_trilinear_between_cell_centers_and_zero_outside():
    rng = np.random.default_rng(1)
    volume, points = rng.random((2, 6, 6, 6)), rng.uniform(-0.65, 0.65, (2, 400, 3))
    expected = [
        map_coordinates(grid, (where.T + 0.5) * 6 - 0.5, order=1, mode="grid-constant", cval=0.0)
        for grid, where in zip(volume, points, strict=True)
    ]
    found = sample_volume(torch.from_numpy(volume), torch.from_numpy(points).float())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sampling_at_cell_centers_returns_the_cells():
    volume = torch.rand(1, 5, 5, 5)
    found = sample_volume(volume, cell_centers(5, volume.device)[None])
    torch.testing.assert_close(found.view_as(volume), volume)
