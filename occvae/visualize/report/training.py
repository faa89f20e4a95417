"""The sections of a run's page about its training: state, curves, and shapes that got worse."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occvae.visualize.report.charts import curves, small_curves
from occvae.visualize.report.metric_names import is_number
from occvae.visualize.report.tables import table

METRICS, VALIDATION = "metrics.jsonl", "validation.json"
_CATEGORY_IOU = "val/iou/"  # begins the names of the metrics of categories
_CATEGORY_MEAN = "val, mean of categories"
# Metrics that share the chart of another metric: chart and name of the line.
_LINES = {"val/category_mean": ("iou", _CATEGORY_MEAN)}
# Charts that a reader looks at first.
_MAIN_CHARTS = ("loss", "iou")

_Series = dict[str, tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Drop:
    """A shape whose IoU is lower than in an earlier validation.

    Args:
        id: id of the shape.
        category: its category.
        before: its IoU in the earlier validation.
        now: its IoU in the newest validation.
    """

    id: str
    category: str
    before: float
    now: float


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """The content of validation.json in a run folder.

    Args:
        step: step of the newest validation.
        last_step: last step of the run.
        stopped_early: whether the run ended early with this validation.
        num_without_gain: number of validations since the best one.
        best_step: step of the best validation.
        best_iou: its mean IoU.
        compared_with_step: step of the best of the earlier validations.
        worse: shapes whose IoU fell most since then.
    """

    step: int
    last_step: int
    stopped_early: bool
    num_without_gain: int
    best_step: int
    best_iou: float
    compared_with_step: int
    worse: list[Drop]


def training_sections(folder: Path) -> list[str]:
    """Returns sections as HTML, none if the folder is not that of a run."""
    validation = read_validation(folder)
    charts, categories = _read_metrics(folder / METRICS)
    parts = [] if validation is None else [f"<p>{_state(validation)}</p>"]
    if charts:
        parts.append(f"<section><h2>Training</h2>{_curves(charts)}</section>")
    if categories:
        parts.append(
            "<section><h2>Validation IoU by category</h2>"
            "<p>IoU over steps. All charts have the same axes.</p>"
            f'<div class="charts small">{small_curves(categories)}</div></section>'
        )
    if validation is not None and validation.worse:
        parts.append(_worse_shapes(validation))
    return parts


def has_ended(folder: Path) -> bool:
    """Whether a run has validated its last step, or stopped early. True for an export."""
    validation = read_validation(folder)
    if validation is None:
        return not (folder / METRICS).is_file()
    return validation.stopped_early or validation.step >= validation.last_step


def read_validation(folder: Path) -> ValidationReport | None:
    """Reads what a run wrote about its newest validation; None if there is nothing."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(ValidationReport).validate_json((folder / VALIDATION).read_bytes())
    except (OSError, ValidationError):
        return None


def _read_metrics(path: Path) -> tuple[dict[str, _Series], _Series]:
    """Reads the curves of a run.

    Returns:
        The lines of each chart, by name of the chart and of the part of the run (train, val). And
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
    return dict(charts), categories


def _curves(charts: dict[str, _Series]) -> str:
    """Returns the main charts side by side, and all others in a block that opens on a click."""
    main = ""
    for name in _MAIN_CHARTS:
        series = dict(charts.get(name, {}))
        if _hides_mean(series):
            del series[_CATEGORY_MEAN]
        main += curves(name, series, wide=True)
    others = "".join(
        curves(name, series) for name, series in charts.items() if name not in _MAIN_CHARTS
    )
    others = f'<div class="charts">{others}</div>'
    if not main:
        return others
    return (
        f'<div class="charts main">{main}</div>'
        f"<details><summary>Speed and other curves</summary>{others}</details>"
    )


def _hides_mean(series: _Series) -> bool:
    """Whether the mean of categories would hide the line of the mean of shapes."""
    if not {_CATEGORY_MEAN, "val"} <= series.keys():
        return False
    (_, means), (_, shapes) = series[_CATEGORY_MEAN], series["val"]
    return len(means) == len(shapes) and np.allclose(means, shapes, atol=1e-3)


def _state(report: ValidationReport) -> str:
    text = (
        f"Validated at step {report.step} of {report.last_step}. The best IoU is "
        f"{report.best_iou:.4f}, of step {report.best_step}."
    )
    if report.stopped_early:
        count = report.num_without_gain
        text += f" The run stopped early: the last {count} validations had no higher IoU."
    return text


def _worse_shapes(report: ValidationReport) -> str:
    rows = [[drop.id, drop.category, drop.before, drop.now] for drop in report.worse]
    steps = report.compared_with_step, report.step
    columns = ["shape", "category", *(f"IoU at step {step}" for step in steps)]
    return (
        "<section><h2>Shapes that got worse</h2><p>The largest drops since the best of the earlier "
        f"validations.</p>{table(columns, rows)}</section>"
    )
