"""The report of an evaluation: cases in 3D, tables and histograms, in one file."""

from html import escape
from pathlib import Path
from typing import Any

from occvae.system.atomic_write import write_whole_text
from occvae.visualize.report.cases import Case, cases_section
from occvae.visualize.report.charts import histogram
from occvae.visualize.report.document import document
from occvae.visualize.report.metric_names import headline, is_number, label
from occvae.visualize.report.tables import ABOUT_METRICS, evaluation_tables, table
from occvae.visualize.report.viewer import Viewer

_MAX_ROWS = 500


def write_report(path: str | Path, evaluation: dict[str, Any], cases: list[Case]) -> None:
    """Writes one HTML file that needs no other file and no network.

    Args:
        path: file to write. Its folder is created if needed.
        evaluation: what `occvae evaluate` writes as JSON. Its tables are recognized by their form.
            The entries of `shapes`, dicts with `id`, `category` and `metrics`, become histograms.
        cases: shapes to show, in any order. They are ranked by the first IoU among their metrics,
            or by the first metric if there is no IoU. The ids under `examples` of the evaluation
            group them; without these, the groups are the best, median and worst thirds.

    Raises:
        ValueError: a mesh, an image or an error has the wrong shape.
    """
    viewer = Viewer()
    rows = [_flat(row) for row in evaluation.get("shapes") or []]
    title = _title(evaluation)
    shown = cases_section(cases, rows, evaluation.get("examples") or {}, viewer)
    body = (
        f"<header><h1>{escape(title)}</h1>{_contents(cases, rows)}</header><main>{shown}"
        f'<section id="tables"><h2>Results</h2>{evaluation_tables(evaluation, level=3)}'
        f"{ABOUT_METRICS}</section>{_shapes_section(rows)}</main>"
    )
    page = document(title, body, viewer=viewer.scripts() if cases else "")
    write_whole_text(Path(path), page)


def _title(evaluation: dict[str, Any]) -> str:
    model, data = evaluation.get("model"), evaluation.get("data")
    if isinstance(model, dict):
        model = model.get("arch")
    if isinstance(data, dict):
        data = Path(str(data.get("root", ""))).name
    return "Evaluation" + f" of {model}" * bool(model) + f" on {data}" * bool(data)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of one shape with id, category and metrics in one dict."""
    return {key: row.get(key, "") for key in ("id", "category")} | {
        key: value for key, value in row.get("metrics", row).items() if key != "number"
    }


def _contents(cases: list[Case], rows: list[dict[str, Any]]) -> str:
    links = [("cases", "Cases")] * bool(cases) + [("tables", "Results")]
    links += [("shapes", "All shapes")] * bool(rows)
    return "<nav>" + " ".join(f'<a href="#{key}">{text}</a>' for key, text in links) + "</nav>"


def _shapes_section(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    metrics = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if any(is_number(row.get(key)) for row in rows)
    ]
    first = headline(metrics)
    html = f'<section id="shapes"><h2>All shapes</h2>{_histograms(first, rows)}'
    if others := [key for key in metrics if key not in first]:
        html += (
            f"<details><summary>Histograms of {len(others)} more metrics</summary>"
            f"{_histograms(others, rows)}</details>"
        )
    if len(rows) > _MAX_ROWS:
        return html + f"<p>The {len(rows)} rows are in the JSON file.</p></section>"
    lines = [
        [str(row["id"]), str(row["category"]), *(row.get(key) for key in metrics)] for row in rows
    ]
    listing = table(["shape", "category", *map(label, metrics)], lines)
    return html + f"<details><summary>All {len(rows)} shapes</summary>{listing}</details></section>"


def _histograms(metrics: list[str], rows: list[dict[str, Any]]) -> str:
    charts = [
        histogram(key, [row[key] for row in rows if is_number(row.get(key))]) for key in metrics
    ]
    return f'<div class="charts">{"".join(charts)}</div>'
