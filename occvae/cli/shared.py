"""What several commands share: the model, its precision, its dataset, and their options."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from occvae.errors import UserError
from occvae.system.verbosity import is_quiet

if TYPE_CHECKING:
    from occvae.models.protocol import Model


MODEL_HELP = (
    "run folder, export, built-in model, or owner/name on the Hugging Face Hub (default: the "
    "newest run in runs/, or the built-in model if there is none)"
)


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", help="fp32, fp16 or bf16 (default: fp16 on a GPU, fp32 on a CPU)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", help="cpu, cuda, or a GPU such as cuda:1 (default: cuda with a GPU, else cpu)"
    )


def load_model(path: str | None) -> tuple[Model, Path]:
    """Loads a model. Returns it and the folder of its export.

    Args:
        path: as for `occvae.from_pretrained`; None takes the newest run in `runs/`, or the built-in
            model if there is none.
    """
    from occvae.data.procedural import CATEGORIES
    from occvae.models import from_pretrained
    from occvae.models.pretrained import DEFAULT_MODEL, find_export

    if path is None:
        runs = [run for run in Path("runs").glob("*") if (run / "last").is_dir()]
        newest = max(runs, key=lambda run: (run / "last").stat().st_mtime, default=None)
        path = DEFAULT_MODEL if newest is None else str(newest)
        if newest is None and not is_quiet():
            # stdout may be JSON for a program.
            print(
                f"no run in runs/: using the built-in model {path}, which knows the "
                f"{len(CATEGORIES)} categories of the embedded dataset",
                file=sys.stderr,
            )
    folder = find_export(path)
    return from_pretrained(folder), folder


def trained_on(export: Path) -> str:
    """Returns the folder of the dataset that the run of an export was trained on.

    Raises:
        UserError: the export does not belong to a run, or the dataset is gone.
    """
    from occvae.train.checkpoint import TRAIN_CONFIG, check_recorded_data

    root = recorded_data(export)
    check_recorded_data(export.parent / TRAIN_CONFIG, root)
    return root


def recorded_data(export: Path) -> str:
    """Returns the dataset folder that the run of an export records, which may be gone.

    Raises:
        UserError: the export does not belong to a run.
    """
    from occvae.train.checkpoint import TRAIN_CONFIG

    config = export.parent / TRAIN_CONFIG
    if not config.is_file():
        raise UserError(f"{export}: does not belong to a run; give the dataset with --data")
    try:
        return str(json.loads(config.read_text())["data"]["root"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{config}: cannot be read ({error!r}); give the dataset with --data"
        ) from None


def set_precision(model: Model, precision: str | None) -> None:
    from occvae.ops.query_points import PRECISIONS

    if precision is None:
        return
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: choose from {', '.join(PRECISIONS)}")
    if not model.has_fused_decoder:
        raise UserError(f"--precision: {model.arch} with these options has no fused decoder")
    model.precision = precision


def open_browser(url: str) -> None:
    """Opens the browser if there is a display. Without one, some systems open a text browser."""
    import webbrowser

    if sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        webbrowser.open(url)
