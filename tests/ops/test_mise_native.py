"""Tests of the kernels of MISE beyond the points: order, state, memory, threads and batches."""

import warnings

import pytest
import torch
from torch import Tensor

from occvae.ops.mise import mise
from occvae.ops.mise_reference import coarse_lattice, refine
from occvae.ops.sparse_grid import SparseGrid
from occvae.system import memory
from tests.conftest import needs_kernels
from tests.fields import gyroid, lattice_hash, sphere, thin_chair, torus
from tests.ops.test_mise import known

pytestmark = needs_kernels
CPU = torch.device("cpu")


def assert_same(native: SparseGrid, reference: SparseGrid, *shapes: int) -> None:
    """Asserts equal values at equal points of each shape, in any order, each point once."""
    assert native.rounds == reference.rounds
    for shape in shapes:
        first, second = (sorted_values(grid, shape) for grid in (native, reference))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def sorted_values(grid: SparseGrid, shape: int) -> tuple[Tensor, Tensor]:
    """Points of one shape as sorted numbers, and their values. Fails if a point occurs twice."""
    chosen = grid.shape_index == shape
    x, y, z = grid.points[chosen].long().unbind(1)
    edge = grid.resolution + 1
    numbers, order = ((x * edge + y) * edge + z).sort()
    assert (numbers.diff() > 0).all()
    return numbers, grid.values[chosen][order]


def pair(field, resolution, coarse_resolution, num_shapes=1, level=0.0):
    options = {"coarse_resolution": coarse_resolution, "num_shapes": num_shapes, "level": level}
    return [
        mise(field, resolution=resolution, **options, backend=backend)
        for backend in ("native", "reference")
    ]


@pytest.mark.parametrize("coarse_resolution", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("field", [sphere(), torus(), thin_chair, gyroid])
def test_kernels_equal_the_reference(field, coarse_resolution):
    native, reference = pair(field, 64, coarse_resolution)
    assert_same(native, reference, 0)


@pytest.mark.parametrize("seed", range(10))
def test_kernels_equal_the_reference_on_batches_of_random_signs(seed):
    coarse_resolution, depth = (
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 13)[seed],
        (5, 4, 3, 3, 3, 2, 2, 2, 2, 1)[seed],
    )
    resolution = coarse_resolution << depth
    inside = (0.5, 0.003, 0.01, 0.03, 0.1, 0.9, 0.99, 0.2, 0.02, 0.05)[seed]
    field = lattice_hash(seed, resolution, inside, tied=0.002 * (seed % 3))
    native, reference = pair(field, resolution, coarse_resolution, num_shapes=3)
    assert_same(native, reference, 0, 1, 2)


def test_empty_and_full_fields_are_evaluated_on_the_coarse_lattice():
    for value in (-1.0, 1.0):
        native, reference = pair(lambda p, _, value=value: torch.full((len(p),), value), 32, 8)
        assert native.rounds == reference.rounds == [729]


def test_a_field_equal_to_the_level_is_refined_everywhere():
    native, _ = pair(lambda p, _: torch.full((len(p),), 0.5), 16, 4, level=0.5)
    assert len(known(native)) == 17**3


def test_the_order_of_points_does_not_depend_on_threads(restored_threads):
    field = lattice_hash(7, 64, 0.05)
    grids = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        grids.append(mise(field, resolution=64, coarse_resolution=8, num_shapes=2))
    for grid in grids[1:]:
        assert torch.equal(grid.points, grids[0].points)
        assert torch.equal(grid.shape_index, grids[0].shape_index)


