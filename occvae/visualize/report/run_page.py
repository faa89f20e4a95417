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
from occvae.visualize.report.charts import curves
from occvae.visualize.report.document import document, image_element
from occvae.visualize.report.metric_names import EDGE_NOTE, is_number
from occvae.visualize.report.tables import evaluation_tables
from occvae.visualize.report.viewer import Viewer, frame_of

Mesh = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) and faces (F, 3)."""
_METRICS, _EVALUATIONS = "metrics.jsonl", "evaluation*.json"
_MAX_SHEETS = 12


def is_run(folder: Path) -> bool:
    return (folder / _METRICS).is_file() or bool(_evaluations(folder))


def run_page(folder: Path) -> str:
    """Returns a page with the curves, evaluations and contact sheets of a run or an export."""
    parts = []
    if charts := _curves(folder / _METRICS):
        parts.append(f'<section><h2>Training</h2><div class="charts">{charts}</div></section>')
    for path in _evaluations(folder):
        name = escape(str(path.relative_to(folder)))
        tables = evaluation_tables(_read_json(path), level=3)
        parts.append(f"<section><h2>{name}</h2><p>{EDGE_NOTE}</p>{tables}</section>")
    if sheets := _contact_sheets(folder / "samples"):
        parts.append(f"<section><h2>Contact sheets</h2>{sheets}</section>")
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


def _curves(path: Path) -> str:
    """Returns one chart per metric. The parts of a run (train, val) share a chart."""
    if not path.is_file():
        return ""
    charts: defaultdict[str, defaultdict[str, tuple[list[float], list[float]]]]
    charts = defaultdict(lambda: defaultdict(lambda: ([], [])))
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the last line may be incomplete
            continue
        if not isinstance(record, dict):
            continue
        for key, value in record.items():
            if key != "step" and is_number(value):  # a diverged loss is not a number
                part, _, name = key.rpartition("/")
                steps, values = charts[name][part or "run"]
                step = record.get("step")
                steps.append(step if is_number(step) else len(steps))
                values.append(value)
    return "".join(curves(name, dict(series)) for name, series in charts.items())


def _contact_sheets(folder: Path) -> str:
    paths = sorted(folder.glob("*.png"), reverse=True)
    figures = []
    for path in paths[:_MAX_SHEETS]:
        data = path.read_bytes()
        try:
            size = Image.open(io.BytesIO(data)).size
        except OSError:  # being written
            continue
        image = image_element(data, f"contact sheet {path.stem}", size)
        figures.append(f"<figure>{image}<figcaption>{escape(path.stem)}</figcaption></figure>")
    left_out = len(paths) - _MAX_SHEETS
    note = f"<p>{left_out} earlier contact sheets are left out.</p>" if left_out > 0 else ""
    return f'<div class="gallery">{"".join(figures)}</div>{note}' if figures else ""
