"""Tests of mise() against an independent oracle, published point counts and its guarantees."""

from types import SimpleNamespace

import pytest
import torch

from occvae.ops.field import choose_points_per_call
from occvae.ops.lattice import DEFAULT_BOUNDS, Lattice
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.sparse_grid import SparseGrid
from tests.fields import gyroid, lattice_hash, sphere, thin_chair, torus, world_to_lattice
from tests.ops.mise_oracle import corner_only_mise, voxel_list_mise


def lattice_field(field, resolution, shape=0):
    """Adapts a field to the oracle: lists of lattice points in, lists of numbers out."""

    def evaluate(points):
        world = Lattice(resolution, DEFAULT_BOUNDS).to_world(torch.tensor(points))
        return field(world, torch.full((len(points),), shape)).tolist()

    return evaluate


def known(grid: SparseGrid, shape: int = 0) -> dict:
    """Maps points to values for one shape. Fails if a point occurs twice."""
    chosen = grid.shape_index == shape
    points = [tuple(point) for point in grid.points[chosen].tolist()]
    values = dict(zip(points, grid.values[chosen].tolist(), strict=True))
    assert len(values) == len(points)
    return values


def assert_matches_oracle(field, resolution, coarse_resolution, backend, level=0.0):
    expected, rounds = voxel_list_mise(
        lattice_field(field, resolution), resolution, coarse_resolution, level
    )
    grid = mise(
        field,
        resolution=resolution,
        coarse_resolution=coarse_resolution,
        level=level,
        backend=backend,
    )
    assert known(grid) == expected
    assert grid.rounds == rounds  # both split in the rounds of the published code
    return grid


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("resolution", "coarse_resolution"), [(8, 1), (16, 2), (12, 3), (16, 4)])
def test_random_signs_give_the_points_of_the_oracle(seed, resolution, coarse_resolution, backend):
    # From a few inside points, where the result depends on hanging nodes, to half of all points.
    inside = (0.003, 0.01, 0.03, 0.1, 0.5, 0.99)[seed]
    field = lattice_hash(seed + resolution, resolution, inside)
    assert_matches_oracle(field, resolution, coarse_resolution, backend)


@pytest.mark.parametrize("seed", range(4))
def test_random_ties_give_the_points_of_the_oracle(seed, backend):
    field = lattice_hash(seed, 16, inside=(0.0, 0.0, 0.02, 0.98)[seed], tied=0.01)
    assert_matches_oracle(field, 16, 4, backend)


def test_random_signs_reach_beyond_the_corners(backend):
    """Corner-only refinement must fail on these fields, or they would not test exactness."""
    field = lattice_hash(18, 16, 0.03)
    corners = corner_only_mise(lattice_field(field, 16), 16, 4)
    grid = mise(field, resolution=16, coarse_resolution=4, backend=backend)
    assert known(grid).keys() > corners.keys()
    assert len(grid.rounds) > 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_tie_is_on_both_sides(dtype, backend):
    def field(points, shape_index):  # the plane x = 0 equals the level
        return torch.where(points[:, 0] == 0, 0.25, -1.0).to(dtype)

    grid = assert_matches_oracle(field, 16, 4, backend, level=0.25)
    assert grid.values.dtype == dtype
    assert {x for x, _, _ in known(grid)} == {0, 4, 6, 7, 8, 9, 10, 12, 16}


def test_the_level_is_compared_exactly(backend):
    """0.1 is not a float32, and the nearest float32 is larger, so the values are not ties."""

    def field(points, shape_index):
        return torch.full((len(points),), 0.1)

    options = {"resolution": 8, "coarse_resolution": 4, "backend": backend}
    assert mise(field, **options, level=0.1).rounds == [125]
    nearest = float(torch.tensor(0.1))
    assert mise(field, **options, level=nearest).rounds == [125, 604]


@pytest.mark.parametrize(
    ("field", "resolution", "coarse_resolution", "rounds"),
    [
        (sphere(), 128, 32, [35937, 19538, 78338]),
        (sphere(), 256, 32, [35937, 19538, 78338, 312506]),
        (gyroid, 128, 32, [35937, 199950, 871236, 1932]),
        (thin_chair, 128, 32, [35937, 10780, 46658]),
        (thin_chair, 128, 16, [4913, 2350, 7237, 31015, *[3122] * 5, 2759, 1405]),
    ],
    ids=["sphere 128", "sphere 256", "gyroid", "chair", "chair from 16"],
)
def test_point_counts_are_those_of_the_original_code(
    field, resolution, coarse_resolution, rounds, backend
):
    grid = mise(field, resolution=resolution, coarse_resolution=coarse_resolution, backend=backend)
    assert grid.rounds == rounds
    assert len(grid.points) == len(grid.values) == len(grid.shape_index) == sum(rounds)