def ops_in_schedule(field, resolution, coarse_resolution, chunk, seed):
    """Runs the ops to their fixpoint, marking only a random part of points before each choice."""
    sizes = (resolution, coarse_resolution)
    generator = torch.Generator().manual_seed(seed)
    ops = torch.ops.occvae
    state = torch.zeros(1, ops._mise_state_size(*sizes), dtype=torch.int64)
    points, shapes = coarse_lattice(coarse_resolution, resolution // coarse_resolution, 1, CPU)
    waiting, done = (points, shapes), []
    while len(waiting[0]):
        order = torch.randperm(len(waiting[0]), generator=generator)
        points, shapes = (part[order] for part in waiting)
        values = field(points, shapes)
        ops.mise_mark(state, points[:chunk], shapes[:chunk], values[:chunk], 0.0, *sizes)
        done.append(points[:chunk])
        splits, added = ops.mise_split(state, *sizes)
        new = ops.mise_points(state, splits, int(added), *sizes)
        waiting = tuple(
            torch.cat([old[chunk:], more]) for old, more in zip((points, shapes), new, strict=True)
        )
    return torch.cat(done)


@pytest.mark.parametrize("seed", range(3))
def test_every_schedule_reaches_the_same_points(seed):
    on_lattice = torch.rand(17, 17, 17, generator=torch.Generator().manual_seed(seed)) - 0.02

    def field(points, shape_index):
        x, y, z = points.long().unbind(1)
        return -on_lattice[x, y, z]

    points, *_ = refine(
        field, resolution=16, coarse_resolution=4, level=0.0, num_shapes=1, device=CPU
    )
    expected = {tuple(point) for point in points.tolist()}
    for chunk in (7, 60, 10_000):
        got = ops_in_schedule(field, 16, 4, chunk, seed).tolist()
        assert {tuple(point) for point in got} == expected and len(got) == len(expected)


def test_memory_is_checked_before_the_field_is_used(monkeypatch):
    def field(points, shape_index):
        raise AssertionError("the field must not be used")

    monkeypatch.setattr(memory, "available_memory", lambda device: 2**30)
    with pytest.raises(MemoryError, match=r"2048 from 32 of 8 shapes needs 4\.\d GiB, 1.0 GiB are"):
        mise(field, resolution=2048, num_shapes=8)


def test_a_round_beyond_memory_is_refused_before_it_starts(monkeypatch):
    calls = []

    def field(points, shape_index):
        calls.append(len(points))
        return gyroid(points, shape_index)

    monkeypatch.setattr(memory, "available_memory", lambda device: 20 * 2**20)
    with pytest.raises(MemoryError, match=r"mise at resolution 128 .* MiB are free on cpu: choose"):
        mise(field, resolution=128)
    assert calls == [35937, 199950]


def test_the_state_of_kernels_takes_little_memory():
    for resolution, limit in ((512, 12), (1024, 90), (2048, 700)):
        size = torch.ops.occvae._mise_state_size(resolution, 32)
        assert 8 * size < limit * 2**20


def waits_and_rounds(resolution):
    """Number of times that the host waits for the GPU, and number of rounds."""

    def field(points, shape_index):
        return 0.35 - points.norm(dim=1)

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            grid = mise(field, resolution=resolution, coarse_resolution=8, device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught), len(grid.rounds)


@pytest.mark.needs_cuda
def test_the_host_waits_for_the_gpu_once_per_round():
    waits_and_rounds(16)  # first, what happens once per process
    few, many = waits_and_rounds(16), waits_and_rounds(128)
    assert many[0] - few[0] == many[1] - few[1] > 0


def test_the_ops_refuse_wrong_arguments():
    ops = torch.ops.occvae
    state = torch.zeros(1, ops._mise_state_size(16, 4), dtype=torch.int64)
    point, shape = torch.tensor([[0, 0, 17]], dtype=torch.int32), torch.tensor([0])
    for points, shapes in ((point, shape), (point - 18, shape), (point - 1, shape + 1)):
        problems = ops.mise_mark(state, points, shapes, torch.ones(1), 0.0, 16, 4)
        assert problems.tolist() == [0, 1]
    assert not state.any()
    with pytest.raises(RuntimeError, match="state is not of this resolution"):
        ops.mise_split(state, 32, 4)
    with pytest.raises(RuntimeError, match="must be as mise_split returns them"):
        ops.mise_points(state, shape, 0, 16, 4)


def test_nan_is_counted_and_is_on_neither_side():
    ops = torch.ops.occvae
    state = torch.zeros(1, ops._mise_state_size(16, 4), dtype=torch.int64)
    points, shapes = coarse_lattice(4, 4, 1, CPU)
    values = torch.ones(len(points)).index_fill(0, torch.tensor([3, 50]), torch.nan)
    assert ops.mise_mark(state, points, shapes, values, 0.0, 16, 4).tolist() == [2, 0]
    assert int(ops.mise_split(state, 16, 4)[1]) == 0


def test_opcheck():
    ops = torch.ops.occvae
    state = torch.zeros(2, ops._mise_state_size(16, 4), dtype=torch.int64)
    points, shapes = coarse_lattice(4, 4, 2, CPU)
    values = sphere(5.0, (8.0, 8.0, 8.0))(points.float(), shapes).half()
    torch.library.opcheck(ops.mise_mark.default, (state, points, shapes, values, 0.1, 16, 4))
    ops.mise_mark(state, points, shapes, values, 0.1, 16, 4)
    torch.library.opcheck(ops.mise_split.default, (state.clone(), 16, 4))
    splits, added = ops.mise_split(state, 16, 4)
    assert int(added)
    torch.library.opcheck(ops.mise_points.default, (state, splits, int(added), 16, 4))
