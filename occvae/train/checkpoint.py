"""Run folders and resumable checkpoints.

A run folder holds::

    train_config.json           the resolved configuration
    metrics.jsonl, tensorboard/ the metrics of each logged step
    index.html                  page with learning curves and the newest contact sheet
    validation.json             what the newest validation found
    samples/                    contact sheets
    best/, last/                exports, see occvae.models.pretrained
    checkpoints/step-N/         state.safetensors: weights, and AdamW moments by parameter name;
                                state.json: the other state of a training, see `Progress`

Rank 0 writes a checkpoint under a temporary name and renames it once it is on the disk. A
checkpoint with its final name is therefore complete, even if a process or the machine died.
Checkpoints do not depend on the number of ranks or the ZeRO stage. Only rank 0 needs access to
them.
"""

import itertools
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from occvae.data.manifest import MANIFEST
from occvae.errors import UserError
from occvae.system.atomic_write import save_with_usual_mode, to_disk

TRAIN_CONFIG = "train_config.json"
FORMAT_VERSION = 3
_FOLDER = "checkpoints"
_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass
class Progress:
    """The state of a training besides its tensors.

    Together with the configuration it determines everything else, e.g. the next samples.

    Args:
        arch: name of the architecture.
        step: number of finished optimizer steps.
        samples: number of shapes used so far, over all ranks.
        engine: see `Engine.state`; None before the first checkpoint.
        best_iou: best IoU of the validations so far; -1 before the first one.
        global_batch: shapes per micro step, over all ranks.
        dataset: `Manifest.shards_digest` of the dataset. None in runs of earlier versions.
        best_step: step of the best validation; 0 before the first one.
        best_shapes: IoU of each shape in the best validation, by id. Empty in runs of earlier
            versions.
        num_without_gain: number of validations since the best one.
    """

    arch: str
    step: int
    samples: int
    engine: dict[str, Any] | None
    best_iou: float
    global_batch: int
    dataset: str | None = None
    best_step: int = 0
    best_shapes: dict[str, float] = field(default_factory=dict)
    num_without_gain: int = 0

    def record_validation(self, iou: float, shapes: dict[str, float]) -> bool:
        """Records a validation at the present step. Returns whether it is the best so far.

        Args:
            iou: mean IoU.
            shapes: IoU of each shape by id.
        """
        if not iou > self.best_iou:
            self.num_without_gain += 1
            return False
        self.best_iou, self.best_step, self.best_shapes = iou, self.step, shapes
        self.num_without_gain = 0
        return True


def check_recorded_data(config: Path, root: str) -> None:
    """Checks that the dataset of a run is still where the run recorded it.

    Args:
        config: the file of the run that records the dataset, for the message.
        root: recorded folder. Runs of earlier versions may record a relative path.

    Raises:
        UserError: there is no dataset.
    """
    if not (Path(root) / MANIFEST).is_file():
        relative = "" if os.path.isabs(root) else ", relative to where the training was started"
        raise UserError(
            f"{root}: no dataset here; {config} names this folder{relative}; if the dataset moved, "
            "give its new folder with --data"
        )


def choose_run_folder(out: str | None, arch: str, resume: bool) -> Path:
    """Returns the folder of a new run, or of the run to resume.

    Without `out`, a new run gets the first free folder of runs/ARCH, runs/ARCH-2, ... A folder is
    free if it holds no checkpoint. A resume without `out` takes the run of this architecture in
    runs/ that wrote a checkpoint last.

    Args:
        out: folder that the user chose, or None.
        arch: name of the architecture.
        resume: whether to continue a run.

    Raises:
        UserError: `out` already holds a run and is not to be resumed, or there is no run to resume.
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
    """Returns the complete checkpoints of a run in the order of their steps."""
    found = [path for path in (run / _FOLDER).glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def save_checkpoint(
    run: Path, progress: Progress, tensors: dict[str, torch.Tensor], keep: int
) -> None:
    """Writes a checkpoint, completely or not at all, then deletes all but the newest `keep`.

    Args:
        run: run folder.
        progress: state besides the tensors.
        tensors: weights and moments by name.
        keep: number of checkpoints to keep.

    Raises:
        OSError: the checkpoint cannot be written. Nothing of it is left then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = run / _FOLDER / f"step-{progress.step}"
    if folder.is_dir():
        return  # the run was stopped here, resumed, and stopped again before the next step
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_with_usual_mode(partial / _TENSORS, lambda path: save_file(tensors, path))
        content = {"format_version": FORMAT_VERSION, **asdict(progress)}
        (partial / _STATE).write_text(json.dumps(content) + "\n")
        for path in (partial / _TENSORS, partial / _STATE, partial):
            to_disk(path)
        os.rename(partial, folder)
        to_disk(folder.parent)
    except SafetensorError as error:  # raised e.g. when the disk is full
        raise OSError(f"{partial}: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)  # a network file system may still hold a file


def read_progress(run: Path, arch: str) -> Progress:
    """Reads the progress in the newest checkpoint of a run.

    Raises:
        UserError: there is no checkpoint, it is damaged, or it has another format or architecture.
    """
    folder = _newest(run)
    try:
        content = json.loads((folder / _STATE).read_text())
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise UserError(f"{folder}: has format {version}, this occvae reads {FORMAT_VERSION}")
        progress = Progress(**content)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(run, error) from None
    if progress.arch != arch:
        raise UserError(f"{run}: its checkpoint has arch {progress.arch!r}, not {arch!r}")
    return progress


def read_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors in the newest checkpoint of a run.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(_newest(run) / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise _damaged(run, error) from None


def _newest(run: Path) -> Path:
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise UserError(f"{run}: holds no checkpoint to resume; start a new run without --resume")
    return checkpoints[-1]


def _damaged(run: Path, error: Exception) -> UserError:
    *before, folder = list_checkpoints(run)
    instead = f", to resume from {before[-1].name}" if before else ""
    return UserError(f"{folder}: damaged ({error!r}); delete it{instead}")
