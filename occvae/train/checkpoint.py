"""Run folders and resumable checkpoints.

<run>/train_config.json           the resolved configuration
<run>/metrics.jsonl, tensorboard/ what happened
<run>/samples/                    contact sheets
<run>/best/, <run>/last/          exports, see occvae.models.pretrained
<run>/checkpoints/latest.json     which checkpoint to resume, written after it is complete
<run>/checkpoints/step-N/         DeepSpeed's files
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from occvae.errors import UserError

TRAIN_CONFIG = "train_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint before its tensors are read."""

    folder: Path
    tag: str
    arch: str
    step: int


def choose_run_folder(out: str | None, arch: str, resume: bool) -> Path:
    """The folder of a new run, or of the run to resume.

    Without `out`, new runs are runs/<arch>, runs/<arch>-2, ... and a resume takes the newest.
    """
    if out is not None:
        folder = Path(out)
        if not resume and (folder / TRAIN_CONFIG).exists():
            raise UserError(
                f"{folder}: already holds a run; continue it with --resume or choose another --out"
            )
        return folder
    names = [
        Path("runs") / (arch if number == 1 else f"{arch}-{number}") for number in range(1, 1000)
    ]
    used = [folder for folder in names if (folder / TRAIN_CONFIG).exists()]
    if resume:
        if not used:
            raise UserError(f"runs/{arch}: no run to resume; give its folder with --out")
        return used[-1]
    return next(folder for folder in names if folder not in used)


def find_checkpoint(run: Path, arch: str) -> Checkpoint:
    """The newest complete checkpoint of a run, checked to be of this architecture."""
    pointer = run / "checkpoints" / "latest.json"
    if not pointer.is_file():
        raise UserError(f"{run}: holds no checkpoint to resume")
    try:
        content = json.loads(pointer.read_text())
        checkpoint = Checkpoint(pointer.parent, content["tag"], content["arch"], content["step"])
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{pointer}: not readable ({error!r})") from None
    if checkpoint.arch != arch:
        raise UserError(f"{run}: its checkpoint is of arch {checkpoint.arch!r}, not {arch!r}")
    if not (checkpoint.folder / checkpoint.tag).is_dir():
        raise UserError(f"{checkpoint.folder / checkpoint.tag}: checkpoint is missing")
    return checkpoint


def commit_checkpoint(checkpoint: Checkpoint) -> None:
    """Makes a written checkpoint the one to resume, then removes older ones."""
    pointer = checkpoint.folder / "latest.json"
    temporary = pointer.with_suffix(".tmp")
    content = {"tag": checkpoint.tag, "arch": checkpoint.arch, "step": checkpoint.step}
    temporary.write_text(json.dumps(content) + "\n")
    os.replace(temporary, pointer)
    for folder in checkpoint.folder.glob("step-*"):
        if folder.name != checkpoint.tag:
            shutil.rmtree(folder)
