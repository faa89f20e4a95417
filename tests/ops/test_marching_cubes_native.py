"""Tests of the sparse kernel of marching cubes against PyMCubes, and of its own guarantees."""

import math
from dataclasses import replace

import pytest
import torch
import trimesh

from occvae.ops import _extension
from occvae.ops import marching_cubes as marching_cubes_module
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.sparse_grid import SparseGrid
from tests.conftest import needs_kernels
from tests.fields import double_torus, gyroid, lattice_hash, sphere, thin_chair, torus
from tests.ops.test_marching_cubes import dense_grid, is_closed, signed_volume

pytestmark = needs_kernels


def both(grid: SparseGrid):
    native, reference = (
        marching_cubes(grid, backend=backend) for backend in ("native", "reference")
    )
    return zip(native, reference, strict=True)


def cell_lines(vertices, faces):
    """Set of the triangle edges that lie in a face of a cell, which neighboring cells share."""
    lattice = torch.cat([vertices[faces[:, [i, (i + 1) % 3]]] for i in range(3)])
    # Both ends lie on one plane of lattice points, or between the same two: in a common face.
    on_plane = (lattice == lattice.round()) & (lattice[:, :1] == lattice[:, 1:])
    kept = lattice[on_plane.all(1).any(1)]
    return {tuple(line) for line in kept.flatten(1).tolist()}


def assert_same_surface(native, reference):
    (vertices, faces), (their_vertices, their_faces) = native, reference
    assert len(vertices) == len(their_vertices) and len(faces) == len(their_faces)
    assert {tuple(v) for v in vertices.tolist()} == {tuple(v) for v in their_vertices.tolist()}


@pytest.mark.parametrize("case", range(1, 256))
def test_every_case_cuts_the_cell_like_pymcubes(case):
    """The corners of one cell are inside as in the case, and all other points outside."""
    values = -torch.ones(1, 4, 4, 4)
    for corner in range(8):
        if case >> corner & 1:
            values[0, 1 + (corner >> 2), 1 + (corner >> 1 & 1), 1 + (corner & 1)] = 1.0
    grid = SparseGrid.from_dense(values, bounds=(0.0, 3.0))
    for native, reference in both(grid):
        assert_same_surface(native, reference)
        lines = cell_lines(*native)
        assert lines <= cell_lines(*reference)  # PyMCubes' diagonals may lie in faces too
        mesh, theirs = (trimesh.Trimesh(*part, process=False) for part in (native, reference))
        assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
        assert mesh.euler_number == theirs.euler_number
        assert mesh.body_count == theirs.body_count


@pytest.mark.parametrize(
    ("field", "resolution", "coarse_resolution"),
    [(sphere(), 64, 8), (torus(), 96, 12), (thin_chair, 128, 16), (gyroid, 32, 4)],
    ids=["sphere", "torus", "chair", "gyroid"],
)
def test_the_kernel_finds_the_surface_of_the_reference(field, resolution, coarse_resolution):
    grid = mise(field, resolution=resolution, coarse_resolution=coarse_resolution)
    for native, reference in both(grid):
        assert_same_surface(native, reference)
        assert signed_volume(*native) == pytest.approx(signed_volume(*reference), rel=2e-3)


