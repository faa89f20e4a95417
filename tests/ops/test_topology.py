"""Tests that meshes are closed, oriented, without degenerate triangles and of the right genus."""

from itertools import product

import numpy as np
import pytest
import torch
import trimesh

from occvae.geometry.extract_mesh import extract_mesh
from occvae.ops.lattice import DEFAULT_BOUNDS, Lattice
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import Field, mise
from occvae.ops.sparse_grid import SparseGrid
from tests.conftest import needs_kernels
from tests.fields import double_torus, lattice_hash, sphere, torus, waves
from tests.ops.field_gallery import GALLERY, each_exhibit
from tests.ops.test_marching_cubes import is_closed


def assert_sound(vertices, faces, backend):
    """Asserts a closed, oriented mesh of distinct, used vertices and triangles with area."""
    faces = torch.as_tensor(faces)
    assert is_closed(faces)
    corners = faces.sort(1).values
    assert (corners[:, 1:] > corners[:, :-1]).all(), "a triangle with a corner twice"
    assert len(corners.unique(dim=0)) == len(faces), "a triangle twice"
    assert len(torch.as_tensor(vertices).unique(dim=0)) == len(vertices), "a vertex twice"
    assert torch.equal(faces.unique(), torch.arange(len(vertices))), "a vertex without triangles"
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.volume > 0
    assert mesh.area_faces.min() > 0
    # Where signs are ambiguous, PyMCubes may put four triangles on one edge.
    assert backend == "reference" or (mesh.is_watertight and mesh.is_winding_consistent)
    return mesh


@each_exhibit()
def test_every_mesh_is_sound(exhibit, backend):
    grid = mise(
        exhibit.field,
        resolution=exhibit.resolution,
        coarse_resolution=exhibit.coarse_resolution,
        level=exhibit.level,
    )
    ((vertices, faces),) = marching_cubes(grid, backend=backend)
    assert (len(faces) == 0) == bool((grid.values < exhibit.level).all())
    if len(faces):
        assert_sound(vertices, faces, backend)


def test_a_batch_of_the_whole_gallery_is_sound(backend):
    """Exhibits of one size are extracted as one batch."""
    chosen = [e for e in GALLERY if (e.coarse_resolution, e.resolution) == (8, 32)]

    def batch(points, shape_index):
        values = torch.stack([e.field(points, shape_index).double() - e.level for e in chosen])
        return values.gather(0, shape_index[None])[0]

    meshes = extract_mesh(
        batch, resolution=32, coarse_resolution=8, num_shapes=len(chosen), backend=backend
    )
    assert len(meshes) == len(chosen) > 5
    for mesh in meshes:
        assert_sound(mesh.vertices, mesh.faces, backend)


@pytest.mark.parametrize(
    ("field", "euler"),
    [(sphere(), 2), (torus(), 0), (double_torus, -2)],
    ids=["sphere", "torus", "double torus"],
)
@pytest.mark.parametrize("refine_vertices", [0, 3])
def test_known_surfaces_have_their_euler_characteristic(field, euler, refine_vertices, backend):
    (mesh,) = extract_mesh(field, resolution=64, refine_vertices=refine_vertices, backend=backend)
    assert mesh.is_watertight and mesh.euler_number == euler and mesh.body_count == 1


def euler_of_solid(inside: np.ndarray) -> int:
    """Euler characteristic of the solid that marching cubes bounds, from signs alone.

    Counts corners - edges + faces - cubes in the union of closed unit cubes around inside points.
    Cubes that share only an edge are joined there. This agrees with the table of cases, which
    connects the inside across the diagonal of an ambiguous face.

    Cubes that share only a corner are joined by the count, but the table separates them: in a cell
    with two opposite inside corners it cuts off each of them. The number of such cells corrects
    this. With a third inside corner in the cell, the table joins them as well.
    """
    inside = np.pad(inside, 1)
    total = 0
    for touching in product((False, True), repeat=3):  # axes on which the part has no extent
        cells = inside
        for axis in np.flatnonzero(touching):
            low, high = (np.delete(cells, end, axis) for end in (-1, 0))
            cells = low | high
        total += (-1) ** (3 - sum(touching)) * int(cells.sum())
    return total + count_opposite_pairs(inside)


