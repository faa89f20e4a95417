"""Files of a report: everything as JSON, and one row per shape as CSV."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from occvae.system.atomic_write import write_whole, write_whole_text

_LONGEST_NAME = 60  # letters of the dataset's name, because file systems limit the whole name


def report_name(root: str | Path, split: str, settings: dict[str, str | int | None]) -> str:
    """Names a report by what was evaluated, so that different evaluations have different files.

    Args:
        root: dataset folder. Its last part enters the name.
        split: name of the split.
        settings: name and value of each setting that is not at its default. None leaves it out,
            and "" adds the name alone.

    Returns:
        A file name such as `evaluation-mine-test-resolution-64.json`.
    """
    words = ["evaluation", Path(root).resolve().name[:_LONGEST_NAME], split]
    for name, value in settings.items():
        if value is not None:
            words += filter(None, [name, str(value)])
    return "-".join(re.sub(r"[^\w.]+", "-", word) for word in words) + ".json"


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Writes the whole report."""
    write_whole_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, report: dict[str, Any]) -> None:
    """Writes one row per shape: `number` in the split, `id`, `category` and all metrics.

    Metrics are written with all digits.
    """
    write_whole(path, lambda file: _write_rows(file, report["shapes"]))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    metrics = list(rows[0]["metrics"])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "id", "category", *metrics])
        for row in rows:
            values = (repr(row["metrics"][name]) for name in metrics)
            writer.writerow([row["number"], row["id"], row["category"], *values])
