"""What several commands share: the model, its precision, its dataset, and their options."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from occvae.errors import UserError

if TYPE_CHECKING:
    from occvae.models.protocol import Model


MODEL_HELP = (
    "run folder, export, built-in model, or owner/name on the Hugging Face Hub (default: the "
    "newest run in runs/)"
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
        path: as for `occvae.from_pretrained`; None takes the newest run in `runs/`.
    """
    from occvae.models import from_pretrained
    from occvae.models.pretrained import find_export

    if path is not None:
        folder = find_export(path)
    else:
        runs = [run for run in Path("runs").glob("*") if (run / "last").is_dir()]
        if not runs:
            raise UserError("no trained model in runs/; train one or name one with --model")
        folder = find_export(max(runs, key=lambda run: (run / "last").stat().st_mtime))
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
    from occvae.ops.query_occupancy import PRECISIONS

    if precision is None:
        return
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: choose from {', '.join(PRECISIONS)}")
    if not model.has_fused_decoder:
        raise UserError(f"--precision: {model.arch} with these options has no fused decoder")
    model.precision = precision
