"""Tests of voxels of meshes against analytic shapes and points sampled on faces."""

import time
import tracemalloc

import numpy as np
import pytest
import torch

from occvae.geometry import voxelize as voxelization
from occvae.geometry.mesh_occupancy import MeshOccupancy
from occvae.geometry.voxelize import (
    _touch,
    cell_centers,
    fill_voxels,
    occupancies_from_voxels,
    surface_voxels,
)
from tests.mesh_builders import box, random_rotation, sphere, torus


def arrays(mesh):
    return tuple(x.numpy() for x in mesh)


def solid_voxels(vertices, faces, resolution, method="parity"):
    """Cells whose center is inside a mesh, (R, R, R) bool."""
    return MeshOccupancy(vertices, faces, method, verdict="").voxelize(resolution)


def centers_of(resolution):
    return cell_centers(resolution, dtype=torch.float64).numpy()


def shell(resolution, radius):
    """Signed distances (R, R, R) of cell centers from a sphere."""
    distance = np.linalg.norm(centers_of(resolution), axis=1) - radius
    return distance.reshape((resolution,) * 3)


@pytest.mark.parametrize("method", ["parity", "winding"])
def test_voxels_of_a_solid_sphere_are_accurate(method):
    distance = shell(16, 0.45)
    solid = solid_voxels(*arrays(sphere(4, 0.45)), 16, method=method)
    clear = np.abs(distance) > 5e-3
    assert np.array_equal(solid[clear], (distance < 0)[clear])


def test_axes_are_x_y_z():
    solid = solid_voxels(*arrays(box([-0.5, -0.25, 0.0], [0.5, 0.0, 0.125])), 8)
    expected = np.zeros((8, 8, 8), bool)
    expected[:, 2:4, 4] = True
    assert np.array_equal(solid, expected)


def test_a_face_touches_the_cells_of_its_points_and_no_others():
    """Points sampled on faces give a lower bound of touched cells, the distance an upper bound."""
    generator = np.random.default_rng(0)
    for seed in range(4):
        turn = random_rotation(seed).numpy()
        vertices = generator.uniform(-0.28, 0.28, (3, 3)) @ turn
        grid = surface_voxels(vertices, np.array([[0, 1, 2]]), 16)
        weights = generator.dirichlet([0.5] * 3, 200_000)
        cells = np.floor((weights @ vertices + 0.5) * 16).astype(int)
        hit = np.zeros_like(grid)
        hit[tuple(cells.T)] = True
        assert hit.any() and not (hit & ~grid).any()
        missed = np.argwhere(grid & ~hit)
        assert len(missed) < 0.05 * grid.sum()
        centers = (missed + 0.5) / 16 - 0.5
        near = np.abs(centers[:, None] - weights[None, ::50] @ vertices).max(2).min(1)
        assert (near < 0.5 / 16 + 0.01).all()


def every_cell(vertices, faces, resolution):
    """Tests every cell of each face's bounding box, in the same arithmetic."""
    grid = np.zeros((resolution,) * 3, bool)
    for triangle in (vertices[faces] + 0.5) * resolution:
        low = np.clip(np.ceil(triangle.min(0)) - 1, 0, resolution).astype(int)
        high = np.clip(np.floor(triangle.max(0)), -1, resolution - 1).astype(int)
        cells = np.indices(np.maximum(high - low + 1, 0)).reshape(3, -1).T + low
        touched = cells[_touch(np.broadcast_to(triangle, (len(cells), 3, 3)), cells, 1)]
        grid[tuple(touched.T)] = True
    return grid


@pytest.mark.parametrize("size", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("step", [0, 1 / 32, 1 / 7])
def test_large_faces_touch_the_same_cells_as_a_test_of_every_cell(size, step, monkeypatch):
    """Rounding to `step` puts corners on sides and corners of cells, and flattens faces."""
    monkeypatch.setattr(voxelization, "_PAIRS", 50)
    generator = np.random.default_rng(0)
    for _ in range(8):
        corners = generator.uniform(-0.5, 0.5, (1, 3)) + generator.uniform(-size, size, (12, 3)) / 2
        vertices = np.round(corners / step) * step if step else corners
        faces = generator.integers(0, 12, (5, 3))
        expected = every_cell(vertices, faces, 32)
        assert np.array_equal(surface_voxels(vertices, faces, 32), expected)


def test_a_large_oblique_face_takes_little_time_and_memory():
    vertices = np.array([[-0.5, -0.5, -0.5], [0.5, 0.4, 0.5], [-0.4, 0.5, 0.45]])
    tracemalloc.start()
    began = time.process_time()
    grid = surface_voxels(vertices, np.array([[0, 1, 2]] * 4), 128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grid.any() and time.process_time() - began < 30 and peak < 500e6


def test_faces_on_the_sides_of_cells_touch_both():
    grid = surface_voxels(*arrays(box([-0.25] * 3, [0.25] * 3)), 8)
    expected = np.zeros((8, 8, 8), bool)
    expected[1:7, 1:7, 1:7] = True
    expected[3:5, 3:5, 3:5] = False
    assert np.array_equal(grid, expected)


def test_surface_voxels_of_a_sphere_are_its_shell():
    distance = shell(32, 0.4)
    grid = surface_voxels(*arrays(sphere(5, 0.4)), 32)
    assert grid[np.abs(distance) < 0.49 / 32].all()
    assert not grid[np.abs(distance) > 0.5 * 3**0.5 / 32 + 1e-3].any()


def test_faces_outside_the_cube_are_ignored():
    vertices, faces = arrays(torus())
    whole = surface_voxels(vertices * 2, faces, 16)
    assert whole.any()
    assert not surface_voxels(vertices + 3, faces, 16).any()
    assert not surface_voxels(vertices, faces[:0], 16).any()


def test_filled_surface_closes_holes_narrower_than_a_cell():
    vertices, faces = arrays(sphere(5, 0.4))
    filled = fill_voxels(surface_voxels(vertices, faces[3:], 32))
    solid = solid_voxels(vertices, faces, 32)
    assert not (solid & ~filled).any()
    assert (filled & ~solid & ~surface_voxels(vertices, faces, 32)).sum() == 0
    assert not fill_voxels(surface_voxels(vertices, faces[:300], 32))[16, 16, 16]


def test_points_get_the_occupancy_of_their_cell():
    generator = np.random.default_rng(0)
    voxels = generator.random((8, 8, 8)) < 0.5
    assert np.array_equal(occupancies_from_voxels(voxels, centers_of(8)), voxels.reshape(-1))
    points = np.array([[-0.5, -0.5, -0.5], [0.5, 0, 0], [-0.51, 0, 0], [np.nan, 0, 0], [1e300] * 3])
    expected = [voxels[0, 0, 0], False, False, False, False]
    assert occupancies_from_voxels(voxels, points).tolist() == expected


def test_arrays_need_not_be_contiguous():
    vertices, faces = arrays(torus())
    strided = np.asfortranarray(vertices), np.asfortranarray(faces)
    assert np.array_equal(solid_voxels(*strided, 16), solid_voxels(vertices, faces, 16))
    assert torch.from_numpy(solid_voxels(vertices, faces, 16)).any()
