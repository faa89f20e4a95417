"""Tests that meshes of voxels are closed, and that block meshes have the volume of their voxels."""

import sys

import mcubes
import numpy as np
import pytest
import trimesh

from occvae.geometry.voxels_to_mesh import block_mesh, grid_mesh
from tests.conftest import needs_kernels


def grid(*cells: tuple[int, int, int], edge: int = 4) -> np.ndarray:
    occupied = np.zeros((edge, edge, edge), bool)
    for cell in cells:
        occupied[cell] = True
    return occupied


@pytest.mark.parametrize(
    "occupied",
    [
        grid((0, 0, 0)),
        grid((3, 1, 2), (3, 1, 1)),
        grid((1, 1, 1), (2, 2, 1)),  # they touch in an edge
        grid((1, 1, 1), (2, 2, 2)),  # they touch in a corner
        # Two cubes share an edge, and other cubes close both of its ends.
        grid(
            (1, 1, 1), (2, 2, 1), (1, 1, 0), (2, 2, 0), (1, 2, 0), (1, 1, 2), (2, 2, 2), (2, 1, 2)
        ),
        np.ones((4, 4, 4), bool),
        np.random.default_rng(0).random((9, 9, 9)) < 0.5,
    ],
    ids=["one", "two", "edge", "corner", "closed-edge", "full", "noise"],
)
def test_blocks_are_closed_and_of_the_right_volume(occupied):
    mesh = block_mesh(occupied)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(occupied.sum() / occupied.size)
    cells = np.argwhere(occupied)
    low, high = cells.min(axis=0), cells.max(axis=0) + 1
    np.testing.assert_allclose(mesh.bounds, np.stack([low, high]) / len(occupied) - 0.5)


def test_axes_are_x_y_z():
    mesh = block_mesh(grid((0, 1, 3)))
    np.testing.assert_allclose(mesh.centroid, [-0.375, -0.125, 0.375])


def test_empty_voxels_give_an_empty_mesh():
    assert len(block_mesh(grid()).faces) == 0


@needs_kernels
@pytest.mark.parametrize("seed", range(3))
def test_grid_mesh_equals_that_of_pymcubes_and_does_not_need_it(seed, monkeypatch):
    values = np.random.default_rng(seed).random((12, 12, 12))
    vertices, faces = mcubes.marching_cubes(np.pad(values.astype(np.float32), 1), 0.6)
    expected = (vertices - 0.5) / 12 - 0.5
    monkeypatch.setitem(sys.modules, "mcubes", None)
    found, triangles = grid_mesh(values, 0.6)
    assert len(triangles) == len(faces)
    order, their_order = (np.lexsort(where.round(5).T) for where in (found, expected))
    np.testing.assert_allclose(found[order], expected[their_order], atol=1.5e-3 / 12)
    assert trimesh.Trimesh(found, triangles, process=False).is_watertight


def test_nan_counts_as_empty():
    values = np.zeros((4, 4, 4))
    values[1, 2, 1], values[2, 1, 2] = 1.0, np.nan
    with_nan = grid_mesh(values, 0.5)
    np.testing.assert_array_equal(with_nan[0], grid_mesh(np.nan_to_num(values), 0.5)[0])
    assert len(with_nan[1]) == 8
