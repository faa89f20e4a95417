"""Tests of bounds with different sides against the oracle of MISE and against dense evaluation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch import Tensor

from occvae.geometry.extract_mesh import extract_mesh
from occvae.ops.lattice import Lattice
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.validation import MIN_EDGE_FRACTION, check_bounds
from tests.fields import sphere, thin_chair, waves
from tests.ops.mise_oracle import voxel_list_mise
from tests.ops.test_marching_cubes import is_closed
from tests.ops.test_mise import known
from tests.ops.test_topology import euler_of_solid


@st.composite
def boxes(draw):
    corner = draw(st.tuples(*[st.floats(-3, 3)] * 3))
    sides = draw(st.permutations([1.0, draw(st.floats(0.25, 1)), draw(st.floats(0.25, 1))]))
    size = draw(st.floats(0.3, 4))
    return corner, tuple(low + size * side for low, side in zip(corner, sides, strict=True))


def axes_of(lattice: Lattice) -> list[Tensor]:
    """World coordinates of the lattice points within the bounds, along each axis."""
    diagonal = torch.arange(lattice.resolution + 1, dtype=torch.int32)[:, None].expand(-1, 3)
    world = lattice.to_world(diagonal)
    return [world[: count + 1, axis].contiguous() for axis, count in enumerate(lattice.last)]


class Table:
    """A field with a value for each lattice point. Fails at all other points."""

    def __init__(self, lattice: Lattice, values: Tensor):
        self.axes, self.values, self.calls = axes_of(lattice), values, []

    def __call__(self, points: Tensor) -> Tensor:
        found = [
            torch.searchsorted(axis, coordinates.contiguous())
            for axis, coordinates in zip(self.axes, points.unbind(1), strict=True)
        ]
        for axis, index, coordinates in zip(self.axes, found, points.unbind(1), strict=True):
            assert torch.equal(axis[index], coordinates)
        self.calls.append(len(points))
        return self.values[tuple(found)]


def random_table(lattice: Lattice, seed: int, inside: float, tied: float = 0.0) -> Table:
    generator = torch.Generator().manual_seed(seed)
    shape = [count + 1 for count in lattice.last]
    uniform = torch.rand(shape, generator=generator)
    values = torch.where(uniform < inside, 1.0, -1.0) * torch.rand(shape, generator=generator)
    return Table(lattice, torch.where(uniform > 1 - tied, 0.0, values))


def guarded(field, bounds):
    """The same field, which fails at points beyond the bounds."""
    lower, upper = torch.tensor(bounds, dtype=torch.float32)

    def inner(points, shape_index):
        assert (points >= lower).all() and (points <= upper).all()
        return field(points, shape_index)

    return inner


def assert_matches_oracle(table, bounds, resolution, coarse_resolution, backend):
    """The oracle sees -inf beyond the box. Only points within the box may be evaluated."""
    grid = mise(
        table,
        resolution=resolution,
        coarse_resolution=coarse_resolution,
        bounds=bounds,
        backend=backend,
    )
    last, counts = grid.lattice.last, []

    def evaluate(points):
        within = [all(i <= n for i, n in zip(point, last, strict=True)) for point in points]
        counts.append(sum(within))
        return [
            float(table.values[point]) if inside else -float("inf")
            for point, inside in zip(points, within, strict=True)
        ]

    expected, _ = voxel_list_mise(evaluate, resolution, coarse_resolution)
    assert known(grid) == expected
    assert grid.rounds == counts
    assert sum(table.calls) == sum(counts)


@settings(max_examples=60)
@given(bounds=boxes(), resolution=st.sampled_from([16, 24, 100, 200]))
def test_lattices_fill_a_box_up_to_its_faces(bounds, resolution):
    bounds = check_bounds(bounds, resolution)
    lattice = Lattice(resolution, bounds)
    for axis, low, high in zip(axes_of(lattice), lattice.lower, lattice.upper, strict=True):
        error = 4 * 2**-23 * max(abs(low), abs(high), lattice.cell * resolution)
        ends = torch.tensor([low, high], dtype=torch.float32)
        assert ends[0] <= axis[0] <= low + error and high - error <= axis[-1] <= ends[1]
        steps = axis.double().diff() / lattice.cell
        tolerance = 2 * error / lattice.cell
        assert (steps[:-1] - 1).abs().max() < tolerance
        assert 0.5 - tolerance < steps[-1] < 1.5 + tolerance


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("resolution", "coarse_resolution"), [(16, 8), (24, 12), (16, 16)])
def test_random_signs_in_a_box_give_the_points_of_the_oracle(
    seed, resolution, coarse_resolution, backend
):
    generator = np.random.default_rng(seed)
    sides = generator.permutation([1.0, *generator.uniform(0.26, 1, 2)]) * 1.7
    corner = generator.uniform(-2, 2, 3)
    bounds = check_bounds((corner, corner + sides), resolution)
    inside = (0.003, 0.01, 0.03, 0.1, 0.5, 0.97, 1.0, 0.02)[seed]
    table = random_table(Lattice(resolution, bounds), seed, inside, tied=0.02 * (seed % 2))
    assert_matches_oracle(table, bounds, resolution, coarse_resolution, backend)


@settings(max_examples=30, deadline=None)
@given(
    bounds=boxes(),
    seed=st.integers(0, 2**31),
    inside=st.sampled_from([0.005, 0.05, 0.5, 0.99]),
    tied=st.sampled_from([0.0, 0.05]),
)
def test_any_box_gives_the_points_of_the_oracle(bounds, seed, inside, tied):
    table = random_table(Lattice(16, check_bounds(bounds, 16)), seed, inside, tied)
    assert_matches_oracle(table, bounds, 16, 8, "auto")


def dense_vertices(table: Table, lattice: Lattice) -> np.ndarray:
    """Vertices from the definition: one on each edge of the padded array between two sides."""
    values = np.pad(table.values.double().numpy(), 1, constant_values=-np.inf)
    axes = [axis.double().numpy() for axis in table.axes]
    axes = [np.r_[a[0] - lattice.cell, a, a[-1] + lattice.cell] for a in axes]
    found = []
    for axis in range(3):
        first, second = (np.delete(values, end, axis) for end in (-1, 0))
        lows = np.argwhere((first >= 0) != (second >= 0))
        one, two = first[tuple(lows.T)], second[tuple(lows.T)]
        finite = np.isfinite(one) & np.isfinite(two)
        share = np.isinf(one).astype(float)
        share[finite] = one[finite] / (one[finite] - two[finite])
        share = share.clip(MIN_EDGE_FRACTION, 1 - MIN_EDGE_FRACTION)
        where = np.stack([a[i] for a, i in zip(axes, lows.T, strict=True)], axis=1)
        where[:, axis] += share * (axes[axis][lows[:, axis] + 1] - where[:, axis])
        found.append(where)
    return np.concatenate(found)


@settings(max_examples=30, deadline=None)
@given(
    bounds=boxes(),
    seed=st.integers(0, 2**31),
    inside=st.sampled_from([0.01, 0.2, 0.8, 1.0]),
    backend=st.sampled_from(["auto", "reference"]),
)
def test_meshes_in_any_box_are_those_of_dense_evaluation(bounds, seed, inside, backend):
    lattice = Lattice(16, check_bounds(bounds, 16))
    table = random_table(lattice, seed, inside)
    grid = mise(table, resolution=16, coarse_resolution=16, bounds=bounds, backend=backend)
    assert table.calls == grid.rounds == [table.values.numel()]
    ((vertices, faces),) = marching_cubes(grid, backend=backend)
    expected = dense_vertices(table, lattice)
    assert len(vertices) == len(expected)
    if len(expected):
        distances, nearest = cKDTree(expected).query(vertices.double().numpy())
        assert distances.max() < 1e-4 * lattice.cell + 1e-6
        assert len(set(nearest.tolist())) == len(expected)
    assert is_closed(faces)
    edges = 3 * len(faces) // 2
    if backend == "auto":
        euler = len(vertices) - edges + len(faces)
        assert euler == 2 * euler_of_solid((table.values >= 0).numpy())


UNEVEN = ((-0.52, -0.33, -0.47), (0.51, 0.4, 0.3))  # cuts the fields below on several sides


@pytest.mark.parametrize(
    "field", [sphere(0.45), waves(0), thin_chair], ids=["ball", "waves", "chair"]
)
def test_refinement_finds_the_surface_of_dense_evaluation(field, backend):
    options = {"resolution": 64, "bounds": UNEVEN, "backend": backend}
    fine = mise(guarded(field, UNEVEN), **options, coarse_resolution=64)
    sparse = mise(guarded(field, UNEVEN), **options, coarse_resolution=32)
    assert sum(sparse.rounds) < 0.6 * sum(fine.rounds)
    (v_fine, f_fine), (v_sparse, f_sparse) = (
        marching_cubes(grid, backend=backend)[0] for grid in (fine, sparse)
    )
    assert len(f_fine) == len(f_sparse) > 1000
    distances, nearest = cKDTree(v_fine.numpy()).query(v_sparse.numpy())
    assert distances.max() == 0 and len(set(nearest.tolist())) == len(v_fine) == len(v_sparse)


@pytest.mark.parametrize("detach", [False, True])
def test_refined_vertices_and_normals_stay_within_a_box(detach, backend):
    def field(points, shape_index):
        height = torch.expm1(8 * (0.45 - points.norm(dim=1)))
        return height.detach() if detach else height

    (mesh,) = extract_mesh(
        guarded(field, UNEVEN),
        resolution=64,
        bounds=UNEVEN,
        refine_vertices=5,
        normals=True,
        backend=backend,
    )
    assert mesh.is_watertight and mesh.is_winding_consistent
    vertices, (lower, upper) = mesh.vertices, np.array(UNEVEN)
    cell = 1.03 / 64
    beyond = (vertices > upper + cell / 2e3) * 1.0 - (vertices < lower - cell / 2e3)
    caps = beyond.any(axis=1)
    assert 0.1 < caps.mean() < 0.9
    np.testing.assert_allclose(np.linalg.norm(vertices[~caps], axis=1), 0.45, atol=2e-5)
    np.testing.assert_array_equal(mesh.vertex_normals[caps], beyond[caps])
    outward = vertices[~caps] / 0.45
    assert (mesh.vertex_normals[~caps] * outward).sum(axis=1).min() > 0.9999
    excess = np.maximum(vertices - upper, lower - vertices)
    np.testing.assert_allclose(excess[caps].max(axis=1), MIN_EDGE_FRACTION * cell, atol=1e-7)


def test_a_full_box_gives_the_box(backend):
    (mesh,) = extract_mesh(
        lambda points: points.new_ones(len(points)),
        resolution=32,
        bounds=UNEVEN,
        backend=backend,
    )
    assert mesh.is_watertight and mesh.euler_number == 2
    assert mesh.volume == pytest.approx(1.03 * 0.73 * 0.77, rel=3e-4)
    np.testing.assert_allclose(mesh.bounds, UNEVEN, atol=1.1e-3 * 1.03 / 32)


def test_a_box_of_whole_cells_gives_the_mesh_of_the_cube(backend):
    """The ball lies within both, and the lattices coincide."""
    field = sphere(0.2, (-0.01, 0.02, -0.15))
    options = {"resolution": 64, "backend": backend, "refine_vertices": 2}
    (cube,) = extract_mesh(field, bounds=(-0.5, 0.5), **options)
    (box,) = extract_mesh(field, bounds=((-0.5,) * 3, (0.5, 0.25, 0.125)), **options)
    np.testing.assert_array_equal(box.faces, cube.faces)
    np.testing.assert_allclose(box.vertices, cube.vertices, atol=1e-7)


def test_a_box_of_equal_sides_is_a_cube(backend):
    options = {"resolution": 32, "backend": backend}
    pair = mise(sphere(), bounds=(-0.5, 0.5), **options)
    box = mise(sphere(), bounds=np.array([[-0.5] * 3, [0.5] * 3], np.float32), **options)
    assert box.bounds == pair.bounds == (-0.5, 0.5)
    assert torch.equal(box.values, pair.values) and torch.equal(box.points, pair.points)
    lower = torch.tensor([1.5, -2.5, 0.5])
    moved = mise(sphere(center=(2, -2, 1)), bounds=(lower, lower + 1), **options)
    assert len(moved.points) == len(pair.points) == sum(moved.rounds)
    ((vertices, faces),) = marching_cubes(moved, backend=backend)
    ((expected, expected_faces),) = marching_cubes(pair, backend=backend)
    assert torch.equal(faces, expected_faces)
    torch.testing.assert_close(vertices - lower - 0.5, expected, atol=1e-6, rtol=0)


def test_shapes_of_a_batch_share_a_box(backend):
    radii = torch.tensor([0.3, -1.0, 0.6])
    calls, states = [], []

    def field(points, shape_index):
        calls.append(len(points))
        return radii[shape_index] - points.norm(dim=1)

    options = {"resolution": 32, "coarse_resolution": 8, "bounds": UNEVEN, "backend": backend}
    batch = mise(
        guarded(field, UNEVEN),
        num_shapes=3,
        max_points_per_call=1000,
        progress=lambda *state: states.append(state),
        **options,
    )
    assert max(calls) == 1000 and sum(calls) == sum(batch.rounds)
    assert [total for _, done, total in states if done == total] == batch.rounds
    for shape, radius in enumerate(radii.tolist()):
        assert known(batch, shape) == known(mise(sphere(radius), **options))
    beyond = batch.values == -torch.inf
    assert torch.equal(beyond, ~batch.lattice.contains(batch.points))
    assert sum(batch.rounds) == int((~beyond).sum())


def test_half_precision_and_negative_insides_work_in_a_box(backend):
    (mesh,) = extract_mesh(
        lambda points: (points.norm(dim=1, keepdim=True) - 0.45).half(),
        inside="negative",
        resolution=32,
        bounds=UNEVEN,
        backend=backend,
    )
    (expected,) = extract_mesh(sphere(0.45), resolution=32, bounds=UNEVEN, backend=backend)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(expected.volume, rel=1e-3)


def test_nan_counts_only_evaluated_points():
    def field(points):
        return torch.where(points[:, 0] > 0.5, torch.nan, 1.0)

    bounds = ((-1.0, -1.0, -1.0), (1.0, 0.0, 0.0))
    message = r"NaN at 9 of 45 points of round 0, first at \(1.0000, -1.0000, -1.0000\) of shape 0"
    with pytest.raises(ValueError, match=message):
        mise(field, resolution=4, coarse_resolution=4, bounds=bounds)


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ([-1, -1, -1, 1, 1, 1], TypeError, "two numbers .* or two points .*; got .-1, -1, -1, 1"),
        (np.zeros((3, 2)), TypeError, "two numbers .* or two points"),
        ((0, (1, 2)), TypeError, "two numbers .* or two points"),
        ("ab", TypeError, "two numbers .* or two points"),
        (((0, 0, 0), (1, -1, 1)), ValueError, "lower < upper; got"),
        (((0, 0, 0), (1, np.nan, 1)), ValueError, "must be finite"),
        (((0, 0, 0), (1, 1, 0.01)), ValueError, "side of 0.01, less than a cell of 0.0156.*100"),
        (((0, 0, 0), (1, 1, 0.05)), ValueError, "less than two cells .* coarse_resolution=64"),
        (((0, 0, 1e5), (1, 0.5, 1e5 + 1)), ValueError, "too far from 0 for float32"),
    ],
)
def test_bad_boxes_are_refused_in_one_line(bounds, error, message):
    with pytest.raises(error, match=message) as caught:
        mise(sphere(), resolution=64, coarse_resolution=32, bounds=bounds)
    assert "\n" not in str(caught.value)


def test_a_dense_array_needs_equal_sides():
    values = torch.ones(1, 9, 9, 9)
    with pytest.raises(ValueError, match="bounds of a dense array must have equal sides"):
        SparseGrid.from_dense(values, bounds=((0, 0, 0), (1, 1, 0.5)))
    grid = SparseGrid.from_dense(values, bounds=((0, 1, 2), (1, 2, 3)))
    ((vertices, _),) = marching_cubes(grid)
    assert vertices.amin(0).tolist() == pytest.approx([0, 1, 2], abs=2e-4)
    assert vertices.amax(0).tolist() == pytest.approx([1, 2, 3], abs=2e-4)


def test_every_lattice_point_of_a_thin_box_is_reached(backend):
    """A plate in a box of two coarse cells is found, though it touches no face of the box."""
    bounds = ((0.0, 0.0, 0.0), (1.0, 1.0, 0.25))
    plate = torch.tensor([0.5, 0.5, 0.125])

    def field(points, shape_index):
        away = (points - plate).abs() - torch.tensor([0.4, 0.4, 0.06])
        return -away.amax(dim=1)

    (mesh,) = extract_mesh(
        guarded(field, bounds), resolution=64, coarse_resolution=8, bounds=bounds, backend=backend
    )
    assert mesh.volume == pytest.approx(0.8 * 0.8 * 0.12, rel=0.01)
