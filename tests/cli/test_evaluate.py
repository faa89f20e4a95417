"""`occvae evaluate` on the command line: its files, its page, and runs in several processes."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import trimesh

from occvae.cli.main import main
from occvae.data.build import build_dataset
from occvae.data.dataset import ShapeDataset
from occvae.data.formats.procedural import ProceduralSource
from occvae.evaluation.files import report_name
from occvae.evaluation.shapes import StoredShapes
from occvae.models import save_pretrained
from tests.evaluation.datasets import copy_shapes
from tests.fakes import CENTER, RADIUS, octahedron_model
from tests.tiny import SETTINGS
from tests.train.ranks import Rank, no_rank_left, start

pytestmark = pytest.mark.usefixtures(no_rank_left.__name__)
LAUNCHER = Path(__file__).parents[2] / "launchers" / "evaluate.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "octahedron"
    save_pretrained(octahedron_model(), folder)
    return folder


@pytest.fixture
def arguments(model, tiny_dataset, monkeypatch) -> list[str]:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    quick = ["--resolution", "32", "--shapes", "5", "--views", "1,2", "--threshold", "val"]
    return ["--model", str(model), "--data", str(tiny_dataset), *quick]


def test_the_json_and_the_csv_hold_the_same_numbers(arguments, tmp_path):
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "new" / "report.json")]) == 0
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    origin = report["options"]["threshold_origin"]
    assert origin == "chosen on val, the same shapes that are evaluated"
    assert list(report["views"]["by_views"]) == ["1", "2"]
    assert report["views"]["threshold"] == report["options"]["threshold"]
    with (tmp_path / "new" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    for row, shape in zip(rows, report["shapes"], strict=True):
        assert (int(row.pop("number")), row.pop("id")) == (shape["number"], shape["id"])
        assert row.pop("category") == shape["category"]
        assert {name: float(value) for name, value in row.items()} == shape["metrics"]
    assert not [path for path in tmp_path.glob("new/*") if "partial" in path.name]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--seed", "-1"], "seed must be from 0"),
        (["--resolution", "100000000"], "resolution must be from 1"),
        (["--resolution", "129"], "resolution must be a number up to 64"),
        (["--views", "0"], "num_views must be between 1 and"),
        (["--views", "1,99"], "num_views must be between 1 and"),
        (["--json", "{folder}/x.csv"], "{folder}/x.csv: cannot be the report and the table of all"),
        (["--html", "{folder}/x.json"], "{folder}/x.json: cannot be the report and the page; ch"),
        (["--html", "{folder}/a/../X.csv"], "{folder}/a/../X.csv: cannot be the table of all sh"),
        (["--json", "{folder}"], "{folder}: is a folder"),
        (["--json", "{folder}/file/report.json"], "{folder}/file/report.json: cannot be written"),
        (["--html", "{folder}"], "{folder}: is a folder"),
        (
            ["--html", "{folder}/page.pdf"],
            "--html {folder}/page.pdf: expected a file ending in .html",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_is_evaluated(
    arguments, tmp_path, capsys, monkeypatch, mistake, message
):
    (tmp_path / "file").touch()
    for name in ("evaluate", "threshold.choose_threshold"):
        monkeypatch.setattr(f"occvae.evaluation.{name}", lambda *_, **__: pytest.fail("too late"))
    mistake = [word.format(folder=tmp_path) for word in mistake]
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "x.json"), *mistake]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: " + message.format(folder=tmp_path))
    assert not list(tmp_path.glob("*.csv"))


def on_two_ranks(folder: Path, arguments: list[str]) -> list[Rank]:
    ranks = start(folder, ["evaluate", *arguments], ranks=2, entry=main)
    for rank in ranks:
        rank.status()
    return ranks


def assert_same_reports(folder: Path) -> None:
    """Asserts that two processes and one process write the same bytes."""
    for suffix in (".json", ".csv"):
        one, two = (folder / f"{name}{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_two_processes_give_the_report_of_one(arguments, tmp_path, restored_threads):
    torch.set_num_threads(1)  # like each rank, because rounding depends on the number of threads
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "one.json")]) == 0
    first, second = on_two_ranks(tmp_path, [*arguments, "--json", str(tmp_path / "two.json")])
    assert (first.status(), second.status()) == (0, 0), first.text()
    assert first.text().count(f"report: {tmp_path / 'two.json'}") == 1
    assert "report: " not in second.text()
    assert_same_reports(tmp_path)


@pytest.mark.slow
def test_torchrun_gives_the_report_of_one_process(arguments, tmp_path, restored_threads):
    torch.set_num_threads(1)
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "one.json")]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    finished = subprocess.run(
        [*torchrun, str(LAUNCHER), *arguments, "--json", str(tmp_path / "two.json")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count(f"report: {tmp_path / 'two.json'}") == 1
    assert_same_reports(tmp_path)


def test_only_one_process_reports_a_mistake(arguments, tmp_path):
    ranks = on_two_ranks(tmp_path, [*arguments, "--split", "test"])
    assert [rank.status() for rank in ranks] == [2, 2]
    [line] = [line for rank in ranks for line in rank.errors()]
    assert "has no shapes in split 'test'" in line


def test_a_dataset_with_splits_of_another_protocol_is_an_error(tiny_dataset, tmp_path, capsys):
    root = copy_shapes(tiny_dataset, tmp_path / "data", 1, splits="onet")
    folder = tmp_path / "official"
    save_pretrained(octahedron_model(), folder, splits="pix2vox")
    assert main(["evaluate", "--model", str(folder), "--data", str(root), "--split", "test"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {root}: follows the splits of Occupancy Networks, but {folder}")


def test_shapes_that_the_model_was_trained_on_are_counted(tiny_dataset, tmp_path, capsys):
    """Shapes are found by their ids, also in a dataset with other splits."""
    run = tmp_path / "run"
    save_pretrained(octahedron_model(), run / "last")
    config = {"data": {"root": str(tiny_dataset)}}
    (run / "train_config.json").write_text(json.dumps(config))
    divided = str(tmp_path / "divided")
    assert main(["data", "split", str(tiny_dataset), divided, "--val", "0.5"]) == 0
    quick = ["evaluate", "--model", str(run), "--no-meshes"]
    assert main([*quick, "--data", divided]) == 0
    report = json.loads((run / "last" / "evaluation-divided-val-no-meshes.json").read_text())
    trained = set(ShapeDataset(tiny_dataset, "train", image_size=8).ids)
    count = len(trained & {shape["id"] for shape in report["shapes"]})
    assert 0 < count == report["data"]["trained_on"] < len(report["shapes"])
    assert f"the model was trained on {count} of these 48 shapes" in (capsys.readouterr().out)
    assert main(quick) == 0
    assert "trained on" not in capsys.readouterr().out


def test_different_evaluations_have_different_files(model, tiny_dataset, tmp_path, capsys):
    export = Path(shutil.copytree(model, tmp_path / "export"))
    quick = ["evaluate", "--model", str(export), "--data", f"{tiny_dataset}/", "--no-meshes"]
    quick += ["--shapes", "3"]
    settings = {
        "-shapes-3": [],
        "-shapes-2": ["--shapes", "2"],
        "-threshold-0.4-shapes-3-seed-2": ["--threshold", "0.4", "--seed", "2"],
        "-shapes-3-views-1-2-precision-fp32": ["--views", "1,2", "--precision", "fp32"],
    }
    for name, arguments in settings.items():
        assert main([*quick, *arguments]) == 0
        assert (
            f"report: {export}/evaluation-data-val-no-meshes{name}.json" in capsys.readouterr().out
        )
    assert len(list(export.glob("evaluation-*.csv"))) == len(settings)


def test_the_report_of_a_downloaded_model_is_in_the_current_folder(
    model, tiny_dataset, tmp_path, monkeypatch
):
    before = set(model.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("occvae.models.pretrained.find_export", lambda _: model)
    quick = ["--data", str(tiny_dataset), "--no-meshes", "--shapes", "3"]
    assert main(["evaluate", "--model", "someone/chairs", *quick]) == 0
    assert Path("evaluation-data-val-no-meshes-shapes-3.json").is_file()
    assert set(model.iterdir()) == before


def test_names_of_reports_are_file_names():
    name = report_name(
        "data/a b\u00e9\n" + "x" * 300, "te/st", {"seed": 1, "no-meshes": "", "x": None}
    )
    assert name == f"evaluation-a-b\u00e9-{'x' * 55}-te-st-seed-1-no-meshes.json"


@pytest.mark.parametrize("existing", ["report.json", "report.csv", "page.html"])
def test_files_are_replaced_only_with_force(arguments, tmp_path, capsys, existing):
    files = ["--json", str(tmp_path / "report.json"), "--html", str(tmp_path / "page.html")]
    quick = ["evaluate", *arguments[:4], "--no-meshes", "--shapes", "3", *files]
    (tmp_path / existing).write_text("precious")
    assert main(quick) == 2
    [line] = capsys.readouterr().err.splitlines()
    option = "--html" if existing == "page.html" else "--json"
    assert line == (
        f"error: {tmp_path / existing}: exists; replace it with --force, or name another file with "
        f"{option}"
    )
    assert [file.name for file in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"
    assert main([*quick, "--force"]) == 0
    assert (tmp_path / existing).read_text() != "precious"


def test_a_run_says_where_its_data_was(tiny_dataset, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    save_pretrained(octahedron_model(), run / "last")
    moved = shutil.copytree(tiny_dataset, tmp_path / "moved")
    for root in (str(tmp_path / "gone"), "old/relative"):
        (run / "train_config.json").write_text(json.dumps({"data": {"root": root}}))
        quick = ["evaluate", "--model", str(run), "--no-meshes", "--shapes", "3", "--force"]
        assert main(quick) == 2
        where = ", relative to where the training was started" if root[0] != "/" else ""
        assert capsys.readouterr().err == (
            f"error: {root}: no dataset here; {run}/train_config.json names this folder{where}; "
            "if the dataset moved, give its new folder with --data\n"
        )
        assert main([*quick, "--data", str(moved)]) == 0
        warning = "warning: it is unknown how many of these shapes the model was trained on"
        assert f"{warning} ({root}/dataset.json: no dataset here" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    moved.rename(tmp_path / "old" / "relative")
    assert main(quick) == 0  # runs of earlier versions record relative folders


def test_an_unreadable_configuration_of_a_run_is_an_error(tmp_path, capsys):
    save_pretrained(octahedron_model(), tmp_path / "last")
    (tmp_path / "train_config.json").write_text("{}")
    assert main(["evaluate", "--model", str(tmp_path)]) == 2
    assert "train_config.json: cannot be read (KeyError('data'))" in capsys.readouterr().err


@pytest.fixture
def written(monkeypatch) -> dict:
    """Replaces occvae.visualize.report and records the arguments of `write_report`."""
    given = {}
    module = ModuleType("occvae.visualize.report")
    module.Case = dict
    module.write_report = lambda path, evaluation, cases: given.update(
        path=path, evaluation=evaluation, cases=cases
    )
    monkeypatch.setitem(sys.modules, "occvae.visualize.report", module)
    return given


def test_the_page_shows_stored_meshes_as_the_truth(model, tmp_path, written):
    root = tmp_path / "data"
    build_dataset(ProceduralSource(1, SETTINGS), root, num_workers=1)
    data = ["--data", str(root), "--split", "train", "--shapes", "3", "--no-meshes"]
    page = ["--html", str(tmp_path / "report.html")]
    assert main(["evaluate", "--model", str(model), *data, *page]) == 0
    shapes = StoredShapes(root, "train", octahedron_model())
    for case in written["cases"]:
        vertices, faces = shapes.mesh(shapes.ids.index(case["id"]))
        np.testing.assert_array_equal(case["truth"][0], vertices)
        np.testing.assert_array_equal(case["truth"][1], faces)


def test_the_page_shows_the_examples_of_the_report(
    arguments, model, tiny_dataset, tmp_path, written, capsys
):
    page = tmp_path / "pages" / "report.html"
    files = ["--json", str(tmp_path / "report.json"), "--html", str(page)]
    assert main(["evaluate", *arguments, "--shapes", "6", "--no-meshes", *files]) == 0
    assert f"page: {page}" in capsys.readouterr().out
    assert written["path"] == page and page.parent.is_dir()
    evaluation, cases = written["evaluation"], written["cases"]
    assert evaluation == json.loads((tmp_path / "report.json").read_text())
    examples = evaluation["examples"]
    assert [case["id"] for case in cases] == sum(examples.values(), [])
    assert {name: len(ids) for name, ids in examples.items()} == dict.fromkeys(examples, 2)
    shapes = StoredShapes(tiny_dataset, "val", octahedron_model())
    rows = {row["id"]: row for row in evaluation["shapes"]}
    for case in cases[::2]:
        row = rows[case["id"]]
        assert case["metrics"] == row["metrics"] and case["category"] == row["category"]
        assert case["image"].dtype == np.uint8 and case["image"].shape == (32, 32, 3)
        image = shapes.observed(row["number"])[0, 0].permute(1, 2, 0).numpy()
        assert np.array_equal(case["image"] / np.float32(255.0), image)
        # The truth is a box of whole voxels, its edges rounded by half a voxel.
        truth, voxels = trimesh.Trimesh(*case["truth"]), shapes.voxels(row["number"])
        assert truth.is_watertight
        assert truth.volume == pytest.approx(voxels.sum() / voxels.size, rel=0.15)
        vertices, faces = case["prediction"]
        assert faces.max() == len(vertices) - 1
        threshold = evaluation["options"]["threshold"]
        radius = RADIUS - np.log(threshold / (1 - threshold)) / 20.0
        assert np.median(np.abs(np.abs(vertices - CENTER).sum(1) - radius)) < 1e-4
        assert case["error"].shape == (len(vertices),)
        surface = shapes.surface(row["number"]).points
        distances = np.linalg.norm(vertices[::400, None] - surface, axis=2).min(axis=1)
        np.testing.assert_allclose(case["error"][::400], distances, atol=1e-12)