def test_corner_only_refinement_loses_a_thin_chair(backend):
    corners = corner_only_mise(lattice_field(thin_chair, 128), 128, 16)
    exact = known(mise(thin_chair, resolution=128, coarse_resolution=16, backend=backend))
    assert len(corners) == 44_789 and len(exact) == 65_289
    assert corners.keys() < exact.keys()


def test_no_refinement_evaluates_the_whole_lattice(backend):
    grid = mise(sphere(), resolution=8, coarse_resolution=8, backend=backend)
    assert grid.rounds == [729]
    assert len(known(grid)) == 729


def test_a_batch_equals_its_shapes_one_by_one(backend):
    fields = [sphere(), thin_chair, torus(), lambda points, _: points[:, 0] * 0 - 1]

    def batch(points, shape_index):
        values = torch.stack([field(points, shape_index) for field in fields])
        return values.gather(0, shape_index[None])[0]

    grid = mise(batch, resolution=32, coarse_resolution=4, num_shapes=4, backend=backend)
    rounds = []
    for shape, field in enumerate(fields):
        alone = mise(field, resolution=32, coarse_resolution=4, backend=backend)
        assert known(grid, shape) == known(alone)
        rounds.append(alone.rounds)
    longest = max(len(r) for r in rounds)
    assert grid.rounds == [sum(r[i] for r in rounds if i < len(r)) for i in range(longest)]


def test_shapes_are_in_ascending_order_in_each_call(backend):
    calls = []

    def field(points, shape_index):
        calls.append(shape_index.tolist())
        radii = torch.tensor([0.4, 0.2, 0.3, -1.0, 0.45])
        return radii[shape_index] - points.norm(dim=1)

    grid = mise(
        field,
        resolution=32,
        coarse_resolution=4,
        num_shapes=5,
        max_points_per_call=1000,
        backend=backend,
    )
    rounds = len(calls)
    marching_cubes(grid, field=field, refine_vertices=2, max_points_per_call=500, backend=backend)
    assert len(calls) > rounds > len(grid.rounds)
    assert all(call == sorted(call) for call in calls)


