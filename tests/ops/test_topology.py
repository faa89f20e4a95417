"""Whether meshes are what they must be: closed, oriented, without flaws, and of the right genus."""

from itertools import product

import numpy as np
import pytest
import torch
import trimesh

from occvae.geometry.extract_mesh import extract_mesh
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import Field, mise
from occvae.ops.sparse_grid import DEFAULT_BOUNDS, SparseGrid, lattice_to_world
from tests.conftest import needs_kernels
from tests.fields import double_torus, lattice_hash, sphere, torus, waves
from tests.ops.field_gallery import GALLERY, each_exhibit
from tests.ops.test_marching_cubes import is_closed


def assert_sound(vertices, faces, backend):
    """Closed and oriented, every vertex and triangle once, used, and of some size."""
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
    # PyMCubes may put two pairs of triangles on one edge where signs are ambiguous.
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
    """As one batch of meshes in world units."""
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

    Closed unit cubes around the inside points: corners - edges + faces - cubes of their union,
    each counted once. Cubes that share no more than an edge are joined there, as the table of
    cases joins the inside across the diagonal of a cell's face (on both sides of it alike, so that
    the outside is parted there). Cubes that share no more than a corner are joined here too, but
    the table parts them: in a cell whose two inside corners are opposite it cuts off one and the
    other. Every third inside corner is next to, or across a face from, both, and joins them.
    """
    inside = np.pad(inside, 1)
    total = 0
    for touching in product((False, True), repeat=3):  # the axes on which the part is flat
        cells = inside
        for axis in np.flatnonzero(touching):
            low, high = (np.delete(cells, end, axis) for end in (-1, 0))
            cells = low | high
        total += (-1) ** (3 - sum(touching)) * int(cells.sum())
    return total + count_opposite_pairs(inside)


def count_opposite_pairs(inside: np.ndarray) -> int:
    """Cells with exactly two inside corners, at the ends of one of its four long diagonals."""
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
    world = lattice_to_world(lattice, resolution, DEFAULT_BOUNDS)
    values = field(world, torch.zeros(len(world), dtype=torch.long))
    return (values >= 0).view([resolution + 1] * 3).numpy()


def test_euler_of_solid_counts_parts_tunnels_and_hollows():
    """Against solids whose number of parts, tunnels and hollows is plain."""
    solid = np.zeros((7, 7, 7), bool)
    assert euler_of_solid(solid) == 0
    solid[1:6, 1:6, 1:6] = True
    assert euler_of_solid(solid) == 1
    solid[3, 3, 3] = False  # a hollow
    assert euler_of_solid(solid) == 2
    solid[3, 3, :] = False  # a tunnel in its place
    assert euler_of_solid(solid) == 0
    pair = np.zeros((7, 7, 7), bool)
    pair[2, 2, 2] = pair[3, 3, 2] = True  # across a face: one part
    assert euler_of_solid(pair) == 1
    pair[3, 3, 2], pair[3, 3, 3] = False, True  # across a cell: two
    assert euler_of_solid(pair) == 2


def smooth(seed: int) -> Field:
    """Long enough waves for no part to slip through a coarse lattice of 32."""
    return waves(seed, frequency=4.0 + seed % 4, size=0.5 + 0.1 * seed)


@pytest.mark.parametrize(
    "seed",
    [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 20))],
    ids=lambda seed: f"{seed + 1} of 20",
)
def test_random_smooth_fields_have_the_right_euler_characteristic(seed, backend):
    """The boundary of a solid has twice its Euler characteristic."""
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
    """All 256 cases many times over: here the choice of diagonals decides everything."""
    field = lattice_hash(seed, 16, (0.05, 0.2, 0.4, 0.6)[seed % 4])
    signs = dense_signs(field, 16)
    grid = SparseGrid.from_dense(torch.from_numpy(signs)[None].float() - 0.5)
    ((vertices, faces),) = marching_cubes(grid)
    mesh = assert_sound(vertices, faces, "native")
    assert count_opposite_pairs(signs) > 0
    assert mesh.euler_number == 2 * euler_of_solid(signs)
