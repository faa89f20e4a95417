"""The rows of a JSON file of the benchmarks as one table.

python benchmarks/result_table.py results.jsonl
"""

import json
import sys
from pathlib import Path

from timing import environment

HIDDEN = {"schema", "benchmark", "median", "p20", "p80", "minimum", "n", "isa", *environment()}


def describe(row: dict) -> str:
    """What was measured: every fact of the row that is neither a time nor about the machine."""
    facts = {name: value for name, value in row.items() if name not in HIDDEN | {"gpu"}}
    numbers = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in facts.items()}
    return "  ".join(f"{name} {value}" for name, value in numbers.items())


def main(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for row in rows:
        time = f"{1e3 * row['median']:.3f} ms" if "median" in row else ""
        print(f"{row['benchmark']:<9} {time:>13}  {describe(row)}")
    if not rows:
        print("no benchmark wrote a result")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
