"""Extractions use no more memory than they ask for, and refuse what does not fit."""

import json
from functools import cache

import pytest
import torch

from timing import growth_at_peak
from occvae.geometry.extract_mesh import extract_mesh
from occvae.ops import marching_cubes as marching_cubes_module
from occvae.ops import vertex_refinement
from occvae.ops.caps import count_cap_points
from occvae.ops.marching_cubes import check_memory, count_bricks, marching_cubes
from occvae.ops.mise import mise
from occvae.ops.sparse_grid import SparseGrid
from occvae.system import memory
from tests.conftest import BACKENDS, needs_kernels
from tests.fields import gyroid, sphere, torus
from tests.fresh_process import run_fresh

_SLACK = 8 * 2**20  # for the allocator, and for libraries that are loaded on first use


def full(points, shape_index):
    """A field that is inside everywhere, so that the whole mesh is caps."""
    return torch.ones(len(points))


def half(points, shape_index):
    return points[:, 0] - 0.013


def estimate(monkeypatch, grid, backend: str, refined_vertices: int = 0) -> int:
    """Returns the bytes that marching_cubes asks for, with caps and refined vertices."""
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(
            marching_cubes_module, "require_memory", lambda needed, *_: asked.append(needed)
        )
        sizes = (grid.resolution, len(grid.points), grid.points.device, backend)
        check_memory(*sizes, count_bricks(grid), count_cap_points(grid, 0.0))
    return asked[0] + vertex_refinement._VERTEX_BYTES * refined_vertices


def specks(points, shape_index):
    """Tiny balls around every fourth lattice point of resolution 32: deep but sparse refinement."""
    spacing = 1.1 / 8
    offsets = torch.remainder(points + 0.55 + spacing / 2, spacing) - spacing / 2
    return 2e-4 - offsets.norm(dim=1)


FIELDS = {"full": full, "half": half, "sphere": sphere(), "specks": specks, "gyroid": gyroid}
DENSE_CASES = [(name, resolution) for name in list(FIELDS)[:3] for resolution in (128, 256)]
CASES = [*DENSE_CASES, ("specks", 1024)]


@cache
def grid_of(name: str, resolution: int) -> SparseGrid:
    return mise(FIELDS[name], resolution=resolution)


def in_a_process(call: str) -> object:
    """Calls a function below in a fresh process, without memory that earlier tests have freed."""
    code = f"import json; from {__name__} import *; print(json.dumps({call}))"
    return json.loads(run_fresh(code).splitlines()[-1])


def growths_of_marching_cubes(backend: str) -> list[int | None]:
    growths = []
    for name, resolution in CASES if backend == "native" else DENSE_CASES:
        grid = mise(FIELDS[name], resolution=resolution)
        marching_cubes(mise(FIELDS[name], resolution=64), backend=backend)  # loads libraries
        growths.append(growth_at_peak(lambda grid=grid: marching_cubes(grid, backend=backend)))
    return growths


def growth_of_refinement(name: str, backend: str) -> tuple[int | None, int]:
    """Returns bytes and number of vertices."""
    grid = mise(FIELDS[name], resolution=256)
    meshes = []

    def run():
        options = dict(field=FIELDS[name], refine_vertices=2, backend=backend)
        meshes.extend(marching_cubes(grid, **options))

    return growth_at_peak(run), len(meshes[0][0])


def growth_of_reference(name: str) -> int | None:
    mise(FIELDS[name], resolution=64, backend="reference")
    return growth_at_peak(lambda: mise(FIELDS[name], resolution=128, backend="reference"))


@pytest.fixture(scope="module", params=BACKENDS)
def growths(request: pytest.FixtureRequest) -> tuple[str, list[int | None]]:
    return request.param, in_a_process(f"growths_of_marching_cubes({request.param!r})")


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{n}-{r}" for n, r in CASES])
def test_marching_cubes_uses_no_more_memory_than_it_asks_for(growths, number, monkeypatch):
    backend, found = growths
    if number >= len(found):
        pytest.skip("needs gigabytes on a dense grid")
    growth = found[number]
    if growth is None:
        pytest.skip("only Linux tells the peak")
    name, resolution = CASES[number]
    needed = estimate(monkeypatch, grid_of(name, resolution), backend)
    assert growth <= needed + _SLACK
    assert needed <= 5 * growth + _SLACK  # and it does not ask for far too much


@pytest.mark.parametrize("name", ["full", "half", "sphere"])
def test_refinement_uses_no_more_memory_than_it_asks_for(name, backend, monkeypatch):
    growth, vertices = in_a_process(f"growth_of_refinement({name!r}, {backend!r})")
    if growth is None:
        pytest.skip("only Linux tells the peak")
    needed = estimate(monkeypatch, grid_of(name, 256), backend, vertices)
    assert growth <= needed + _SLACK


@pytest.mark.parametrize("coarse_resolution", [4, 8, 32])
@pytest.mark.parametrize("field", [full, half, gyroid, sphere()])
def test_cap_points_are_counted_or_overestimated(field, coarse_resolution):
    """Counts equal those of a dense lattice, which knows every inside point of a face."""
    grid = mise(field, resolution=32, coarse_resolution=coarse_resolution)
    dense = mise(field, resolution=32, coarse_resolution=32)
    values = dense.values.new_empty([33] * 3)
    values[dense.points.long().unbind(1)] = dense.values
    faces = [values.select(axis, end) for axis in range(3) for end in (0, -1)]
    exact = sum(int((face >= 0).sum()) for face in faces)
    if coarse_resolution == 32:
        assert count_cap_points(grid, 0.0) == exact
    assert exact <= count_cap_points(grid, 0.0) <= 4 * exact


