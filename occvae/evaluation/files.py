"""A report on disk: everything as JSON, and one row a shape as CSV."""

import csv
import json
import os
from pathlib import Path


def write_json(path: Path, report: dict) -> None:
    _replace(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, report: dict) -> None:
    """Columns `number` in the split, `id`, `category` and the metrics, to the last digit."""
    rows = report["shapes"]
    metrics = list(rows[0]["metrics"])
    temporary = _temporary(path)
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "id", "category", *metrics])
        for row in rows:
            values = (repr(row["metrics"][name]) for name in metrics)
            writer.writerow([row["number"], row["id"], row["category"], *values])
    os.replace(temporary, path)


def _replace(path: Path, text: str) -> None:
    temporary = _temporary(path)
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ".tmp")
