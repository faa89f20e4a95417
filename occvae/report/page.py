"""The report of an evaluation: tables, histograms, and cases to look at, in one file."""

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from occvae.report.charts import histogram
from occvae.report.document import document, picture_element
from occvae.report.metric_names import EDGE_NOTE, decimal, higher_is_better, label
from occvae.report.tables import evaluation_tables, table
from occvae.report.viewer import Viewer, frame_of, legend

_MAX_ROWS = 500
_RANKED_BY = ("iou_points", "iou", "iou_voxels")
_ERROR_QUANTILE = 0.98  # of all vertices; the few beyond share the last colour

Mesh = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One shape to look at.

    Args:
        id: of the shape, any text.
        category: any text.
        metrics: of this shape, by name.
        picture: (H, W, 3) uint8, what the model saw.
        truth: vertices (V, 3) and faces (F, 3); None where there is no mesh of it.
        prediction: likewise; None or no faces where the model saw no surface.
        error: (V,) distances of the prediction's vertices to the true surface, in units of the
            object's longest edge; None leaves the prediction in one colour.
    """

    id: str
    category: str
    metrics: dict[str, float]
    picture: np.ndarray
    truth: Mesh | None
    prediction: Mesh | None
    error: np.ndarray | None = None


def write_report(path: str | Path, evaluation: dict, cases: list[Case]) -> None:
    """Writes one HTML file that needs no other file and no network.

    Args:
        path: of the file; its folder is made if absent.
        evaluation: what `occvae evaluate` writes as JSON. Its tables are found by their form; rows
            under `shapes` (dicts of `id`, `category` and metrics) become histograms.
        cases: shapes to show, in any order: they are ranked by IoU, or by the first of their
            metrics, and shown as best, median and worst thirds.

    Raises:
        ValueError: meshes, pictures or errors of wrong shape.
    """
    for case in cases:
        _check(case)
    viewer = Viewer(("error", "wireframe"))
    rows = evaluation.get("shapes") or []
    model = evaluation.get("model")
    title = f"Evaluation of {model}" if model else "Evaluation"
    body = (
        f"<header><h1>{escape(title)}</h1>{_contents(cases, rows)}</header><main>"
        f'<section id="tables"><h2>Metrics</h2><p>{EDGE_NOTE}</p>'
        f"{evaluation_tables(evaluation, level=3)}</section>"
        f"{_cases_section(cases, rows, viewer)}{_shapes_section(rows)}</main>"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(document(title, body, viewer=viewer.scripts()), "utf-8")
    os.replace(unfinished, path)


def _check(case: Case) -> None:
    picture = np.asarray(case.picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"{case.id}: picture must be (H, W, 3) uint8, got {picture.dtype} {picture.shape}"
        )
    if case.error is not None and (
        case.prediction is None or np.shape(case.error) != (len(case.prediction[0]),)
    ):
        raise ValueError(f"{case.id}: error must have one distance a vertex of the prediction")


def _contents(cases: list[Case], rows: list[dict]) -> str:
    links = [("tables", "Metrics")] + [("cases", "Cases")] * bool(cases)
    links += [("shapes", "All shapes")] * bool(rows)
    return "<nav>" + " ".join(f'<a href="#{key}">{text}</a>' for key, text in links) + "</nav>"


def _cases_section(cases: list[Case], rows: list[dict], viewer: Viewer) -> str:
    if not cases:
        return ""
    metric = _ranking_metric(cases)
    if metric:
        sign = -1 if higher_is_better(metric) else 1
        cases = sorted(cases, key=lambda case: _order(sign, case.metrics.get(metric)))
    scale = _error_scale(cases)
    ranked = f" Ranked by {escape(label(metric))}." if metric else ""
    if scale:
        ranked += " Colours: distance of the prediction to the true surface, in longest edges."
    parts = [f'<section id="cases"><h2>Cases</h2><p>{ranked}</p>{viewer.controls()}']
    thirds = (
        np.array_split(np.arange(len(cases)), 3)
        if len(cases) >= 3 and metric
        else [range(len(cases))]
    )
    names = ("Best", "Median", "Worst") if len(thirds) == 3 else ("",)
    for name, indices in zip(names, thirds, strict=True):
        if name:
            parts.append(f"<h3>{name}</h3>")
        for index in indices:
            parts.append(_case(cases[index], _rank(cases[index], rows, metric), scale, viewer))
    return "".join(parts) + "</section>"


def _case(case: Case, rank: str, scale: float, viewer: Viewer) -> str:
    name = escape(case.id)
    values = "".join(
        f"<div><dt>{escape(label(key))}</dt><dd>{decimal(value)}</dd></div>"
        for key, value in case.metrics.items()
    )
    intensities = None
    if case.error is not None and scale:
        intensities = np.asarray(case.error, np.float64) / scale
    below = legend(scale, "edge") if intensities is not None else ""
    views = [
        viewer.view(
            "truth", f"truth of {case.id}", case.truth, kind="truth", absent="no mesh of the truth"
        ),
        viewer.view(
            "prediction",
            f"prediction of {case.id}",
            case.prediction,
            intensities,
            below=below,
            absent="the model saw no surface",
        ),
    ]
    return (
        f'<article class="case"><h4>{name}</h4><p class="about">{escape(case.category)}{rank}</p>'
        f'<figure class="input">{picture_element(case.picture, f"input picture of {case.id}")}'
        f"<figcaption>input</figcaption></figure>"
        f"{viewer.scene(views, frame_of(case.truth, case.prediction))}"
        f'<dl class="values">{values}</dl></article>'
    )


def _shapes_section(rows: list[dict]) -> str:
    if not rows:
        return ""
    metrics = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if any(_is_number(row.get(key)) for row in rows)
    ]
    charts = "".join(
        histogram(key, [row[key] for row in rows if _is_number(row.get(key))]) for key in metrics
    )
    html = f'<section id="shapes"><h2>All shapes</h2><div class="charts">{charts}</div>'
    if len(rows) > _MAX_ROWS:
        return html + f"<p>The {len(rows)} rows are in the JSON file.</p></section>"
    lines = [
        [str(row.get("id", "")), str(row.get("category", "")), *(row.get(key) for key in metrics)]
        for row in rows
    ]
    listing = table(["shape", "category", *map(label, metrics)], lines)
    return html + f"<details><summary>All {len(rows)} shapes</summary>{listing}</details></section>"


def _ranking_metric(cases: list[Case]) -> str | None:
    names = [key for case in cases for key in case.metrics]
    return next((key for key in (*_RANKED_BY, *names) if key in names), None)


def _order(sign: int, value: float | None) -> float:
    return sign * value if _is_number(value) else np.inf


def _rank(case: Case, rows: list[dict], metric: str | None) -> str:
    """Its place among all shapes, where their rows tell."""
    values = [row[metric] for row in rows if _is_number(row.get(metric))]
    value = case.metrics.get(metric)
    if not values or not _is_number(value):
        return ""
    sign = -1 if higher_is_better(metric) else 1
    return f", rank {1 + sum(sign * other < sign * value for other in values)} of {len(values)}"


def _error_scale(cases: list[Case]) -> float:
    """A round distance for the last colour, one for all cases to compare them by; 0: no errors."""
    errors = [np.asarray(case.error, np.float64) for case in cases if case.error is not None]
    errors = np.concatenate(errors) if errors else np.empty(0)
    errors = errors[np.isfinite(errors)]
    high = float(np.quantile(errors, _ERROR_QUANTILE)) if len(errors) else 0.0
    if high <= 0:
        return 1e-3 if len(errors) else 0.0
    unit = 10.0 ** np.floor(np.log10(high))
    return float(next(k * unit for k in (1, 2, 3, 5, 10) if k * unit >= high * (1 - 1e-9)))


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
