"""Tables of an evaluation, recognized by form and not by name, so that new entries appear too.

A dict with `per_category`, `macro` and `micro` is a metric. All metrics of one dict share a table.
Other dicts become headings, lists of records become tables, and plain values become a list of
settings.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from occvae.visualize.report.metric_names import decimal, label, number

# Shapes are shown as histograms, examples in 3D. The version of the layout is for programs.
_SHOWN_APART = ("shapes", "examples", "version")
_HEADINGS = {"controls": "Controls: IoU of voxels with a wrong image or no image"}
_MEANS = {"macro": "mean of categories (macro)", "micro": "mean of shapes (micro)"}


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, num_means: int = 0) -> str:
    """Returns an HTML table of plain values. The first `num_means` value columns stand out."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = []
    marks = [' class="mean"'] * num_means + [""] * (len(columns) - 1 - num_means)
    for name, *values in rows:
        cells = "".join(
            f"<td{mark}>{_cell(value)}</td>" for mark, value in zip(marks, values, strict=True)
        )
        body.append(f'<tr><th scope="row">{_cell(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="table"><table><thead><tr>{head}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def evaluation_tables(evaluation: dict[str, Any], level: int = 2) -> str:
    """Returns HTML of the JSON that `occvae evaluate` writes, without the single shapes.

    Metrics come first.
    """
    entries = {key: value for key, value in evaluation.items() if key not in _SHOWN_APART}
    plain = {key: value for key, value in entries.items() if _is_plain(value)}
    metrics = {key: value for key, value in entries.items() if _is_metric(value)}
    rest = {key: value for key, value in entries.items() if key not in plain | metrics}
    parts = [_settings(plain)] if plain else []
    if metrics:
        parts.append(_metric_table(metrics))
    for key, value in sorted(rest.items(), key=lambda entry: not _holds_metrics(entry[1])):
        content = _section(value, level + 1)
        if content:
            tag = f"h{min(level, 6)}"
            heading = _HEADINGS.get(key) or label(str(key))
            parts.append(f"<{tag}>{escape(heading)}</{tag}>{content}")
    return "".join(parts)


def _section(value: Any, level: int) -> str:
    if isinstance(value, dict):
        if value and all(_is_record(entry) for entry in value.values()):
            return _records([{"": label(str(key))} | entry for key, entry in value.items()])
        return evaluation_tables(value, level)
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


def _holds_metrics(value: Any) -> bool:
    return isinstance(value, dict) and any(map(_is_metric, value.values()))


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


def _metric_table(metrics: dict[str, Any]) -> str:
    """Returns a table with one row per metric. The means come first, as a page may be narrow."""
    names = dict.fromkeys(name for metric in metrics.values() for name in metric["per_category"])
    rows = [
        [
            label(title),
            *(metric[key] for key in _MEANS),
            *(_mean(metric["per_category"].get(name)) for name in names),
        ]
        for title, metric in metrics.items()
    ]
    return table(["metric", *_MEANS.values(), *names], rows, num_means=len(_MEANS))


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
