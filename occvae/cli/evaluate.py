"""occvae evaluate: metrics of a model on a dataset, next to controls and published figures."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from occvae.cli.shared import (
    MODEL_HELP,
    add_device,
    add_precision,
    load_model,
    set_precision,
    trained_on,
)
from occvae.errors import UserError
from occvae.system.verbosity import note

if TYPE_CHECKING:
    from occvae.models.protocol import Model


_STDOUT = ""  # --json without a file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument(
        "--data", help="dataset folder (default: the dataset that the run was trained on)"
    )
    parser.add_argument("--split", default="val", help="split to evaluate (default: val)")
    parser.add_argument(
        "--resolution", type=int, default=128, help="cells per axis of the meshes (default: 128)"
    )
    parser.add_argument(
        "--no-meshes", action="store_true", help="faster: only metrics of points and voxels"
    )
    parser.add_argument(
        "--threshold",
        help="probability of the surface, or val to choose it on the validation split "
        "(default: the model's own)",
    )
    parser.add_argument(
        "--shapes", type=int, help="number of shapes, spread over the split (default: all)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the points sampled on meshes (default: 0)"
    )
    parser.add_argument(
        "--views",
        help="numbers of views to compare, such as 1,2,3,5; all: those of the published tables",
    )
    add_precision(parser)
    add_device(parser)
    parser.add_argument(
        "--json",
        nargs="?",
        const=_STDOUT,
        metavar="FILE",
        help="file of the report; a .csv with one row per shape is written beside it (default: "
        "evaluation.json in the folder of the model). Without FILE, print the report as JSON "
        "instead of tables",
    )
    parser.add_argument("--html", help="file of a page with the report and examples in 3D")
    # The deepspeed launcher passes it.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    from occvae.evaluation import evaluate, format_table
    from occvae.evaluation.cases import write_page
    from occvae.evaluation.comparison import comparable_by_views
    from occvae.evaluation.files import write_csv, write_json
    from occvae.evaluation.ranks import processes, raise_together
    from occvae.evaluation.threshold import choose_threshold
    from occvae.evaluation.views import evaluate_views, format_views_table

    with processes(options.device) as device:
        model, folder, data, counts, path = raise_together(lambda: _prepare(options))
        model = model.to(device)
        shared: dict[str, Any] = {"num_shapes": options.shapes, "device": device}
        chosen: dict[str, Any] = {"threshold": _number(options.threshold)}
        if options.threshold == "val":
            same = ", the same shapes that are evaluated" if options.split == "val" else ""
            chosen = {
                "threshold": choose_threshold(model, data, **shared),
                "threshold_origin": f"chosen on val{same}",
            }
        shared |= {"split": options.split, "seed": options.seed}
        resolution = None if options.no_meshes else options.resolution
        report = evaluate(model, data, mesh_resolution=resolution, **chosen, **shared)
        views = counts and evaluate_views(
            model, data, counts, threshold=chosen["threshold"], **shared
        )
        if report is None:
            return  # only rank 0 has the report
        report["data"]["trained_on"] = _count_trained_on(folder, report)
        report["model"] = {"path": str(folder), **report["model"]}
        if views:
            report["views"] = views
        if options.json == _STDOUT:
            print(json.dumps(report, indent=1, allow_nan=False))
        else:
            print(format_table(report))
            if views:
                print("\n" + format_views_table(views, published=comparable_by_views(report)))
        write_json(path, report)
        write_csv(path.with_suffix(".csv"), report)
        _note(options, f"report: {path}, {path.with_suffix('.csv')}")
        if options.html is not None:
            write_page(Path(options.html), report, model, data, device)
            _note(options, f"page: {options.html}")


def _note(options: argparse.Namespace, text: str) -> None:
    """Prints a note, unless stdout is JSON for a program."""
    if options.json != _STDOUT:
        note(text)


def _prepare(
    options: argparse.Namespace,
) -> tuple["Model", Path, str, tuple[int, ...] | None, Path]:
    """Returns the model, its folder, the dataset, the numbers of views and the report's file.

    Checks every option here, because the evaluation that follows may take hours.
    """
    from occvae.evaluation.splits import check_splits
    from occvae.evaluation.views import check_view_counts
    from occvae.reconstruction import ReconstructionSettings

    model, folder = load_model(options.model)
    set_precision(model, options.precision)
    data = options.data or trained_on(folder)
    check_splits(folder, data)
    asked: dict[str, Any] = {"threshold": _number(options.threshold), "seed": options.seed}
    if not options.no_meshes:
        asked["resolution"] = options.resolution
    ReconstructionSettings(**asked).check(model, "glb")
    counts = _view_counts(options.views)
    if counts is not None:
        check_view_counts(model, data, options.split, counts)
    return model, folder, data, counts, _output(options, folder)


def _output(options: argparse.Namespace, folder: Path) -> Path:
    """Returns the report's file, once all output files are distinct and writable."""
    from occvae.system.atomic_write import check_writable

    named = None if options.json == _STDOUT else options.json
    path = Path(named or folder / "evaluation.json")
    files = {"the report": path, "the table of all shapes": path.with_suffix(".csv")}
    if options.html is not None:
        files["the page"] = Path(options.html)
    kinds: dict[str, str] = {}
    for kind, file in files.items():
        # Some file systems ignore case.
        first = kinds.setdefault(str(file.resolve()).lower(), kind)
        if first != kind:
            raise UserError(f"{file}: cannot be {first} and {kind}; change --json or --html")
        check_writable(file)
    if options.html is not None and files["the page"].suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--html {options.html}: expected a file ending in .html")
    return path


def _count_trained_on(folder: Path, report: dict[str, Any]) -> int | None:
    """Counts the evaluated shapes that the model was trained on, by their ids.

    None if the model does not belong to a run, or if the run's dataset no longer exists.
    """
    from occvae.data.dataset import ShapeDataset

    try:
        training = ShapeDataset(trained_on(folder), "train", image_size=8)
    except UserError:
        return None
    return len({shape["id"] for shape in report["shapes"]} & set(training.ids))


def _number(threshold: str | None) -> float | None:
    if threshold is None or threshold == "val":
        return None
    try:
        return float(threshold)
    except ValueError:
        raise UserError(f"--threshold {threshold}: expected a probability or val") from None


def _view_counts(text: str | None) -> tuple[int, ...] | None:
    from occvae.metrics.published import VIEW_COUNTS

    if text is None:
        return None
    if text == "all":
        return VIEW_COUNTS
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--views {text}: expected numbers such as 1,2,5 or all") from None
