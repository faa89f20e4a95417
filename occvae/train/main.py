"""Trains a model from options of the command line. Every rank of a run executes it."""

import dataclasses
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist

from occvae.data.manifest import MANIFEST, Manifest
from occvae.errors import UserError
from occvae.system.atomic_write import write_whole_text
from occvae.system.launchers import check_hostfile
from occvae.system.terminal import one_line
from occvae.system.verbosity import is_verbose, note
from occvae.train import parallel
from occvae.train.checkpoint import (
    TRAIN_CONFIG,
    Progress,
    check_recorded_data,
    choose_run_folder,
    list_checkpoints,
    read_progress,
)
from occvae.train.compiler import check_compiler
from occvae.train.config import DataConfig, TrainConfig, from_dict
from occvae.train.config_file import format_config
from occvae.train.deepspeed_config import resolve_deepspeed
from occvae.train.failures import (
    MachineFailure,
    ReportedByPeer,
    exit_status,
    last_line,
    lost_contact,
    lost_loader,
    place,
)
from occvae.train.launch import complete_environment
from occvae.train.run_lock import lock_run
from occvae.train.run_options import RunOptions, configure, override

if TYPE_CHECKING:
    from occvae.train.trainer import Trainer

# Below this batch per rank, unsynchronized batch norm is unreliable.
_FEW_SAMPLES = 16


def train(options: RunOptions) -> int:
    """Trains a model, or prints the settings of the run if the options ask for that.

    Returns:
        Exit status. 0: the training reached its last step or stopped early. 1: a machine, process
        or network failed, so the run can be resumed as it is. 2: something must be corrected first.
        128 + N: signal N stopped the run, which was saved.
    """
    try:
        status = _join_and_train(options)
    except KeyboardInterrupt:
        print("interrupted before the first step", file=sys.stderr)
        status = 130
    except (UserError, OSError) as error:
        status = _fail(error)
    except RuntimeError as error:
        failure = lost_contact(error) or lost_loader(error)
        if failure is None:
            raise
        status = _fail(failure)
    if dist.is_initialized():
        # This rank leaves without the others, so gloo would abort during the cleanup of Python.
        _exit_at_once(status)
    return status