@needs_kernels
def test_caps_that_do_not_fit_are_refused(monkeypatch):
    """The caps have 25 million points, of which mise() knows 6,000."""
    grid = mise(full, resolution=2048)
    monkeypatch.setattr(memory, "available_memory", lambda device: 2 * 2**30)
    message = r"marching cubes at resolution 2048 needs 2\.\d GiB, 2.0 GiB are free on cpu: choose"
    with pytest.raises(MemoryError, match=message):
        marching_cubes(grid, backend="native")


@needs_kernels
def test_a_surface_without_caps_is_not_refused_for_possible_caps(monkeypatch):
    grid = mise(sphere(), resolution=512)
    free = 200 * 2**20  # caps on all faces of the bounds would need 140 MB more
    monkeypatch.setattr(memory, "available_memory", lambda device: free)
    marching_cubes(grid, backend="native")


@pytest.mark.parametrize(
    ("resolution", "coarse_resolution"),
    [(96, 24), (100, 25), pytest.param(512, 16, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("field", [specks, torus(), sphere()])
def test_bricks_are_counted(field, resolution, coarse_resolution):
    """Along each axis, the brick of a point at x starts at 8 floor((x + 1) / 8) - 1."""
    grid = mise(field, resolution=resolution, coarse_resolution=coarse_resolution)
    assert count_bricks(grid) == len(((grid.points + 1) // 8).unique(dim=0))


def test_the_reference_implementation_asks_for_memory_before_each_round(monkeypatch):
    """The first rounds fit. Later rounds of a gyroid are dense and do not."""
    calls = []

    def field(points, shape_index):
        calls.append(len(points))
        return gyroid(points, shape_index)

    monkeypatch.setattr(memory, "available_memory", lambda device: 100 * 2**20)
    with pytest.raises(MemoryError, match=r"mise at resolution 128 .* 100.0 MiB are free on cpu"):
        mise(field, resolution=128, backend="reference")
    assert calls == [35937, 199950]


def test_free_memory_is_queried_again_only_for_large_requests(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "available_memory", lambda device: asked.append(0) or 1000)
    free = memory.FreeMemory(torch.device("cpu"))
    for needed, count in ((100, 1), (250, 1), (251, 2), (10, 2)):
        free.require(needed, "it", "take less")
        assert len(asked) == count
    with pytest.raises(MemoryError, match="^it needs .* are free on cpu: take less$"):
        free.require(1001, "it", "take less")
    free.require(900, "it", "take less", kept=900)
    count = len(asked)
    free.require(50, "it", "take less")  # more than a quarter of the 100 that are left
    assert len(asked) == count + 1


def test_a_small_request_on_cuda_is_not_queried(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "available_memory", lambda device: asked.append(0) or 900)
    total = type("Properties", (), {"total_memory": 1000})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    cuda = torch.device("cuda")
    assert memory.require_memory(9, cuda, "it", "take less") is None and not asked
    assert memory.require_memory(10, cuda, "it", "take less") == 900 and len(asked) == 1
    with pytest.raises(MemoryError, match="^it needs .* are free on cuda: take less$"):
        memory.require_memory(901, cuda, "it", "take less")
    memory.require_memory(1, torch.device("cpu"), "it", "take less")
    assert len(asked) == 3
    free = memory.FreeMemory(cuda)
    for _ in range(4):
        free.require(5, "it", "take less", kept=5)
    assert len(asked) == 3


@needs_kernels
def test_small_extractions_query_free_memory_once(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "available_memory", lambda device: asked.append(0) or 2**40)
    assert len(mise(sphere(), resolution=256, backend="native").rounds) == 4
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["gyroid", "sphere"])
def test_the_reference_implementation_uses_no_more_memory_than_it_asks_for(name, monkeypatch):
    growth = in_a_process(f"growth_of_reference({name!r})")
    if growth is None:
        pytest.skip("only Linux tells the peak")
    asked = []
    monkeypatch.setattr(
        memory.FreeMemory, "require", lambda _, needed, *__, **___: asked.append(needed)
    )
    mise(FIELDS[name], resolution=128, backend="reference")
    assert growth <= max(asked[1:]) + asked[0] + _SLACK


def test_an_extraction_that_cannot_fit_is_refused_before_the_field_is_called(monkeypatch, backend):
    def field(points, shape_index):
        raise AssertionError("the field must not be called")

    monkeypatch.setattr(memory, "available_memory", lambda device: 100 * 2**20)
    for options in ({"resolution": 4096}, {"resolution": 512, "coarse_resolution": 512}):
        with pytest.raises(MemoryError, match=r"needs .* GiB, 100.0 MiB are free on cpu: choose"):
            extract_mesh(field, **options, backend=backend)


def test_refinement_that_does_not_fit_is_refused(monkeypatch):
    def field(points, shape_index):
        raise AssertionError("the field must not be called")

    grid = mise(sphere(), resolution=64)
    monkeypatch.setattr(vertex_refinement, "_VERTEX_BYTES", 2**40)
    message = (
        r"refinement of \d+ vertices needs .*: choose a lower resolution, or refine_vertices=0"
    )
    with pytest.raises(MemoryError, match=message):
        marching_cubes(grid, field=field, refine_vertices=2)
