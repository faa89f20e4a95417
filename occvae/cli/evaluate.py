"""occvae evaluate: metrics of a model on a dataset, next to controls and published figures."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from occvae.cli.shared import (
    MODEL_HELP,
    add_device,
    add_precision,
    load_model,
    recorded_data,
    set_precision,
    trained_on,
)
from occvae.errors import UserError
from occvae.system.terminal import one_line
from occvae.system.verbosity import note

if TYPE_CHECKING:
    from occvae.evaluation.inputs import InputSet
    from occvae.models.protocol import Model

_RESOLUTION = 128


_STDOUT = ""  # --json without a file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument(
        "--data", help="dataset folder (default: the dataset that the run was trained on)"
    )
    parser.add_argument("--split", default="val", help="split to evaluate (default: val)")
    parser.add_argument(
        "--resolution",
        type=int,
        default=_RESOLUTION,
        help=f"cells per axis of the meshes (default: {_RESOLUTION})",
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
    parser.add_argument(
        "--inputs",
        help="inputs to compare for a model of several kinds, such as "
        "images:1,images:5,points:300,scan,voxels,images:1+scan",
    )
    add_precision(parser)
    add_device(parser)
    parser.add_argument(
        "--json",
        nargs="?",
        const=_STDOUT,
        metavar="FILE",
        help="file of the report; a .csv with one row per shape is written beside it (default: a "
        "name made of data, split and settings, in the folder of the model). Without FILE, print "
        "the report as JSON instead of tables",
    )
    parser.add_argument("--html", help="file of a page with the report and examples in 3D")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    # The deepspeed launcher passes it.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    from occvae.evaluation import evaluate, format_table
    from occvae.evaluation.cases import write_page
    from occvae.evaluation.comparison import comparable_by_views
    from occvae.evaluation.files import write_csv, write_json
    from occvae.evaluation.inputs import evaluate_inputs, format_inputs_table
    from occvae.evaluation.ranks import processes, raise_together
    from occvae.evaluation.threshold import choose_threshold
    from occvae.evaluation.views import evaluate_views, format_views_table

    with processes(options.device) as device:
        model, folder, data, compared, path = raise_together(lambda: _prepare(options))
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
        shared["threshold"] = chosen["threshold"]
        views = compared.views and evaluate_views(model, data, compared.views, **shared)
        inputs = compared.inputs and evaluate_inputs(model, data, compared.inputs, **shared)
        if report is None:
            return  # only rank 0 has the report
        report["data"]["trained_on"] = _count_trained_on(folder, report)
        report["model"] = {"path": str(folder), **report["model"]}
        if views:
            report["views"] = views
        if inputs:
            report["inputs"] = inputs
        if options.json == _STDOUT:
            print(json.dumps(report, indent=1, allow_nan=False))
        else:
            print(format_table(report))
            if views:
                print("\n" + format_views_table(views, published=comparable_by_views(report)))
            if inputs:
                print("\n" + format_inputs_table(inputs))
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


class _Compared(NamedTuple):
    """What the options --views and --inputs ask for."""

    views: tuple[int, ...] | None
    inputs: "list[InputSet]"


def _prepare(options: argparse.Namespace) -> tuple["Model", Path, str, _Compared, Path]:
    """Returns the model, its folder, the dataset, what to compare and the report's file.

    Checks every option here, because the evaluation that follows may take hours.
    """
    from occvae.evaluation.inputs import check_inputs, parse_inputs
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
    inputs = [] if options.inputs is None else parse_inputs(options.inputs, model)
    check_inputs(model, data, options.split, inputs)
    path = _output(options, _default_file(options, folder, data))
    return model, folder, data, _Compared(counts, inputs), path


def _default_file(options: argparse.Namespace, folder: Path, data: str) -> Path:
    """Returns the file of the report. Its name tells data, split and settings.

    It lies beside the model. For a downloaded or built-in model, which lies in a cache or in the
    installed package, it is in the current folder.
    """
    from occvae.evaluation.files import report_name
    from occvae.models.pretrained import is_built_in

    is_own = not is_built_in(folder) if options.model is None else Path(options.model).exists()
    other_resolution = options.resolution != _RESOLUTION and not options.no_meshes
    name = report_name(
        data,
        options.split,
        {
            "no-meshes": "" if options.no_meshes else None,
            "resolution": options.resolution if other_resolution else None,
            "threshold": options.threshold,
            "shapes": options.shapes,
            "seed": options.seed or None,
            "views": options.views,
            "inputs": options.inputs,
            "precision": options.precision,
        },
    )
    return folder / name if is_own else Path(name)


def _output(options: argparse.Namespace, default: Path) -> Path:
    """Returns the report's file, once all output files are distinct, writable and new.

    Args:
        options: options of the command. With `force`, files may exist.
        default: file of the report if the options name none.
    """
    from occvae.system.atomic_write import check_writable

    path = Path(options.json or default)
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
        if file.exists() and not options.force:
            option = "--html" if kind == "the page" else "--json"
            raise UserError(
                f"{file}: exists; replace it with --force, or name another file with {option}"
            )
    if options.html is not None and files["the page"].suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--html {options.html}: expected a file ending in .html")
    return path


def _count_trained_on(folder: Path, report: dict[str, Any]) -> int | None:
    """Counts the evaluated shapes that the model was trained on, by their ids.

    None if the model does not belong to a run. Also None, with a warning, if the run's dataset
    cannot be read.
    """
    from occvae.data.dataset import ShapeDataset

    try:
        root = recorded_data(folder)
    except UserError:
        return None
    try:
        training = ShapeDataset(root, "train", image_size=8)
    except UserError as error:
        unknown = "it is unknown how many of these shapes the model was trained on"
        print(f"warning: {unknown} ({one_line(error)})", file=sys.stderr)
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
