"""The HTML page of an evaluation, made by the command and read by a real browser."""

import json
from pathlib import Path

import pytest

from occvae.cli.main import main
from occvae.models import save_pretrained
from occvae.visualize.report.metric_names import decimal, label
from tests.fakes import octahedron_model
from tests.visualize.report.browser import Browser, needs_browser
from tests.visualize.report.canvas import CanvasImage, settle

pytestmark = needs_browser
ROWS = "[...document.querySelectorAll('#tables table')[{}].rows].map(r => r.innerText.split('\\t'))"


@pytest.fixture(scope="module")
def folder(tiny_dataset, tmp_path_factory) -> Path:
    """A folder with a model and the files that `occvae evaluate` wrote about it."""
    folder = tmp_path_factory.mktemp("evaluated")
    save_pretrained(octahedron_model(), folder)
    arguments = ["--model", str(folder), "--data", str(tiny_dataset), "--shapes", "6"]
    files = ["--json", str(folder / "evaluation.json"), "--html", str(folder / "page.html")]
    assert main(["evaluate", *arguments, "--resolution", "32", *files]) == 0
    return folder


@pytest.fixture(scope="module")
def browser(folder):
    with Browser(1200, 900) as browser:
        browser.open((folder / "page.html").as_uri())
        yield browser


def test_every_shape_is_drawn_beside_its_truth(folder, browser):
    evaluation = json.loads((folder / "evaluation.json").read_text())
    count = sum(map(len, evaluation["examples"].values()))
    assert count == 6
    assert browser.evaluate("document.querySelectorAll('canvas').length") == 2 * count
    inputs = "[...document.querySelectorAll('.input img')]"
    images = browser.evaluate(f"{inputs}.map(i => i.complete && i.naturalWidth)")
    assert images == [32] * count
    for index in range(2 * count):
        settle(browser, index)
        assert CanvasImage(browser, index).share > 0.02, index


def test_the_page_shows_the_means_of_the_report(folder, browser):
    """A few metrics in a table by category, the others in a table to open. None is in both."""
    metrics = json.loads((folder / "evaluation.json").read_text())["metrics"]
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    first, others = browser.evaluate(f"[{ROWS.format(0)}, {ROWS.format(1)}]")
    shown = [list(row) for row in zip(*first, strict=True)][1:] + others[1:]
    rows = {cells[0].strip(): cells[1:] for cells in shown}
    assert len(shown) == len(rows) and len(first[0]) <= 5
    assert rows.keys() == {label(name) for name in metrics}
    for name, metric in metrics.items():
        macro, micro, *categories = (cell.split()[0] for cell in rows[label(name)])
        assert macro == decimal(metric["macro"]["mean"]), name
        assert micro == decimal(metric["micro"]["mean"]), name
        means = [entry["mean"] for entry in metric["per_category"].values()]
        assert categories == list(map(decimal, means)), name


def test_the_page_loads_nothing_and_logs_no_problem(folder, browser):
    others = [url for url in browser.requests if not url.startswith("data:image/png;base64,")]
    assert others == [(folder / "page.html").as_uri()]
    assert browser.problems == []
