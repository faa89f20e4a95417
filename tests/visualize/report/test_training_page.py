"""The page of a training: its state, its curves, and the shapes that got worse."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from occvae.visualize.report.charts import small_curves
from occvae.visualize.report.run_page import run_page, write_training_page
from occvae.visualize.report.training import Drop, ValidationReport
from tests.visualize.report.builders import HOSTILE
from tests.visualize.report.test_page import Structure

REPORT = ValidationReport(
    step=20,
    last_step=50,
    stopped_early=False,
    num_without_gain=1,
    best_step=10,
    best_iou=0.625,
    compared_with_step=10,
    worse=[Drop(HOSTILE, "chair", 0.75, 0.5)],
)


def write_run(folder: Path, report: ValidationReport = REPORT, lamp: float = 0.25) -> Path:
    """Writes a run with two validations of chairs and lamps."""
    (folder / "samples").mkdir()
    lines = [{"step": step, "train/loss": 1 / step, "train/lr": 0.1} for step in (5, 10, 15, 20)]
    for step in (10, 20):
        means = {"val/iou": 0.5, "val/category_mean": (0.75 + lamp) / 2}
        chair = {"val/iou/chair/of <wood>": 0.75, "val/iou/lamp": lamp}
        lines.append({"step": step, **means, **chair})
        for kind in ("step", "prior"):
            Image.new("RGB", (20, 10)).save(folder / "samples" / f"{kind}-{step}.png")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "validation.json").write_text(json.dumps(dataclasses.asdict(report)))
    return folder


def test_the_page_shows_state_curves_drops_and_the_newest_sheets(tmp_path):
    write_training_page(write_run(tmp_path))
    html = (tmp_path / "index.html").read_text()
    page = Structure(html)
    assert page.headings == [
        f"Run {tmp_path.name}",
        "Training",
        "Validation IoU by category",
        "Shapes that got worse",
        "Contact sheets",
    ]
    assert "Validated at step 20 of 50. The best IoU is 0.6250, of step 10." in html
    assert "stopped early" not in html
    assert page.tables == [
        [
            ["shape", "category", "IoU at step 10", "IoU at step 20"],
            [HOSTILE, "chair", "0.7500", "0.5000"],
        ]
    ]
    images = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert images == ["contact sheet step-20", "contact sheet prior-20"]
    assert "Earlier contact sheets are in the folder samples/" in html


def test_categories_have_charts_of_their_own(tmp_path):
    write_training_page(write_run(tmp_path))
    html = (tmp_path / "index.html").read_text()
    assert "<b>chair/of &lt;wood&gt;</b> 0.7500" in html and "<b>lamp</b> 0.2500" in html
    assert html.count('class="chart"') == 5  # loss, IoU, learning rate, two categories
    assert html.index("Loss over steps") < html.index("IoU over steps") < html.index("<details>")
    assert html.index("<details>") < html.index("Learning rate over steps")


@pytest.mark.parametrize(("lamp", "lines"), [(0.25, 1), (0.75, 2)])
def test_the_mean_of_categories_is_drawn_if_it_differs(tmp_path, lamp, lines):
    html = run_page(write_run(tmp_path, lamp=lamp))
    [chart] = re.findall(r"<svg[^>]*IoU over steps.*?</svg>", html)
    assert chart.count("<polyline") == lines
    assert ("val, mean of categories" in html) == (lines == 2)


def test_the_page_says_that_a_run_stopped_early(tmp_path):
    early = dataclasses.replace(REPORT, stopped_early=True, num_without_gain=3)
    html = run_page(write_run(tmp_path, early))
    assert "The run stopped early: the last 3 validations had no higher IoU." in html


@pytest.mark.parametrize("change", [{}, {"step": 50}, {"stopped_early": True}])
def test_the_page_in_the_viewer_is_loaded_again_until_the_run_has_ended(tmp_path, change):
    folder = write_run(tmp_path, dataclasses.replace(REPORT, **change))
    assert ('<meta http-equiv="refresh" content="30">' in run_page(folder)) == (not change)
    write_training_page(folder)
    assert "refresh" not in (folder / "index.html").read_text()


def test_the_page_in_the_viewer_also_has_earlier_sheets(tmp_path):
    html = run_page(write_run(tmp_path))
    assert html.count("<img src=") == 4 and "in the folder samples/" not in html
    assert html.index("prior-20") < html.index("Earlier contact sheets") < html.index("step-10")


def test_sheets_after_the_step_of_a_resumed_run_are_left_out(tmp_path):
    write_run(tmp_path)
    Image.new("RGB", (20, 10)).save(tmp_path / "samples" / "step-30.png")
    html = run_page(tmp_path)
    assert "step-20" in html and "step-30" not in html


@pytest.mark.parametrize("content", ['{"step": "<b>"}', "[1]", "", "\0"])
def test_a_file_of_another_program_is_left_out(tmp_path, content):
    write_run(tmp_path)
    (tmp_path / "validation.json").write_text(content)
    html = run_page(tmp_path)
    assert "Validated at" not in html and "Loss over steps" in html


def test_small_charts_share_their_axes():
    """A lower and later line lies to the right of and below the other."""
    html = small_curves({"low": ([50, 100], [0.1, 0.2]), "high": ([0, 50], [0.4, 0.8])})
    low, high = (
        [tuple(map(float, place.split(","))) for place in points.split()]
        for points in re.findall(r'points="([^"]*)"', html)
    )
    assert high[1][0] == low[0][0] < low[1][0]
    assert min(y for _, y in low) > max(y for _, y in high)
    axes = re.findall(r'<text x="[\d.]+" y="[\d.]+" text-anchor="middle">(\d+)</text>', html)
    assert axes[: len(axes) // 2] == axes[len(axes) // 2 :]