@pytest.mark.parametrize("seed", range(20))
def test_meshes_of_random_signs_are_watertight(seed):
    """Every edge has exactly two triangles. Meshes of PyMCubes are closed only."""
    inside = (0.05, 0.2, 0.5, 0.8)[seed % 4]
    field = lattice_hash(seed, 16, inside, tied=0.05 * (seed % 2))
    grid = mise(field, resolution=16, coarse_resolution=(1, 2, 4, 16)[seed // 4 % 4], num_shapes=2)
    for native, reference in both(grid):
        assert_same_surface(native, reference)
        if len(native[1]) == 0:
            continue
        mesh = trimesh.Trimesh(*native, process=False)
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert mesh.euler_number == trimesh.Trimesh(*reference, process=False).euler_number
        faces = native[1].sort(1).values
        assert len(faces.unique(dim=0)) == len(faces)


@pytest.mark.parametrize(
    ("field", "euler"), [(sphere(), 2), (torus(), 0), (double_torus, -2), (thin_chair, 2)]
)
@pytest.mark.parametrize("coarse_resolution", [16, 32])
def test_surfaces_have_their_euler_characteristic(field, euler, coarse_resolution):
    grid = mise(field, resolution=128, coarse_resolution=coarse_resolution)
    ((vertices, faces),) = marching_cubes(grid)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.euler_number == euler
    assert float(mesh.area_faces.min()) > 0


def test_caps_have_full_resolution_where_the_field_is_unknown():
    grid = mise(lambda p, _: p[:, 0] - p[:, 1], resolution=32, coarse_resolution=4)
    for native, reference in both(grid):
        assert_same_surface(native, reference)
        assert is_closed(native[1])


def test_threads_and_instructions_change_nothing(restored_threads):
    grid = mise(lattice_hash(3, 64, 0.1), resolution=64, coarse_resolution=8)
    meshes = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        meshes += marching_cubes(grid)
    with _extension.limit_cpu_isa("portable"):
        meshes += marching_cubes(grid)
    for vertices, faces in meshes[1:]:
        assert torch.equal(vertices, meshes[0][0]) and torch.equal(faces, meshes[0][1])


def test_repeated_points_are_refused():
    grid = dense_grid(sphere(), 8)
    parts = {
        name: torch.cat([getattr(grid, name)] * 2) for name in ("points", "values", "shape_index")
    }
    twice = SparseGrid(**parts, rounds=[], resolution=8, coarse_resolution=8)
    with pytest.raises(ValueError, match="729 points of shape 0 more than once"):
        marching_cubes(twice)


@pytest.mark.parametrize("with_edges", [False, True])
def test_opcheck(with_edges):
    for shapes in (1, 2):
        grid = mise(sphere(), resolution=16, coarse_resolution=4, num_shapes=shapes)
        numbers = (grid.shape_index, shapes, 16, 4, 0.01, -0.5, 0.6, with_edges)
        torch.library.opcheck(
            torch.ops.occvae.marching_cubes.default, (grid.points, grid.values.half(), *numbers)
        )


def alone(grid: SparseGrid, shape: int) -> SparseGrid:
    chosen = grid.shape_index == shape
    parts = {name: getattr(grid, name)[chosen] for name in ("points", "values", "shape_index")}
    return replace(grid, **parts, num_shapes=1)


def shapes_of_all_kinds(points, shape_index):
    """Nothing, a full cube, a ball, noise, a surface through the bounds, and nothing again."""
    noise = lattice_hash(3, 16, 0.2)(points, shape_index)
    fields = torch.stack(
        [
            torch.full_like(noise, -1),
            torch.ones_like(noise),
            0.3 - points.norm(dim=1),
            noise,
            points[:, 0] - points[:, 1] - 0.013,
            torch.full_like(noise, -1),
        ]
    )
    return fields.gather(0, shape_index[None])[0]


@pytest.mark.parametrize("most_places", [2**26, 200, 1])
@pytest.mark.parametrize("coarse_resolution", [4, 16])
@pytest.mark.parametrize("bounds", [(-0.55, 0.55), ((-0.5, -0.4, -0.5), (0.5, 0.4, 0.3))])
def test_a_batch_is_marched_as_its_shapes_alone(
    bounds, coarse_resolution, most_places, monkeypatch
):
    """Also in several groups, and with the points of all shapes in a random order."""
    monkeypatch.setattr(marching_cubes_module, "_MOST_PLACES", most_places)
    sizes = {"resolution": 16, "coarse_resolution": coarse_resolution}
    grid = mise(shapes_of_all_kinds, **sizes, bounds=bounds, num_shapes=6)
    order = torch.randperm(len(grid.points), generator=torch.Generator().manual_seed(0))
    parts = {name: getattr(grid, name)[order] for name in ("points", "values", "shape_index")}
    options = {"field": shapes_of_all_kinds, "refine_vertices": 1} if most_places == 200 else {}
    meshes = marching_cubes(replace(grid, **parts), backend="native", **options)
    assert len(meshes) == 6
    for shape, mesh in enumerate(meshes):
        if options:
            options["field"] = lambda points, _, shape=shape: shapes_of_all_kinds(
                points, torch.full((len(points),), shape)
            )
        ((vertices, faces),) = marching_cubes(alone(grid, shape), backend="native", **options)
        assert torch.equal(mesh[0], vertices) and torch.equal(mesh[1], faces)
    assert not len(meshes[0][0]) and len(meshes[1][0]) and len(meshes[4][0])


def test_problems_of_a_batch_name_their_shape():
    grid = mise(shapes_of_all_kinds, resolution=16, coarse_resolution=4, num_shapes=6)
    last = (grid.shape_index == 2).nonzero()[-1]
    outside = grid.points.clone()
    outside[last] = 17
    with pytest.raises(ValueError, match="1 points of shape 2 outside its lattice"):
        marching_cubes(replace(grid, points=outside), backend="native")
    stray = grid.shape_index.clone()
    stray[last] = 6
    with pytest.raises(ValueError, match=r"grid.shape_index must be in \[0, 6\)|lacks"):
        marching_cubes(replace(grid, shape_index=stray), backend="native")
    stray[grid.shape_index == 5] = 7
    stray[last] = 2
    with pytest.raises(ValueError, match=r"grid.shape_index must be in \[0, 6\), the shapes of"):
        marching_cubes(replace(grid, shape_index=stray), backend="native")


def steep(points, shape_index):
    """Logits of a ball as from a network: saturated, and far from linear within a cell."""
    distance = torch.tensor([0.3, 0.41])[shape_index] - points.norm(dim=1)
    return torch.where(distance > 0, 40 * distance, 4 * distance).exp().log1p() - math.log(2)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_refined_vertices_lie_on_the_surface(backend):
    grid = mise(steep, resolution=32, coarse_resolution=8, num_shapes=2)
    errors = []
    for steps in (0, 1, 2, 4, 8):
        calls = []

        def field(points, shape_index, calls=calls):
            calls.append(len(points))
            return steep(points, shape_index)

        meshes = marching_cubes(grid, field=field, refine_vertices=steps, backend=backend)
        radii = torch.tensor([0.3, 0.41])
        errors.append(
            max(
                float((vertices.norm(dim=1) - radius).abs().max())
                for (vertices, _), radius in zip(meshes, radii, strict=True)
            )
        )
        assert calls == [sum(len(vertices) for vertices, _ in meshes)] * steps
    assert errors[0] > 0.01 and sorted(errors, reverse=True) == errors
    assert errors[-1] < 2e-4


def test_refined_vertices_stay_on_their_edges_when_values_are_infinite():
    def field(points, shape_index):
        return torch.where(sphere()(points, shape_index) >= 0, torch.inf, -torch.inf)

    grid = mise(field, resolution=32, coarse_resolution=8)
    ((vertices, faces),) = marching_cubes(grid, field=field, refine_vertices=12)
    assert float((vertices.norm(dim=1) - 0.35).abs().max()) < 1e-4
    assert is_closed(faces)


def test_refinement_does_not_move_caps():
    def full(points, shape_index):
        return torch.ones(len(points))

    grid = mise(full, resolution=8, coarse_resolution=4)
    ((plain, _),) = marching_cubes(grid)
    ((refined, _),) = marching_cubes(grid, field=full, refine_vertices=3)
    assert torch.equal(plain, refined)
