"""Drawings show what a model observes, from the given camera."""

import numpy as np
import pytest
import torch

from occvae.observations.drawing import CAMERA, draw_observation
from occvae.observations.kinds import Images, LabeledPoints, Mixture, PointCloud, VoxelGrid
from occvae.visualize.point_rendering import render_points
from occvae.visualize.rendering import orbit_extrinsics, render_views

FRONT = orbit_extrinsics([0.0], [0.0], [1.8])[0]


def dark(image: np.ndarray) -> np.ndarray:
    return (image < 250).any(-1)


def cube_points(count: int = 4000) -> np.ndarray:
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (count, 3))
    axis = np.arange(count) % 3
    points[np.arange(count), axis] = np.where(points[np.arange(count), axis] > 0, 0.4, -0.4)
    return points


def test_points_and_the_mesh_they_are_on_cover_the_same_pixels():
    import trimesh

    cube = trimesh.creation.box((0.8, 0.8, 0.8))
    expected = dark(render_views(cube.vertices, cube.faces, CAMERA[None], 80)[0])
    found = dark(render_points(cube_points(20_000), CAMERA, 80))
    overlap = (expected & found).sum() / (expected | found).sum()
    assert overlap > 0.9


def test_nearer_points_are_darker_and_hide_farther_ones():
    near, far = [0.0, 0.0, 0.4], [0.0, 0.0, -0.4]
    both = render_points(np.array([near, far, [0.3, 0.3, -0.4]]), FRONT, 81)
    assert both[40, 40, 0] == 40 and both[dark(both)].max() == 175
    assert render_points(np.array([far, near]), FRONT, 81)[40, 40, 0] == 40


def test_points_behind_or_beside_the_camera_are_left_out():
    assert not dark(render_points(np.array([[0.0, 0.0, 5.0], [90.0, 0.0, 0.0]]), FRONT, 40)).any()
    assert not dark(render_points(np.empty((0, 3)), FRONT, 40)).any()


def test_every_kind_is_drawn():
    cloud = torch.from_numpy(cube_points()).float()
    [drawn] = draw_observation(PointCloud(), cloud[None], 64)
    assert drawn.shape == (64, 64, 3) and 0.2 < dark(drawn).mean() < 0.8
    labels = torch.zeros(len(cloud), 1)
    labeled = torch.cat([torch.cat([cloud, labels], 1), torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
    [only_inside] = draw_observation(LabeledPoints(), labeled[None], 64)
    assert 0 < dark(only_inside).sum() < 12
    grid = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    grid[:, 4:] = True  # the right half, seen from the front
    [half] = draw_observation(VoxelGrid(8), grid, 64, FRONT)
    assert dark(half)[:, 33:].sum() > 10 * dark(half)[:, :31].sum()
    views = torch.rand(1, 2, 3, 32, 32)
    tiles = draw_observation(Images(32), views, 32)
    assert len(tiles) == 2
    np.testing.assert_allclose(tiles[1].transpose(2, 0, 1) / 255.0, views[0, 1], atol=0.003)
    assert draw_observation(Images(32), views, 16)[0].shape == (16, 16, 3)
    mixture = Mixture(Images(32), PointCloud(), VoxelGrid(8))
    observed = {"images": views, "points": cloud[None], "voxels": grid}
    several = draw_observation(mixture, observed, 64, FRONT)
    assert len(several) == 4 and np.array_equal(several[3], half)
    assert np.array_equal(several[2], draw_observation(PointCloud(), cloud[None], 64, FRONT)[0])


def test_an_empty_grid_is_white():
    [drawn] = draw_observation(VoxelGrid(8), torch.zeros(1, 8, 8, 8), 32)
    assert not dark(drawn).any()


@pytest.mark.parametrize("count", [1, 300, 5000])
def test_any_number_of_points_is_visible(count):
    assert dark(render_points(np.zeros((count, 3)), CAMERA, 224)).any()
