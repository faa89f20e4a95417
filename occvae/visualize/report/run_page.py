"""Pages of run folders and of mesh files."""

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from occvae.errors import UserError
from occvae.system.atomic_write import write_whole_text
from occvae.visualize.report.charts import curves, small_curves
from occvae.visualize.report.document import document, image_element
from occvae.visualize.report.metric_names import EDGE_NOTE, is_number
from occvae.visualize.report.tables import evaluation_tables, table
from occvae.visualize.report.viewer import Viewer, frame_of

Mesh = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) and faces (F, 3)."""
VALIDATION = "validation.json"
"""File of a run folder about its newest validation, see `occvae.train.validation_report`."""
_METRICS, _EVALUATIONS = "metrics.jsonl", "evaluation*.json"
_MAX_SHEETS = 12
_CATEGORY_IOU = "val/iou/"  # begins the names of the metrics of categories
# Metrics that share the chart of another metric: chart and name of the line.
_LINES = {"val/category_mean": ("iou", "val, mean of categories")}
# Charts that a reader looks at first.
_MAIN_CHARTS = ("loss", "iou")

_Series = dict[str, tuple[list[float], list[float]]]


def is_run(folder: Path) -> bool:
    return (folder / _METRICS).is_file() or bool(_evaluations(folder))


def run_page(folder: Path) -> str:
    """Returns a page with the curves, evaluations and contact sheets of a run or an export."""
    parts = _training(folder)
    for path in _evaluations(folder):
        name = escape(str(path.relative_to(folder)))
        tables = evaluation_tables(_read_json(path), level=3)
        parts.append(f"<section><h2>{name}</h2><p>{EDGE_NOTE}</p>{tables}</section>")
    parts.append(_contact_sheets(folder / "samples", _MAX_SHEETS))
    return _page_of_run(folder, parts)


def write_training_page(folder: Path) -> None:
    """Writes index.html into a run folder: its curves and the newest contact sheet.

    Raises:
        UserError: the file cannot be written.
    """
    parts = [*_training(folder), _contact_sheets(folder / "samples", 0)]
    write_whole_text(folder / "index.html", _page_of_run(folder, parts))


def _page_of_run(folder: Path, parts: list[str]) -> str:
    title = f"Run {folder.resolve().name}"
    return document(
        title, f"<header><h1>{escape(title)}</h1></header><main>{''.join(parts)}</main>"
    )


def mesh_page(meshes: list[tuple[str, Mesh]], left_out: Sequence[str] = ()) -> str:
    """Returns a page with an interactive view per mesh. Each view has its own camera.

    Args:
        meshes: (name, mesh) pairs.
        left_out: messages that name the files left out and why.
    """
    viewer = Viewer(("wireframe", "z-up"))
    scenes = []
    for name, mesh in meshes:
        caption = f"{name}: {len(mesh[0])} vertices, {len(mesh[1])} faces"
        scenes.append(viewer.scene([viewer.view(caption, name, mesh)], frame_of(mesh)))
    title = meshes[0][0] if len(meshes) == 1 else f"{len(meshes)} meshes"
    notes = "".join(f"<p>left out: {escape(note)}</p>" for note in left_out)
    body = (
        f"<header><h1>{escape(title)}</h1>{notes}{viewer.controls()}</header>"
        f'<main class="meshes">{"".join(scenes)}</main>'
    )
    return document(title, body, viewer=viewer.scripts())


def index_page(links: dict[str, str]) -> str:
    """Returns a page of links.

    Args:
        links: address of each page to its name.
    """
    entries = "".join(
        f'<li><a href="{escape(address)}">{escape(name)}</a></li>'
        for address, name in links.items()
    )
    return document("occvae view", f"<h1>occvae view</h1><ul>{entries}</ul>")


def _evaluations(folder: Path) -> list[Path]:
    """Returns the evaluation files of the folder itself and of its exports."""
    return [
        path
        for path in (*sorted(folder.glob(_EVALUATIONS)), *sorted(folder.glob(f"*/{_EVALUATIONS}")))
        if path.is_file()
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not an evaluation; write it again with 'occvae evaluate'")
    return value


def _training(folder: Path) -> list[str]:
    """Returns the sections about the training, none if the folder is not that of a run."""
    validation = folder / VALIDATION
    found = _read_json(validation) if validation.is_file() else {}
    charts, categories = _read_metrics(folder / _METRICS)
    parts = [_summary(found)] if found else []
    main = [curves(name, charts.pop(name)) for name in _MAIN_CHARTS if name in charts]
    others = "".join(curves(name, series) for name, series in charts.items())
    if main or others:
        shown = f'<div class="charts main">{"".join(main)}</div>' if main else ""
        if others:
            summary = "<summary>Speed, memory and other curves</summary>" if main else ""
            others = f'<div class="charts">{others}</div>'
            shown += f"<details>{summary}{others}</details>" if main else others
        parts.append(f"<section><h2>Training</h2>{shown}</section>")
    if categories:
        parts.append(
            "<section><h2>Validation IoU by category</h2>"
            "<p>IoU over steps. All charts have the same axes.</p>"
            f'<div class="charts small">{small_curves(categories)}</div></section>'
        )
    if found.get("worse"):
        parts.append(_worse_shapes(found))
    return parts


def _read_metrics(path: Path) -> tuple[dict[str, _Series], _Series]:
    """Reads the curves of a run.

    Returns:
        The series of each chart, by name of the chart and of the part of the run (train, val). And
        the validation IoU of each category by its name.
    """
    charts: defaultdict[str, _Series] = defaultdict(dict)
    categories: _Series = {}
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the last line may be incomplete
            continue
        if not isinstance(record, dict):
            continue
        for key, value in record.items():
            if key == "step" or not is_number(value):  # a diverged loss is not a number
                continue
            if key.startswith(_CATEGORY_IOU):
                series, name = categories, key.removeprefix(_CATEGORY_IOU)
            else:
                part, _, chart = key.rpartition("/")
                chart, name = _LINES.get(key, (chart, part or "run"))
                series = charts[chart]
            steps, values = series.setdefault(name, ([], []))
            step = record.get("step")
            steps.append(step if is_number(step) else len(steps))
            values.append(value)
    return dict(charts), dict(sorted(categories.items()))


def _summary(validation: dict[str, Any]) -> str:
    """Returns the state of the run at its newest validation, in sentences."""
    text = (
        f"Validated at step {validation['step']} of {validation['last_step']}. The best IoU is "
        f"{validation['best_iou']:.4f}, of step {validation['best_step']}."
    )
    if validation["stopped_early"]:
        text += (
            f" The run stopped early, after {validation['num_without_gain']} validations without a "
            "higher IoU."
        )
    return f"<p>{text}</p>"


def _worse_shapes(validation: dict[str, Any]) -> str:
    rows = [
        [drop["id"], drop["category"], drop["before"], drop["now"]] for drop in validation["worse"]
    ]
    before, now = validation["compared_with_step"], validation["step"]
    columns = ["shape", "category", f"IoU at step {before}", f"IoU at step {now}"]
    return (
        f"<section><h2>Shapes that got worse</h2><p>The largest drops from the best validation "
        f"before, of step {before}, to the newest.</p>{table(columns, rows)}</section>"
    )


def _contact_sheets(folder: Path, max_earlier: int) -> str:
    """Returns the newest sheet of each kind, and up to `max_earlier` earlier sheets."""
    shown: dict[str, str] = {}
    earlier = []
    paths = sorted(folder.glob("*.png"), reverse=True)
    for path in paths:
        kind = path.stem.rpartition("-")[0]
        if kind in shown and len(earlier) >= max_earlier:
            continue
        if not (figure := _sheet(path)):
            continue
        if kind in shown:
            earlier.append(figure)
        else:
            shown[kind] = figure
    if not shown:
        return ""
    html = f'<div class="sheets">{"".join(shown.values())}</div>'
    if earlier:
        html += (
            f"<details><summary>Earlier contact sheets</summary>"
            f'<div class="gallery">{"".join(earlier)}</div></details>'
        )
    left_out = len(paths) - len(shown) - len(earlier)
    if left_out > 0:
        html += "<p>Earlier contact sheets are in the folder samples/ of the run.</p>"
    return f"<section><h2>Contact sheets</h2>{html}</section>"


def _sheet(path: Path) -> str:
    """Returns a contact sheet as HTML; empty if the file is being written."""
    data = path.read_bytes()
    try:
        size = Image.open(io.BytesIO(data)).size
    except OSError:
        return ""
    image = image_element(data, f"contact sheet {path.stem}", size)
    return f"<figure>{image}<figcaption>{escape(path.stem)}</figcaption></figure>"