def count_opposite_pairs(inside: np.ndarray) -> int:
    """Number of cells with exactly two inside corners, at the ends of a space diagonal."""
    corners = {
        offset: inside[
            tuple(slice(o, o + n - 1) for o, n in zip(offset, inside.shape, strict=True))
        ]
        for offset in product((0, 1), repeat=3)
    }
    two = sum(corner.astype(int) for corner in corners.values()) == 2
    return sum(
        int((two & corners[a, b, 0] & corners[1 - a, 1 - b, 1]).sum())
        for a, b in product((0, 1), repeat=2)
    )


def dense_signs(field, resolution: int) -> np.ndarray:
    lattice = torch.cartesian_prod(*[torch.arange(resolution + 1)] * 3)
    world = Lattice(resolution, DEFAULT_BOUNDS).to_world(lattice)
    values = field(world, torch.zeros(len(world), dtype=torch.long))
    return (values >= 0).view([resolution + 1] * 3).numpy()


def test_euler_of_solid_counts_parts_tunnels_and_hollows():
    """Counts parts, tunnels and hollows of simple solids."""
    solid = np.zeros((7, 7, 7), bool)
    assert euler_of_solid(solid) == 0
    solid[1:6, 1:6, 1:6] = True
    assert euler_of_solid(solid) == 1
    solid[3, 3, 3] = False  # a hollow
    assert euler_of_solid(solid) == 2
    solid[3, 3, :] = False  # a tunnel instead
    assert euler_of_solid(solid) == 0
    pair = np.zeros((7, 7, 7), bool)
    pair[2, 2, 2] = pair[3, 3, 2] = True  # across a face: one part
    assert euler_of_solid(pair) == 1
    pair[3, 3, 2], pair[3, 3, 3] = False, True  # across a cell: two
    assert euler_of_solid(pair) == 2


def smooth(seed: int) -> Field:
    """Random field with waves so long that a coarse lattice of 32 misses no part."""
    return waves(seed, frequency=4.0 + seed % 4, size=0.5 + 0.1 * seed)


@pytest.mark.parametrize(
    "seed",
    [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 20))],
    ids=lambda seed: f"{seed + 1} of 20",
)
def test_random_smooth_fields_have_the_right_euler_characteristic(seed, backend):
    """The boundary of a solid has twice the Euler characteristic of the solid."""
    expected = 2 * euler_of_solid(dense_signs(smooth(seed), 64))
    (mesh,) = extract_mesh(smooth(seed), resolution=64, coarse_resolution=32, backend=backend)
    assert_sound(mesh.vertices, mesh.faces, backend)
    assert mesh.euler_number == expected


def test_the_random_smooth_fields_have_many_topologies():
    counts = {euler_of_solid(dense_signs(smooth(seed), 32)) for seed in range(20)}
    assert len(counts) > 6 and min(counts) < -4 and max(counts) > 4


@needs_kernels
@pytest.mark.parametrize("seed", range(8))
def test_noise_has_the_right_euler_characteristic(seed):
    """Noise has all 256 cases many times, so the choice of diagonals decides the result."""
    field = lattice_hash(seed, 16, (0.05, 0.2, 0.4, 0.6)[seed % 4])
    signs = dense_signs(field, 16)
    grid = SparseGrid.from_dense(torch.from_numpy(signs)[None].float() - 0.5)
    ((vertices, faces),) = marching_cubes(grid)
    mesh = assert_sound(vertices, faces, "native")
    assert count_opposite_pairs(signs) > 0
    assert mesh.euler_number == 2 * euler_of_solid(signs)
