"""Cases of a report: input image, prediction and ground truth of a shape, side by side."""

from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from occvae.visualize.report.document import pixels_element
from occvae.visualize.report.metric_names import (
    decimal,
    headline,
    higher_is_better,
    is_number,
    label,
)
from occvae.visualize.report.viewer import Mesh, Viewer, frame_of, legend, scale_colors

_ERROR_QUANTILE = 0.98  # vertices with larger errors get the last color


@dataclass(frozen=True)
class Case:
    """One shape that a report shows.

    Args:
        id: id of the shape, any text.
        category: category of the shape, any text.
        metrics: name of each metric to its value for this shape.
        image: (H, W, 3) uint8, the input of the model.
        truth: vertices (V, 3) and faces (F, 3) of the ground truth; None without a mesh.
        prediction: vertices (V, 3) and faces (F, 3); None or no faces if the field is empty.
        error: (V,) distances from the prediction's vertices to the true surface, in units of the
            object's longest edge. None shows the prediction in one color.
    """

    id: str
    category: str
    metrics: dict[str, float]
    image: np.ndarray
    truth: Mesh | None
    prediction: Mesh | None
    error: np.ndarray | None = None


def cases_section(
    cases: list[Case], rows: list[dict[str, Any]], examples: dict[str, list[str]], viewer: Viewer
) -> str:
    """Returns the HTML of all cases, the best first.

    Cases are ranked by the first metric whose name starts with "iou". If there is none, they are
    ranked by the first metric.

    Args:
        cases: the shapes to show.
        rows: metrics of all shapes; a case is ranked among them.
        examples: name of each group to the ids in it. If empty, three or more cases are divided
            into the best, the middle and the worst third.
        viewer: collects the meshes.

    Raises:
        ValueError: an image or the errors of a case have a wrong shape or dtype.
    """
    if not cases:
        return ""
    for case in cases:
        _check(case)
    names = [name for case in cases for name in case.metrics]
    metric = next((name for name in names if name.startswith("iou")), names[0] if names else "")
    sign = -1 if higher_is_better(metric) else 1
    cases = sorted(cases, key=lambda case: _order(sign, case.metrics.get(metric)))
    scale = _error_scale(cases)
    note = f"Ranked by {escape(label(metric))}. " if metric else ""
    if scale:
        note += "Colors: distance from the prediction to the true surface, in longest edges."
    switches = viewer.controls(*["colors"] * bool(scale), "wireframe", filter=_filter(cases))
    parts = [f'<section id="cases"><h2>Cases</h2><p>{note}</p>{switches}']
    for name, group in _groups(cases, examples, bool(metric)).items():
        articles = [_case(case, _rank(case, rows, metric), scale, viewer) for case in group]
        tiles = f'<div class="cases">{"".join(articles)}</div>'
        parts.append(f'<div class="group"><h3>{escape(name)}</h3>{tiles}</div>')
    return "".join(parts) + "</section>"


def _filter(cases: list[Case]) -> str:
    """Returns a choice of categories, empty if all cases have the same one."""
    counts = Counter(case.category for case in cases)
    if len(counts) < 2:
        return ""
    choices = "".join(
        f'<option value="{escape(name)}">{escape(name)} ({counts[name]})</option>'
        for name in sorted(counts)
    )
    return (
        f'<label>category <select data-filter><option value="">all ({len(cases)})</option>'
        f"{choices}</select></label>"
    )


def _groups(
    cases: list[Case], examples: dict[str, list[str]], ranked: bool
) -> dict[str, list[Case]]:
    group_of = {id: label(name) for name, ids in examples.items() for id in ids}
    groups: dict[str, list[Case]]
    if group_of:
        groups = {name: [] for name in (*map(label, examples), "Others")}
        for case in cases:
            groups[group_of.get(case.id, "Others")].append(case)
    elif ranked and len(cases) >= 3:
        thirds = np.array_split(np.arange(len(cases)), 3)
        names = ("Best", "Median", "Worst")
        groups = {
            name: [cases[i] for i in third] for name, third in zip(names, thirds, strict=True)
        }
    else:
        groups = {"All": cases}
    return {name: group for name, group in groups.items() if group}


def _check(case: Case) -> None:
    image = np.asarray(case.image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"{case.id}: image must be (H, W, 3) uint8, got {image.dtype} {image.shape}"
        )
    if case.error is not None and (
        case.prediction is None or np.shape(case.error) != (len(case.prediction[0]),)
    ):
        raise ValueError(f"{case.id}: error must have one distance per vertex of the prediction")


def _case(case: Case, rank: str, scale: float, viewer: Viewer) -> str:
    name, category = escape(case.id), escape(case.category)
    colors = None
    if case.error is not None and scale:
        colors = scale_colors(np.asarray(case.error, np.float64) / scale)
    frame = frame_of(case.truth, case.prediction)
    views = [
        viewer.view(
            "prediction",
            f"prediction of {case.id}",
            case.prediction,
            frame,
            colors,
            below=legend(scale, "edge") if colors is not None else "",
            absent="the prediction is empty",
        ),
        viewer.view(
            "truth",
            f"truth of {case.id}",
            case.truth,
            frame,
            kind="truth",
            absent="no mesh of the ground truth",
        ),
    ]
    return (
        f'<article class="case" data-category="{category}"><h4>{name}</h4>'
        f'<p class="about">{category}{rank}</p>'
        f'<figure class="input">{pixels_element(case.image, f"input image of {case.id}")}'
        f"<figcaption>input</figcaption></figure>"
        f"{viewer.scene(views, frame)}{_values(case.metrics)}</article>"
    )


def _values(metrics: dict[str, float]) -> str:
    """Returns the most important metrics of a case, and the others in a block to open."""
    first = headline(metrics)
    others = [name for name in metrics if name not in first]
    html = _list(first, metrics)
    if others:
        more = f"{len(others)} more metrics"
        html += f"<details><summary>{more}</summary>{_list(others, metrics)}</details>"
    return f'<div class="values">{html}</div>'


def _list(names: list[str], metrics: dict[str, float]) -> str:
    entries = "".join(
        f"<div><dt>{escape(label(name))}</dt><dd>{decimal(metrics[name])}</dd></div>"
        for name in names
    )
    return f"<dl>{entries}</dl>"


def _order(sign: int, value: float | None) -> float:
    return sign * value if is_number(value) else np.inf


def _rank(case: Case, rows: list[dict[str, Any]], metric: str) -> str:
    """Returns the rank of a case among all shapes as text, or "" if it is unknown."""
    values = [row[metric] for row in rows if is_number(row.get(metric))]
    value = case.metrics.get(metric)
    if not values or not is_number(value):
        return ""
    sign = -1 if higher_is_better(metric) else 1
    return f", rank {1 + sum(sign * other < sign * value for other in values)} of {len(values)}"


def _error_scale(cases: list[Case]) -> float:
    """Returns the distance, a round number, that has the last color in all cases.

    Cases share it, so that their colors can be compared. 0 means that no case has errors.
    """
    parts = [np.asarray(case.error, np.float64) for case in cases if case.error is not None]
    errors = np.concatenate([np.empty(0), *parts])
    errors = errors[np.isfinite(errors)]
    high = float(np.quantile(errors, _ERROR_QUANTILE)) if len(errors) else 0.0
    if high <= 0:
        return 1e-3 if len(errors) else 0.0
    unit = 10.0 ** np.floor(np.log10(high))
    return float(next(k * unit for k in (1, 2, 3, 5, 10) if k * unit >= high * (1 - 1e-9)))
