"""The sections of mise_bench run, and its checks can fail."""

import json
import sys

import pytest
import torch

import mise_bench
from mise_case import count_different_points, differences_from_cpu, flying_edges, mesh_facts
from occvae.ops.mise import mise
from tests.conftest import needs_kernels
from tests.fields import sphere, torus

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def facts(faces):
    result = mesh_facts((torch.zeros(4, 3), torch.as_tensor(faces)))
    return result["open_edges"], result["nonmanifold"], result["euler"]


def test_mesh_facts_find_flaws():
    assert facts(TETRAHEDRON) == (0, 0, 2)
    assert facts(TETRAHEDRON[1:]) == (3, 3, 1)
    flipped = TETRAHEDRON.clone()
    flipped[0] = flipped[0].flip(0)
    assert facts(flipped) == (3, 0, 2)
    twice = torch.cat([TETRAHEDRON, TETRAHEDRON])
    assert facts(twice) == (0, 6, 6)
    assert facts(TETRAHEDRON[:0])[:2] == (0, 0)


def test_on_cuda_the_total_is_timed_without_a_clock_between_stages():
    case = mise_bench.Case("torus", torus(), 32, 8, "cuda")
    whole, stages = mise_bench.Stages(case).candidates("native").items()
    assert whole[0] == "native" and stages[1].__name__ == "run"
    assert list(mise_bench.without_stages(dict.fromkeys([whole[0], stages[0]]))) == ["native"]


def test_different_points_are_counted():
    options = {"resolution": 32, "coarse_resolution": 8}
    a, b = mise(sphere(), **options), mise(torus(), **options)
    assert count_different_points(a, mise(sphere(), **options, backend="reference")) == 0
    sets = [{tuple(point) for point in grid.points.tolist()} for grid in (a, b)]
    assert count_different_points(a, b) == len(sets[0] ^ sets[1]) > 0


@needs_kernels
def test_a_failed_check_ends_the_benchmark():
    case = mise_bench.Case("torus", torus(), 32, 8, "cpu")
    with pytest.raises(SystemExit, match="the check failed: no times"):
        mise_bench.check_grid(case, case.refine("reference"), mise(sphere(), resolution=32))


@needs_kernels
def test_results_that_differ_between_two_runs_are_named():
    assert differences_from_cpu(mise_bench.Case("torus", torus(), 32, 8, "cpu")) == []
    radii = iter([0.3, 0.3001])
    spheres = {}

    def changing(points, shape_index):
        if len(points) == 9**3:  # the first round of a run
            spheres["now"] = sphere(next(radii))
        return spheres["now"](points, shape_index)

    names = differences_from_cpu(mise_bench.Case("sphere", changing, 32, 8, "cpu"))
    assert names == ["values", "vertices"]


def test_flying_edges_finds_the_mesh_of_pymcubes():
    pytest.importorskip("vtkmodules", reason="VTK is not installed; run `pip install vtk`")
    mcubes = pytest.importorskip("mcubes")
    axis = torch.linspace(-0.55, 0.55, 34)
    values = torch.cartesian_prod(axis, axis, axis).norm(dim=1).neg().add(0.4).view(34, 34, 34)
    vertices, faces = mcubes.marching_cubes(values.numpy(), 0.0)
    assert flying_edges(values.numpy()) == (len(vertices), len(faces))


@needs_kernels
@pytest.mark.parametrize("absent", [[], ["mcubes", "skimage.measure", "vtkmodules"]])
def test_sections_with_analytic_fields_print_and_record_times(
    absent, monkeypatch, capsys, tmp_path
):
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "rows.json"
    command = "mise_bench --only fields scaling --field torus --scaling-field sphere --repeats 1"
    sizes = f"--resolution 32 --coarse-resolution 16 --scaling 32 64 --json {path}"
    monkeypatch.setattr("sys.argv", [*command.split(), *sizes.split()])
    mise_bench.main()
    out = capsys.readouterr().out
    assert out.index("check  points") < out.index("stage ")
    assert ("PyMCubes: not installed" in out) == bool(absent)
    assert "VTK: not installed" in out or not absent
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    fields = {row["candidate"] for row in rows if row["section"] == "fields"}
    assert {"field", "refine", "extract", "total"} < fields
    scaled = [row for row in rows if row["section"] == "scaling" and row["candidate"] == "total"]
    assert [row["resolution"] for row in scaled] == [32, 64]
    assert all(row["median"] > 0 and row["open_edges"] == 0 for row in scaled)
