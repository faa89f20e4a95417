"""Tables of an evaluation, recognized by form and not by name, so that new entries appear too.

A dict with `per_category`, `macro` and `micro` is a metric. All metrics of one dict share a table.
Other dicts become headings, lists of records become tables, and plain values become a list of
settings.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from occvae.visualize.report.metric_names import EDGE_NOTE, decimal, headline, label, number

# Shapes are shown as histograms, examples in 3D. The version of the layout is for programs.
_SHOWN_APART = ("shapes", "examples", "version")
_HEADINGS = {"controls": "Controls: IoU of voxels with a wrong image or no image", "metrics": ""}
_MEANS = {"macro": "mean of categories (macro)", "micro": "mean of shapes (micro)"}
_MOST_COLUMNS = 6  # a table of more metrics is divided

ABOUT_METRICS = f"<details><summary>About the metrics</summary><p>{EDGE_NOTE}</p></details>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, num_means: int = 0) -> str:
    """Returns an HTML table of plain values. The first `num_means` rows stand out."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = []
    for index, (name, *values) in enumerate(rows):
        cells = "".join(f"<td>{_cell(value)}</td>" for value in values)
        mark = ' class="mean"' if index < num_means else ""
        body.append(f'<tr{mark}><th scope="row">{_cell(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="table"><table><thead><tr>{head}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def evaluation_tables(evaluation: dict[str, Any], level: int = 2) -> str:
    """Returns HTML of the JSON that `occvae evaluate` writes, without the single shapes.

    Results come first. Blocks that open on a click hold less important metrics and the settings.
    """
    entries = {key: value for key, value in evaluation.items() if key not in _SHOWN_APART}
    results = {key: value for key, value in entries.items() if _holds_results(value)}
    settings = {key: value for key, value in entries.items() if key not in results}
    html = _tree(results, level)
    if content := _tree(settings, level + 1):
        html += f"<details><summary>Model, data and settings</summary>{content}</details>"
    return html


def _tree(entries: dict[str, Any], level: int) -> str:
    plain = {key: value for key, value in entries.items() if _is_plain(value)}
    metrics = {key: value for key, value in entries.items() if _is_metric(value)}
    rest = {key: value for key, value in entries.items() if key not in plain | metrics}
    parts = [_settings(plain)] if plain else []
    if metrics:
        parts.append(_metric_tables(metrics))
    for key, value in rest.items():
        content = _section(value, level + 1)
        if content:
            tag, heading = f"h{min(level, 6)}", _HEADINGS.get(key, label(str(key)))
            parts.append(f"<{tag}>{escape(heading)}</{tag}>{content}" if heading else content)
    return "".join(parts)


def _section(value: Any, level: int) -> str:
    if isinstance(value, dict):
        if value and all(_is_record(entry) for entry in value.values()):
            return _records([{"": label(str(key))} | entry for key, entry in value.items()])
        return _tree(value, level)
    if isinstance(value, list) and value and all(_is_record(entry) for entry in value):
        return _records(value)
    return ""


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(not isinstance(entry, dict | list) for entry in value)
    return not isinstance(value, dict)


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_plain, value.values()))


def _is_metric(value: Any) -> bool:
    return isinstance(value, dict) and {"per_category", "macro", "micro"} <= value.keys()


def _holds_results(value: Any) -> bool:
    """Whether a value is a metric or a list of records, or contains one anywhere."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_record, value))
    if not isinstance(value, dict):
        return False
    if value and all(map(_is_record, value.values())):
        return True
    return _is_metric(value) or any(map(_holds_results, value.values()))


def _settings(values: dict[str, Any]) -> str:
    entries = "".join(
        f"<div><dt>{escape(label(str(key)))}</dt><dd>{_setting(value)}</dd></div>"
        for key, value in values.items()
    )
    return f'<dl class="settings">{entries}</dl>'


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return escape(value) if isinstance(value, str) else number(value)


def _metric_tables(metrics: dict[str, Any]) -> str:
    """Returns a table with a column per metric. If there are many, most are in a second table."""
    if len(metrics) <= _MOST_COLUMNS:
        return _metric_table(metrics)
    shown = {name: metrics[name] for name in headline(metrics)}
    others = {name: metric for name, metric in metrics.items() if name not in shown}
    return (
        f"{_metric_table(shown)}<details><summary>{len(others)} more metrics</summary>"
        f"{_wide_metric_table(others)}</details>"
    )


def _metric_table(metrics: dict[str, Any]) -> str:
    """Returns a table with one row per category and one column per metric."""
    rows = [[text, *(metric[key] for metric in metrics.values())] for key, text in _MEANS.items()]
    rows += [
        [name, *(_mean(metric["per_category"].get(name)) for metric in metrics.values())]
        for name in _categories(metrics)
    ]
    return table(["", *map(label, metrics)], rows, num_means=len(_MEANS))


def _wide_metric_table(metrics: dict[str, Any]) -> str:
    """Returns a table with one row per metric. The means come first, as a page may be narrow."""
    names = _categories(metrics)
    rows = [
        [
            label(title),
            *(metric[key] for key in _MEANS),
            *(_mean(metric["per_category"].get(name)) for name in names),
        ]
        for title, metric in metrics.items()
    ]
    return table(["metric", *_MEANS.values(), *names], rows)


def _categories(metrics: dict[str, Any]) -> list[str]:
    return list(
        dict.fromkeys(name for metric in metrics.values() for name in metric["per_category"])
    )


def _mean(value: Any) -> Any:
    """Drops the interval: with intervals of all categories, the table would be too wide."""
    return value.get("mean") if isinstance(value, dict) else value


def _records(records: list[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for record in records for key in record))
    rows = [[record.get(key) for key in keys] for record in records]
    return table([label(str(key)) for key in keys], rows)


def _cell(value: Any) -> str:
    if isinstance(value, dict):  # a mean with its interval
        text = decimal(value.get("mean"))
        if interval := value.get("interval"):
            low, high = map(decimal, interval)
            text += f' <span class="interval">[{low}, {high}]</span>'
        return text
    if isinstance(value, list):
        return ", ".join(_cell(entry) for entry in value)
    return escape(value) if isinstance(value, str) else decimal(value)
