"""Tests that marching_cubes() is closed, oriented, exact about ties and equal to dense grids."""

import sys
from dataclasses import replace

import mcubes
import numpy as np
import pytest
import torch

from occvae.ops.lattice import DEFAULT_BOUNDS, Lattice
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.validation import MIN_EDGE_FRACTION
from occvae.system import memory
from tests.fields import gyroid, lattice_hash, sphere, thin_chair, torus, world_to_lattice


def dense_grid(field, resolution, level=0.0):
    lattice = torch.cartesian_prod(*[torch.arange(resolution + 1)] * 3)
    world = Lattice(resolution, DEFAULT_BOUNDS).to_world(lattice)
    values = field(world, torch.zeros(len(world), dtype=torch.long))
    return SparseGrid.from_dense(values.view(1, *[resolution + 1] * 3), level=level)


def signed_volume(vertices, faces):
    a, b, c = vertices.double()[faces].unbind(1)
    return float((a * b.cross(c, dim=1)).sum() / 6)


def smallest_area(vertices, faces):
    a, b, c = vertices.double()[faces].unbind(1)
    return float((b - a).cross(c - a, dim=1).norm(dim=1).min() / 2)


def is_closed(faces):
    """Whether every directed edge occurs as often as its reverse: no holes and one orientation."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    size = int(faces.max()) + 1
    there, back = edges[:, 0] * size + edges[:, 1], edges[:, 1] * size + edges[:, 0]
    return torch.equal(there.sort().values, back.sort().values)


@pytest.mark.parametrize(
    ("field", "resolution", "coarse_resolution"),
    [(sphere(), 64, 16), (torus(), 64, 16), (thin_chair, 64, 8), (gyroid, 32, 16)],
    ids=["sphere", "torus", "chair", "gyroid"],
)
def test_sparse_and_dense_grids_give_the_same_mesh(field, resolution, coarse_resolution, backend):
    grid = mise(field, resolution=resolution, coarse_resolution=coarse_resolution)
    ((vertices, faces),) = marching_cubes(grid, backend=backend)
    dense = dense_grid(field, resolution)
    ((dense_vertices, dense_faces),) = marching_cubes(dense, backend=backend)
    assert torch.equal(vertices, dense_vertices)
    assert torch.equal(faces, dense_faces)
    assert vertices.dtype == torch.float32 and faces.dtype == torch.int64
    assert is_closed(faces)
    assert signed_volume(vertices, faces) > 0
    assert smallest_area(vertices, faces) > 0


@pytest.mark.parametrize("field", [sphere(0.35, (0.01, 0.02, 0.03)), torus()])
def test_the_reference_equals_pymcubes_on_the_values(field):
    grid = dense_grid(field, 40)
    ((vertices, faces),) = marching_cubes(grid, backend="reference")
    values = grid.values.view(41, 41, 41).double().numpy()
    their_vertices, their_faces = mcubes.marching_cubes(values, 0.0)
    lattice = world_to_lattice(vertices.double(), 40, DEFAULT_BOUNDS)
    # Both are in PyMCubes' order of cells, computed from signs in one and values in the other.
    assert np.array_equal(faces.numpy(), their_faces)
    np.testing.assert_allclose(lattice.numpy(), their_vertices, atol=1.1 * MIN_EDGE_FRACTION)


@pytest.mark.parametrize("seed", range(4))
def test_meshes_of_random_signs_with_ties_are_closed(seed, backend):
    field = lattice_hash(seed, 16, inside=(0.05, 0.2, 0.4, 0.9)[seed], tied=0.1)
    grid = mise(field, resolution=16, coarse_resolution=4)
    ((vertices, faces),) = marching_cubes(grid, backend=backend)
    assert is_closed(faces)
    assert smallest_area(vertices, faces) > 0
    assert len(vertices.unique(dim=0)) == len(vertices)


def test_a_tie_is_inside(backend):
    values = -torch.ones(1, 5, 5, 5)
    values[0, 1, 2, 3] = 0.0
    ((vertices, faces),) = marching_cubes(
        SparseGrid.from_dense(values, bounds=(0.0, 4.0)), backend=backend
    )
    assert len(vertices) == 6 and len(faces) == 8
    offsets = (vertices - torch.tensor([1.0, 2.0, 3.0])).abs()
    torch.testing.assert_close(
        offsets.sum(1), torch.full((6,), MIN_EDGE_FRACTION), rtol=0.01, atol=0
    )
    assert signed_volume(vertices, faces) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_level_is_compared_exactly(dtype, backend):
    values = torch.full((1, 3, 3, 3), -1.0, dtype=dtype)
    values[0, 1, 1, 1] = 0.1
    tie = float(values[0, 1, 1, 1])
    for level, count in ((tie, 6), (np.nextafter(tie, 1), 0), (np.nextafter(tie, -1), 6)):
        ((vertices, _),) = marching_cubes(
            SparseGrid.from_dense(values, level=float(level)), backend=backend
        )
        assert len(vertices) == count


def test_vertices_interpolate_linearly(backend):
    values = torch.full((1, 3, 3, 3), -3.0)
    values[0, 1, 1, 1] = 1.0
    ((vertices, _),) = marching_cubes(
        SparseGrid.from_dense(values, bounds=(-1.0, 1.0)), backend=backend
    )
    torch.testing.assert_close(vertices.norm(dim=1), torch.full((6,), 0.25))


@pytest.mark.parametrize("refine_vertices", [0, 2])
@pytest.mark.parametrize("bounds", [(-0.5, 0.5), ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.2))])
def test_meshes_never_require_gradients(refine_vertices, bounds, backend):
    grid = mise(sphere(), resolution=16, coarse_resolution=16, bounds=bounds, backend=backend)
    grid = replace(grid, values=grid.values.clone().requires_grad_())
    shift = torch.zeros(3, requires_grad=True)
    ((vertices, faces),) = marching_cubes(
        grid,
        field=lambda points, shape: sphere()(points - shift, shape),
        refine_vertices=refine_vertices,
        backend=backend,
    )
    assert not vertices.requires_grad and vertices.grad_fn is None and len(faces) > 100


@pytest.mark.parametrize("real", [np.float32, np.float64, np.array, torch.tensor])
def test_levels_may_be_scalars_of_numpy_and_tensors(real, backend):
    values = torch.rand(1, 5, 5, 5)
    grid = SparseGrid.from_dense(values, level=real(0.5), bounds=[real(-1.0), real(1.0)])
    assert type(grid.level) is float and grid.bounds == (-1.0, 1.0)
    ((vertices, _),) = marching_cubes(grid, real(0.25), backend=backend)
    ((expected, _),) = marching_cubes(grid, 0.25, backend=backend)
    assert torch.equal(vertices, expected)


def test_infinite_values_place_vertices(backend):
    values = torch.full((1, 3, 3, 3), -torch.inf)
    values[0, 1, 1, 1] = torch.inf
    values[0, 0, 1, 1] = -1.0
    ((vertices, _),) = marching_cubes(
        SparseGrid.from_dense(values, bounds=(-1.0, 1.0)), backend=backend
    )
    lengths = vertices.norm(dim=1).sort().values
    expected = torch.tensor([0.5] * 5 + [1 - MIN_EDGE_FRACTION])
    torch.testing.assert_close(lengths, expected)


def test_surfaces_are_closed_at_the_domain_boundary(backend):
    ((vertices, faces),) = marching_cubes(
        SparseGrid.from_dense(torch.ones(1, 5, 5, 5)), backend=backend
    )
    assert is_closed(faces)
    assert smallest_area(vertices, faces) > 0
    assert signed_volume(vertices, faces) == pytest.approx(1.1**3, rel=2e-3)
    assert vertices.abs().max() <= 0.55 + 1.1 / 4 * MIN_EDGE_FRACTION * 1.01


def test_a_batch_may_have_an_empty_and_a_full_shape(backend):
    grid = mise(
        lambda points, shape: torch.where(shape == 1, sphere()(points, shape), -1.0),
        resolution=32,
        coarse_resolution=8,
        num_shapes=3,
    )
    meshes = marching_cubes(grid, backend=backend)
    assert [tuple(vertices.shape) for vertices, _ in meshes[::2]] == [(0, 3), (0, 3)]
    assert [tuple(faces.shape) for _, faces in meshes[::2]] == [(0, 3), (0, 3)]
    assert meshes[0][0].dtype == torch.float32 and meshes[0][1].dtype == torch.int64
    ((vertices, faces),) = marching_cubes(
        mise(sphere(), resolution=32, coarse_resolution=8), backend=backend
    )
    assert torch.equal(meshes[1][0], vertices) and torch.equal(meshes[1][1], faces)


def test_the_order_of_points_does_not_matter(backend):
    grid = mise(torus(), resolution=32, coarse_resolution=8)
    order = torch.randperm(len(grid.points), generator=torch.Generator().manual_seed(0))
    shuffled = replace(grid, points=grid.points[order], values=grid.values[order])
    for ours, theirs in zip(
        marching_cubes(grid, backend=backend)[0],
        marching_cubes(shuffled, backend=backend)[0],
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_another_level_needs_a_dense_grid(backend):
    grid = mise(sphere(), resolution=16, coarse_resolution=8)
    with pytest.raises(ValueError, match=r"refined at level 0.0; got level 0.1: call mise"):
        marching_cubes(grid, level=0.1, backend=backend)
    ((vertices, _),) = marching_cubes(dense_grid(sphere(), 16), level=0.1, backend=backend)
    assert float(vertices.norm(dim=1).mean()) == pytest.approx(0.25, abs=0.005)


def test_an_incomplete_grid_is_refused(backend):
    grid = mise(sphere(), resolution=32, coarse_resolution=8)
    count = sum(grid.rounds[:-1])
    parts = {name: getattr(grid, name)[:count] for name in ("points", "values", "shape_index")}
    with pytest.raises(ValueError, match=r"lacks \d+ ends of edges that cross"):
        marching_cubes(replace(grid, **parts), backend=backend)


def test_nan_is_refused(backend):
    with pytest.raises(ValueError, match="NaN"):
        marching_cubes(SparseGrid.from_dense(torch.full((1, 3, 3, 3), torch.nan)), backend=backend)


@pytest.mark.parametrize("point", [(0, 0, 9), (0, -1, 0), (2**31 - 1, 0, -(2**31))])
def test_points_outside_the_lattice_are_refused(point, backend):
    grid = dense_grid(sphere(), 8)
    points = torch.cat([torch.tensor([point], dtype=torch.int32), grid.points[1:]])
    with pytest.raises(ValueError, match="^grid has 1 points of shape 0 outside its lattice$"):
        marching_cubes(replace(grid, points=points), backend=backend)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"refine_vertices": -1}, ValueError, "refine_vertices must be at least 0; got -1"),
        ({"refine_vertices": 1.0}, TypeError, "refine_vertices must be an integer; got float"),
        (
            {"refine_vertices": 2, "field": None},
            ValueError,
            "refine_vertices=2 needs the field; pass field=...",
        ),
        ({"refine_vertices": 2, "field": 3}, TypeError, "field must be callable; got int"),
        ({"max_points_per_call": 0}, ValueError, "max_points_per_call must be at least 1; got 0"),
        ({"progress": True}, TypeError, "progress must be callable or None; got bool"),
        ({"level": float("nan")}, ValueError, "level must be finite; got nan"),
        ({"level": "high"}, TypeError, "level must be a number; got str"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    def field(points, shape_index):
        raise AssertionError("the field must not be used")

    with pytest.raises(error, match=f"^{message}$"):
        marching_cubes(dense_grid(sphere(), 8), **{"field": field} | options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"points": torch.int64}, TypeError, "points must be torch.int32; got torch.int64"),
        ({"shape_index": torch.int32}, TypeError, "shape_index must be torch.int64; got"),
        ({"values": torch.int32}, TypeError, "values must be floating; got torch.int32"),
        ({"values": "meta"}, ValueError, r"must be on one device; got \['cpu', 'meta', 'cpu'\]"),
        ({"coarse_resolution": 3}, ValueError, r"coarse_resolution \* 2\*\*k; got 8 with"),
        ({"coarse_resolution": 16}, ValueError, "at least coarse_resolution; got 8 < 16"),
        ({"resolution": 2**25}, ValueError, "resolution must be at most 16777216; got 33554432"),
        ({"num_shapes": 0}, ValueError, "num_shapes must be at least 1; got 0"),
        ({"level": float("inf")}, ValueError, "level must be finite; got inf"),
        ({"bounds": (1.0, 0.0)}, ValueError, "lower < upper"),
    ],
)
def test_bad_grids_are_refused(change, error, message):
    grid = dense_grid(sphere(), 8)
    ((name, value),) = change.items()
    if name in ("points", "values", "shape_index"):
        value = getattr(grid, name).to(value)
    with pytest.raises(error, match=message) as caught:
        replace(grid, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("middle", [0.0, 0.5, -4.0, 10.0, 1000.0])
def test_vertices_are_distinct_in_all_allowed_bounds(middle, backend):
    """Values next to the level put vertices as near to lattice points as possible."""
    for scale in (1e-3, 1.0, 1e3):
        bounds = (scale * middle - 1, scale * middle + 1)
        values = torch.full((1, 13, 13, 13), -1.0)
        values[0, 1::2, 1::2, 1::2] = 0.0
        try:
            grid = SparseGrid.from_dense(values, bounds=bounds)
        except ValueError as error:
            assert "too far from 0 for float32" in str(error) and abs(scale * middle) > 300
            continue
        ((vertices, faces),) = marching_cubes(grid, backend=backend)
        assert len(vertices.unique(dim=0)) == len(vertices) == 6 * 6**3
        assert smallest_area(vertices, faces) > 0


@pytest.mark.parametrize("shape", [(5, 5, 5), (1, 5, 5, 4), (2, 1, 1, 1)])
def test_from_dense_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"must be \(B, R \+ 1, R \+ 1, R \+ 1\)"):
        SparseGrid.from_dense(torch.zeros(shape))


def test_arrays_that_are_not_tensors_are_refused():
    values = np.zeros((1, 4, 4, 4), np.float32)
    with pytest.raises(TypeError, match=r"^values must be a torch\.Tensor; got ndarray$"):
        SparseGrid.from_dense(values)
    grid = SparseGrid.from_dense(torch.from_numpy(values))
    for name in ("points", "values", "shape_index"):
        message = rf"^SparseGrid\.{name} must be a torch\.Tensor; got ndarray$"
        with pytest.raises(TypeError, match=message):
            replace(grid, **{name: getattr(grid, name).numpy()})


def test_too_little_memory_is_reported_before_it_is_used(monkeypatch, backend):
    grid = mise(sphere(), resolution=16, coarse_resolution=8)
    monkeypatch.setattr(memory, "available_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"resolution 16 .*needs .* MiB, .* are free"):
        marching_cubes(grid, backend=backend)


def test_the_reference_needs_pymcubes(monkeypatch):
    grid = mise(sphere(), resolution=16, coarse_resolution=8)
    monkeypatch.setitem(sys.modules, "mcubes", None)
    with pytest.raises(ImportError, match="needs its kernel, .*: pip install PyMCubes$"):
        marching_cubes(grid, backend="reference")