@pytest.mark.parametrize(
    ("device", "gigabytes", "expected"),
    [("cpu", None, 2**18), ("cuda", 24, 2**18), ("cuda", 80, 2**20)],
)
def test_a_large_gpu_takes_more_points_per_call(device, gigabytes, expected, monkeypatch):
    memory = SimpleNamespace(total_memory=gigabytes and gigabytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert choose_points_per_call(None, torch.device(device)) == expected
    assert choose_points_per_call(5, torch.device(device)) == 5


def test_chunks_change_nothing(backend):
    calls = []

    def field(points, shape_index):
        assert points.shape == (len(shape_index), 3)
        calls.append(len(points))
        return torus()(points, shape_index)

    options = {"resolution": 32, "coarse_resolution": 8, "num_shapes": 2}
    whole = mise(field, **options, backend=backend)
    assert calls == whole.rounds
    calls.clear()
    chunked = mise(field, **options, max_points_per_call=1000, backend=backend)
    assert max(calls) == 1000
    assert len(calls) == sum(-(-n // 1000) for n in whole.rounds)
    assert torch.equal(whole.points, chunked.points)
    assert torch.equal(whole.values, chunked.values)


def test_a_field_may_reuse_its_memory(backend):
    buffer = torch.empty(1000)

    def field(points, shape_index):
        return torch.sub(0.35, points.norm(dim=1), out=buffer[: len(points)])

    options = {"resolution": 32, "coarse_resolution": 8, "backend": backend}
    reused = mise(field, **options, max_points_per_call=1000)
    fresh = mise(sphere(), **options, max_points_per_call=1000)
    assert torch.equal(reused.points, fresh.points)
    assert torch.equal(reused.values, fresh.values)


def test_the_field_receives_world_points_and_shape_indices(backend):
    def field(points, shape_index):
        assert points.dtype == torch.float32
        assert shape_index.dtype == torch.int64
        assert not torch.is_grad_enabled()
        return points.sum(1) * weight

    weight = torch.ones((), requires_grad=True)
    grid = mise(
        field, resolution=8, coarse_resolution=4, bounds=(-1.0, 3.0), num_shapes=2, backend=backend
    )
    assert not grid.values.requires_grad
    world = grid.world_points()
    assert world.min() == -1 and world.max() == 3
    assert torch.equal(grid.values, world.sum(1))
    assert grid.points.dtype == torch.int32
    assert grid.shape_index.unique().tolist() == [0, 1]


def test_lattice_coordinates_convert_as_in_the_published_code():
    lattice = torch.randint(0, 97, (50, 3), dtype=torch.int32)
    world = Lattice(96, (-0.55, 0.55)).to_world(lattice)
    assert world.dtype == torch.float32
    assert torch.equal(world, 1.1 * (lattice.float() / 96 - 0.5))
    back = world_to_lattice(world.double(), 96, (-0.55, 0.55))
    torch.testing.assert_close(back, lattice.double(), atol=1e-4, rtol=0)


def test_infinite_values_are_on_a_side(backend):
    def field(points, shape_index):
        return torch.where(sphere()(points, shape_index) >= 0, torch.inf, -torch.inf)

    infinite = mise(field, resolution=32, coarse_resolution=8, backend=backend)
    finite = mise(sphere(), resolution=32, coarse_resolution=8, backend=backend)
    assert torch.equal(infinite.points, finite.points)


def test_nan_is_refused_with_count_and_place(backend):
    def field(points, shape_index):
        bad = (points[:, 0] > 0.5) & (shape_index == 1)
        return torch.where(bad, torch.nan, 1.0)

    message = (
        r"NaN at 25 of 250 points of round 0, first at \(0.5500, -0.5500, -0.5500\) of shape 1$"
    )
    with pytest.raises(ValueError, match=message):
        mise(field, resolution=8, coarse_resolution=4, num_shapes=2, backend=backend)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resolution": 100}, ValueError, "got 100 .* 64 and 128, or pass coarse_resolution=25"),
        ({"resolution": 16}, ValueError, "got 16 < 32: .* 32, or pass coarse_resolution=16"),
        ({"resolution": 0}, ValueError, "resolution must be at least 1; got 0"),
        ({"resolution": 64.0}, TypeError, "resolution must be an integer; got float"),
        ({"coarse_resolution": -1}, ValueError, "coarse_resolution must be at least 1; got -1"),
        ({"num_shapes": 0}, ValueError, "num_shapes must be at least 1; got 0"),
        ({"max_points_per_call": 0}, ValueError, "max_points_per_call must be at least 1"),
        ({"level": float("nan")}, ValueError, "level must be finite; got nan"),
        ({"level": "high"}, TypeError, "level must be a number; got str"),
        ({"bounds": (1.0, -1.0)}, ValueError, "lower < upper; got"),
        ({"bounds": 0.5}, TypeError, "bounds must be two numbers"),
        ({"bounds": (1000.0, 1001.0)}, ValueError, "at resolution 64 are too far from 0 for float"),
        ({"resolution": 2**25}, ValueError, "resolution must be at most 16777216; got 33554432"),
        ({"progress": 1}, TypeError, "progress must be callable or None; got int"),
        ({"backend": "cuda"}, ValueError, "auto, native, reference; got 'cuda'"),
        ({"field": 3}, TypeError, "field must be callable; got int"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    options = {"field": sphere(), "resolution": 64} | options
    with pytest.raises(error, match=message) as caught:
        mise(options.pop("field"), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("returns", "error", "message"),
    [
        (lambda n: torch.zeros(n, 2), ValueError, r"\(125,\) or \(125, 1\); got \(125, 2\)"),
        (lambda n: torch.zeros(n, dtype=torch.bool), TypeError, "floating values; got torch.bool"),
        (lambda n: [0.0] * n, TypeError, "must return a tensor or a NumPy array; got list"),
        (lambda n: torch.zeros(n, device="meta"), ValueError, "values on cpu; got meta"),
    ],
)
def test_bad_fields_are_refused(returns, error, message):
    with pytest.raises(error, match=message):
        mise(lambda points, _: returns(len(points)), resolution=4, coarse_resolution=4)


def test_a_field_must_keep_its_dtype(backend):
    dtypes = iter([torch.float32, torch.float64])
    with pytest.raises(TypeError, match="torch.float32 in the first call and torch.float64 now"):
        mise(
            lambda points, shape: sphere()(points, shape).to(next(dtypes)),
            resolution=16,
            coarse_resolution=8,
            backend=backend,
        )


def test_progress_counts_the_points_of_each_round(backend):
    seen = []
    grid = mise(
        sphere(),
        resolution=32,
        coarse_resolution=8,
        max_points_per_call=500,
        progress=lambda *state: seen.append(state),
        backend=backend,
    )
    for number, total in enumerate(grid.rounds):
        dones = [done for round_, done, of in seen if round_ == number and of == total]
        assert dones == [*range(500, total, 500), total]


@pytest.mark.needs_cuda
def test_a_gpu_evaluates_the_same_points():
    field = lattice_hash(18, 32, 0.03, tied=0.01)  # integers only, so rounding cannot differ
    options = {"resolution": 32, "coarse_resolution": 4, "num_shapes": 2}
    on_cpu, on_gpu = (mise(field, **options, device=device) for device in ("cpu", "cuda"))
    assert on_gpu.points.is_cuda and on_gpu.rounds == on_cpu.rounds
    for shape in range(2):
        assert known(on_gpu, shape) == known(on_cpu, shape)


def test_interruption_in_the_field_passes_through(backend):
    def field(points, shape_index):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mise(field, resolution=32, backend=backend)
