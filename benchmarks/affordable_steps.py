"""How many training steps fit in a time, by what train_bench.py has measured on one rank.

python benchmarks/affordable_steps.py results.jsonl --arch vitocc --seconds 300
"""

import argparse
import json
import sys
from pathlib import Path

# Validation, contact sheets and checkpoints take the rest.
SHARE_OF_STEPS = 0.85


def seconds_of_a_step(results: Path, arch: str) -> float:
    """Of the last measurement."""
    if not results.exists():
        sys.exit(f"{results}: nothing has been timed")
    rows = map(json.loads, results.read_text().splitlines())
    times = [
        row["median"]
        for row in rows
        if row["benchmark"] == "train"
        and row["part"] == "step"
        and (row["arch"], row["ranks"]) == (arch, 1)
    ]
    if not times:
        sys.exit(f"{results}: no step of {arch} has been timed on one rank")
    return times[-1]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("results", type=Path)
    options.add_argument("--arch", required=True)
    options.add_argument("--seconds", type=float, required=True)
    asked = options.parse_args()
    step = seconds_of_a_step(asked.results, asked.arch)
    print(max(1, int(SHARE_OF_STEPS * asked.seconds / step)))


if __name__ == "__main__":
    main()
