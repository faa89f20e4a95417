"""Run folders and resumable checkpoints.

<run>/train_config.json           the resolved configuration
<run>/metrics.jsonl, tensorboard/ what happened
<run>/samples/                    contact sheets
<run>/best/, <run>/last/          exports, see occvae.models.pretrained
<run>/checkpoints/latest.json     which checkpoint to resume, written after it is complete
<run>/checkpoints/step-N/         DeepSpeed's files
"""

import itertools
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from occvae.errors import UserError

TRAIN_CONFIG = "train_config.json"
_POINTER = "checkpoints/latest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint before its tensors are read."""

    folder: Path
    tag: str
    arch: str
    step: int
    world_size: int


def choose_run_folder(out: str | None, arch: str, resume: bool) -> Path:
    """The folder of a new run, or of the run to resume.

    Without `out`, new runs are runs/<arch>, runs/<arch>-2, ... and a resume takes the one that
    saved last. A folder whose run failed before its first record may be used again.
    """
    if out is not None:
        folder = Path(out)
        if not resume and _is_used(folder):
            raise UserError(
                f"{folder}: already holds a run; continue it with --resume or choose another --out"
            )
        return folder
    if resume:
        pointers = [
            pointer
            for pointer in Path("runs").glob(f"{arch}*/{_POINTER}")
            if re.fullmatch(rf"{re.escape(arch)}(-\d+)?", pointer.parents[1].name)
        ]
        if not pointers:
            raise UserError(f"runs/{arch}: no run to resume; give its folder with --out")
        return max(pointers, key=lambda pointer: pointer.stat().st_mtime).parents[1]
    names = (arch if number == 1 else f"{arch}-{number}" for number in itertools.count(1))
    return next(Path("runs") / name for name in names if not _is_used(Path("runs") / name))


def _is_used(run: Path) -> bool:
    return (run / _POINTER).exists() or (run / "metrics.jsonl").exists()


def find_checkpoint(run: Path, arch: str, world_size: int) -> Checkpoint:
    """The newest complete checkpoint of a run, checked to fit this architecture and job."""
    pointer = run / _POINTER
    if not pointer.is_file():
        raise UserError(f"{run}: holds no checkpoint to resume")
    try:
        content = json.loads(pointer.read_text())
        checkpoint = Checkpoint(pointer.parent, **content)
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{pointer}: not readable ({error!r})") from None
    if checkpoint.arch != arch:
        raise UserError(f"{run}: its checkpoint is of arch {checkpoint.arch!r}, not {arch!r}")
    if checkpoint.world_size != world_size:
        raise UserError(
            f"{run}: was saved by {checkpoint.world_size} rank(s), cannot resume on {world_size}"
        )
    if not (checkpoint.folder / checkpoint.tag).is_dir():
        raise UserError(f"{checkpoint.folder / checkpoint.tag}: checkpoint is missing")
    return checkpoint


def commit_checkpoint(checkpoint: Checkpoint) -> None:
    """Makes a written checkpoint the one to resume, then removes older ones."""
    pointer = checkpoint.folder / "latest.json"
    temporary = pointer.with_suffix(".tmp")
    content = {key: value for key, value in vars(checkpoint).items() if key != "folder"}
    temporary.write_text(json.dumps(content) + "\n")
    os.replace(temporary, pointer)
    for folder in checkpoint.folder.glob("step-*"):
        if folder.name != checkpoint.tag:
            shutil.rmtree(folder)
