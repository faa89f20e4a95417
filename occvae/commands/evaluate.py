"""occvae evaluate: how good a model is on a dataset, beside controls."""

import argparse
import json
from pathlib import Path

from occvae.commands.model import (
    add_precision,
    default_device,
    load_model,
    set_precision,
    trained_on,
)
from occvae.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="run folder or export; default the newest run in runs/")
    parser.add_argument("--data", help="dataset folder; default what the run was trained on")
    parser.add_argument("--split", default="val")
    parser.add_argument(
        "--views", help="numbers of views to compare, e.g. 1,2,3,5, or all of the published tables"
    )
    add_precision(parser)
    parser.add_argument("--json", help="file for the report; default evaluation.json by the model")


def run(options: argparse.Namespace) -> None:
    from occvae.evaluation import evaluate, format_table
    from occvae.multiview_evaluation import evaluate_views, format_views_table

    model, folder = load_model(options.model)
    set_precision(model, options.precision)
    data = options.data or trained_on(folder)
    report = evaluate(model, data, split=options.split, device=default_device())
    report["model"] = str(folder)
    print(format_table(report))
    if options.views is not None:
        report["views"] = evaluate_views(
            model, data, _view_counts(options.views), split=options.split, device=default_device()
        )
        print(format_views_table(report["views"]))
    path = Path(options.json or folder / "evaluation.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"report: {path}")


def _view_counts(text: str) -> tuple[int, ...]:
    from occvae.multiview_evaluation import VIEW_COUNTS

    if text == "all":
        return VIEW_COUNTS
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--views {text}: expected numbers such as 1,2,5, or all") from None