def _exit_at_once(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _join_and_train(options: RunOptions) -> int:
    complete_environment(os.environ)
    first = os.environ["RANK"] == "0"
    try:
        check_hostfile()
        options.check()
        config = None if options.resume else configure(options)  # before slow imports
    except UserError as error:  # every rank fails in the same way
        raise error if first else ReportedByPeer("see rank 0") from None
    if config is not None and options.print_config:
        if first:
            print(format_config(config), end="")
        return 0
    with parallel.distributed(options.timeout, options.device) as device:
        status = _train(options, device)
    if os.environ["WORLD_SIZE"] != "1":
        # Threads of torch may abort during the cleanup of Python. The launcher would then report a
        # failed run.
        _exit_at_once(status)
    return status


def _fail(error: Exception) -> int:
    """Prints an error in one line, unless another rank does. Returns the exit status."""
    if not isinstance(error, ReportedByPeer):
        rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        # A mistake of the user found by rank 0 mostly concerns all ranks, so no rank is named.
        where = ""
        if rank != "0" or (size != "1" and isinstance(error, MachineFailure)):
            where = f"{place(rank)}: "
        if is_verbose():
            traceback.print_exception(error)
        print(f"error: {where}{one_line(last_line(error))}", file=sys.stderr, flush=True)
    return exit_status(error)


def _train(options: RunOptions, device: torch.device) -> int:
    from occvae.train.trainer import Trainer

    config, run = parallel.from_first_rank(lambda: _prepare(options, device))
    trainer = Trainer(config, run, device, options.resume)
    if parallel.rank() == 0:
        size = sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6
        note(
            f"{config.arch}: {size:.1f} M parameters, {len(trainer.train_set)} shapes, "
            f"{parallel.world_size()} rank(s) on {device.type}, "
            f"{trainer.engine.precision}, run folder {run}{_beginning(trainer)}"
        )
    if trainer.fit():
        return 0
    return 128 + (trainer.stop_signal or 0)


def _beginning(trainer: "Trainer") -> str:
    step, last = trainer.progress.step, trainer.config.optim.steps
    if step >= last:
        return f", already at step {step}; set a larger optim.steps to continue"
    if trainer.stopped_early:
        return f", stopped early at step {step}; set stop_after=0 to continue"
    return f", from step {step}" if step else ""


def _prepare(options: RunOptions, device: torch.device) -> tuple[TrainConfig, Path]:
    """Returns the configuration and the run folder, and builds the data. Runs on rank 0 only."""
    new = None if options.resume else configure(options)
    arch = new.arch if new is not None else options.arch or TrainConfig().arch
    run = choose_run_folder(options.out, arch, options.resume)
    config = new if new is not None else _resumed_config(options, run)
    config = resolve_deepspeed(config, parallel.world_size(), device.type)
    if config.compile:
        check_compiler(device.type)
    _ensure_data(config.data.root, named=options.resume or options.names_data())
    if not options.resume:
        run.mkdir(parents=True, exist_ok=True)
        lock_run(run)
        if list_checkpoints(run):
            raise UserError(f"{run}: another run has just begun here; choose another --out")
    _warn(config)
    # The file has the absolute path. The ranks keep the given one, because nodes may have their
    # copies of the dataset in different working directories.
    data = dataclasses.replace(config.data, root=os.path.abspath(config.data.root))
    recorded = dataclasses.replace(config, data=data)
    write_whole_text(run / TRAIN_CONFIG, json.dumps(recorded.to_dict(), indent=1) + "\n")
    return config, run


def _warn(config: TrainConfig) -> None:
    few = parallel.world_size() > 1 and config.optim.batch_size < _FEW_SAMPLES
    if few and not config.sync_batch_norm:
        print(
            f"warning: sync_batch_norm=false with {config.optim.batch_size} shapes per rank: batch "
            f"norm is unreliable with fewer than {_FEW_SAMPLES}; set sync_batch_norm=true",
            file=sys.stderr,
        )


def _resumed_config(options: RunOptions, run: Path) -> TrainConfig:
    path = run / TRAIN_CONFIG
    if not path.is_file():
        raise UserError(f"{run}: no run to resume ({TRAIN_CONFIG} is missing)")
    lock_run(run)
    try:
        config = from_dict(json.loads(path.read_text()))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error!r})") from None
    if options.arch not in (None, config.arch):
        raise UserError(f"{run}: has arch {config.arch!r}, not {options.arch!r}; leave out --arch")
    resumed = override(_share_batch(config, read_progress(run, config.arch)), options)
    if resumed.data.root == config.data.root and not _is_default_data(config.data.root):
        check_recorded_data(path, config.data.root)
    return resumed


def _share_batch(config: TrainConfig, progress: Progress) -> TrainConfig:
    """Divides the global batch of the run among the present number of ranks."""
    share, rest = divmod(progress.global_batch, parallel.world_size())
    if rest:
        raise UserError(
            f"the run's batch of {progress.global_batch} shapes cannot be divided evenly among "
            f"{parallel.world_size()} ranks; resume on another number of ranks"
        )
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, batch_size=share))


def _is_default_data(root: str) -> bool:
    """Whether a dataset folder is the one of the embedded dataset, which is built if absent."""
    return os.path.abspath(root) == os.path.abspath(DataConfig().root)


def _ensure_data(root: str, named: bool) -> None:
    """Builds the embedded dataset if it is asked for and absent. Checks any other dataset.

    Args:
        root: folder of the dataset.
        named: whether the command line or the resumed run names the dataset. If so, its shapes may
            come from another version of the shape programs.
    """
    if not _is_default_data(root):
        if not Manifest.load(root).complete:
            raise UserError(f"{root}: is incomplete; run the same `occvae data` command again")
        return
    if (Path(root) / MANIFEST).is_file():
        manifest = Manifest.load(root)
        _check_generator(root, manifest, named)
        if manifest.complete:
            return
    from occvae.data.build import build_default, describe_default

    note(f"{root}: building {describe_default()}; --data FOLDER trains on another dataset")
    build_default(root)


def _check_generator(root: str, manifest: Manifest, named: bool) -> None:
    """Refuses procedural shapes of another version, unless they are complete and named."""
    from occvae.data.formats.procedural import ProceduralSource
    from occvae.data.procedural import GENERATOR

    current = manifest.settings.get("generator") == GENERATOR
    if current or manifest.source != ProceduralSource.name or (named and manifest.complete):
        return
    keep = f", or add --data {root} to train on it" if manifest.complete else ""
    raise UserError(
        f"{root}: the dataset has the procedural shapes of another version of occvae; rename "
        f"the folder to build the present shapes{keep}"
    )
