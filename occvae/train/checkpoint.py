"""Run folders and resumable checkpoints.

<run>/train_config.json           the resolved configuration
<run>/metrics.jsonl, tensorboard/ what happened
<run>/samples/                    contact sheets
<run>/best/, <run>/last/          exports, see occvae.models.pretrained
<run>/checkpoints/step-N/         state.safetensors: weights, and AdamW moments by parameter name;
                                  state.json: what else a training remembers

Checkpoints are written by the first rank under another name and renamed when they are on the disk:
one that has its name is whole, whenever a process or the machine died. They do not depend on the
number of ranks or the ZeRO stage, and only the first rank needs to see them.
"""

import itertools
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from occvae.errors import UserError
from occvae.system.atomic_write import to_disk

TRAIN_CONFIG = "train_config.json"
FORMAT_VERSION = 3
_FOLDER = "checkpoints"
_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass
class Progress:
    """What a checkpoint remembers beside tensors; all else follows from it and the configuration.

    Args:
        arch: of the model.
        step: optimizer steps done.
        samples: taken so far, by all ranks together.
        engine: see `Engine.state`; None before the first step.
        best_iou: of the validations so far.
        global_batch: shapes of a micro step, of all ranks together.
    """

    arch: str
    step: int
    samples: int
    engine: dict[str, Any] | None
    best_iou: float
    global_batch: int


def choose_run_folder(out: str | None, arch: str, resume: bool) -> Path:
    """The folder of a new run, or of the run to resume.

    Without `out`, new runs are runs/<arch>, runs/<arch>-2, ... and a resume takes the one that
    saved last. A folder whose run failed before its first step may be used again.
    """
    if out is not None:
        folder = Path(out)
        if not resume and list_checkpoints(folder):
            raise UserError(
                f"{folder}: already holds a run; continue it with --resume or choose another --out"
            )
        return folder
    if resume:
        saved = [
            checkpoint
            for checkpoint in Path("runs").glob(f"{arch}*/{_FOLDER}/step-*")
            if re.fullmatch(rf"{re.escape(arch)}(-\d+)?", checkpoint.parents[1].name)
        ]
        if not saved:
            raise UserError(f"runs/{arch}: no run to resume; give its folder with --out")
        return max(saved, key=lambda checkpoint: checkpoint.stat().st_mtime).parents[1]
    names = (arch if number == 1 else f"{arch}-{number}" for number in itertools.count(1))
    return next(Path("runs") / name for name in names if not list_checkpoints(Path("runs") / name))


def list_checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [path for path in (run / _FOLDER).glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def save_checkpoint(
    run: Path, progress: Progress, tensors: dict[str, torch.Tensor], keep: int
) -> None:
    """Writes a checkpoint, whole or not at all, then removes all but the newest `keep`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = run / _FOLDER / f"step-{progress.step}"
    if folder.is_dir():
        return  # of a run that was stopped here, resumed and stopped at once
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file(tensors, partial / _TENSORS)
        content = {"format_version": FORMAT_VERSION, **asdict(progress)}
        (partial / _STATE).write_text(json.dumps(content) + "\n")
        for path in (partial / _TENSORS, partial / _STATE, partial):
            to_disk(path)
        os.rename(partial, folder)
        to_disk(folder.parent)
    except SafetensorError as error:  # which says in words of its own that the disk is full
        raise OSError(f"{partial}: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)  # a network file system may still hold a file


def read_progress(run: Path, arch: str) -> Progress:
    """Of the newest checkpoint of a run, checked to be of this architecture.

    Raises:
        UserError: there is none, or it is damaged, of another architecture or format.
    """
    folder = _newest(run)
    try:
        content = json.loads((folder / _STATE).read_text())
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise UserError(f"{folder}: is of format {version}, this occvae reads {FORMAT_VERSION}")
        progress = Progress(**content)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(run, error) from None
    if progress.arch != arch:
        raise UserError(f"{run}: its checkpoint is of arch {progress.arch!r}, not {arch!r}")
    return progress


def read_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint of a run; raises `UserError` where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(_newest(run) / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise _damaged(run, error) from None


def _newest(run: Path) -> Path:
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise UserError(f"{run}: holds no checkpoint to resume")
    return checkpoints[-1]


def _damaged(run: Path, error: Exception) -> UserError:
    *before, folder = list_checkpoints(run)
    instead = f", to resume from {before[-1].name}" if before else ""
    return UserError(f"{folder}: damaged ({error!r}); delete it{instead}")
