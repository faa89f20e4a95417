"""The training loop."""

import contextlib
import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from occvae.data.dataset import Batch, ShapeDataset
from occvae.data.device_dataset import DeviceDataset
from occvae.data.loader import StepSampler, load_batches
from occvae.data.observations import open_split
from occvae.data.targets import stored_points
from occvae.errors import UserError
from occvae.models.pretrained import load_weights, save_pretrained
from occvae.models.protocol import Model
from occvae.models.registry import create_model
from occvae.train import parallel
from occvae.train.checkpoint import Progress, read_progress, read_tensors, save_checkpoint
from occvae.train.config import TrainConfig
from occvae.train.engine import Engine
from occvae.train.failures import ReportedByPeer, exit_status, lost_loader
from occvae.train.logging import RunLogger
from occvae.train.objectives import create_objective, to_device
from occvae.train.profiling import create_profiler, peak_memory
from occvae.train.schedule import create_schedule
from occvae.train.validation import Validation, Validator, compute_iou
from occvae.train.validation_report import describe_validation, write_validation_report
from occvae.train.wandb_mirror import open_wandb
from occvae.train.zero_state import moment_names

# Prefix of the names of weights in a checkpoint.
_MODEL = "model."
# Ranks agree on the largest code. Failure codes, to which the exit status is added, rank above
# signal numbers.
_FAILED, _NOT_FINITE = 1000, 1010


class Trainer:
    """Runs one training on this rank. `fit` and `save` are collective.

    Args:
        config: settings of the run.
        run: run folder, the same path on every rank.
        device: device of this rank.
        resume: whether to continue from the newest checkpoint in the run folder.

    Attributes:
        model: the model in training.
        engine: the engine that trains it.
        progress: step, samples and best IoU so far.
        stop_signal: number of the first signal that asked this rank to stop, or None.

    Raises:
        UserError: a setting, the dataset or the checkpoint does not fit.
    """

    def __init__(self, config: TrainConfig, run: Path, device: torch.device, resume: bool = False):
        self.config, self.run, self.device = config, run, device
        self.stop_signal: int | None = None
        torch.manual_seed(config.seed)
        self.model, self.frozen = parallel.on_every_rank(self._create_model, device)
        moments: dict[str, torch.Tensor] = {}
        self.progress = parallel.from_first_rank(
            lambda: self._restore(moments) if resume else self._start()
        )
        parallel.broadcast_model(self.model, device)
        self.objective = create_objective(self.model, config.optim)
        self.train_set, validation_set = parallel.on_every_rank(self._datasets, device)
        self.validator = Validator(validation_set, self.objective, config.validate_shapes, device)
        digest = parallel.from_first_rank(self.train_set.manifest.digest)
        parallel.on_every_rank(lambda: self._check_same_data(digest), device)
        self.progress.dataset = parallel.from_first_rank(self._check_data_of_run)
        self._held = parallel.on_every_rank(self._hold, device)
        optim = config.optim
        schedule = create_schedule(optim.schedule, optim.warmup_steps, optim.steps)
        progress = self.progress
        self.engine = Engine(
            self.model, config, schedule, device, progress.step, moments, progress.engine
        )
        self._failure: Exception | None = None
        # Loss and sample indices of the last step on this rank.
        self._loss: torch.Tensor | None = None
        self._indices: list[int] = []

    def _create_model(self) -> tuple[Model, list[torch.nn.Module]]:
        """Creates the model. Returns it with its frozen parts."""
        model = create_model(self.config.arch, **self.config.model)
        return model, _freeze(model, self.config.frozen)

    def _start(self) -> Progress:
        """Starts a new run and loads its initial weights, if any are given. Runs on rank 0 only."""
        if self.config.initial_weights is not None:
            load_weights(self.model, self.config.initial_weights)
        batch = self._global_batch()
        return Progress(self.config.arch, 0, 0, engine=None, best_iou=-1.0, global_batch=batch)

    def _restore(self, moments: dict[str, torch.Tensor]) -> Progress:
        """Loads weights into the model and the rest into `moments`. Runs on rank 0 only."""
        progress = read_progress(self.run, self.config.arch)
        tensors = read_tensors(self.run)
        weights = {
            name.removeprefix(_MODEL): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(_MODEL)
        }
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.run}: its checkpoint does not fit the model: {reason}"
            ) from None
        if tensors.keys() != moment_names(self.model):
            raise UserError(
                f"{self.run}: its checkpoint was saved with other parts frozen; "
                "set frozen as in that run"
            )
        moments.update(tensors)
        progress.global_batch = self._global_batch()
        return progress

    def fit(self) -> bool:
        """Trains to the end of the run. Returns False if a signal stopped it after saving it."""
        first, last = self.progress.step, self.config.optim.steps
        parallel.begin_time_limits()
        if not 0 < first < last or self.stopped_early:
            # A checkpoint before the first step makes the run resumable and shows that the disk has
            # room. A finished run may lack its export if it was killed after its last checkpoint.
            self.save()
        logger = parallel.on_every_rank(lambda: self._open_logger(first, last), self.device)
        handlers = {
            number: signal.signal(number, self._request_stop)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            batches = self._train_batches(first, last)
            # Torch's handler would raise anywhere in the trainer when a loader process dies.
            # Without it, the failure shows up in `_fetch`, where the ranks can agree to stop.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            complete = self._run(batches, last, logger)
            parallel.from_first_rank(logger.close)  # may take long
            return complete
        except BaseException:
            # A failed rank skips the exit handlers of Python, so it ends its loader processes here.
            for process in multiprocessing.active_children():
                process.kill()
            logger.close()
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _open_logger(self, first: int, last: int) -> RunLogger:
        """Opens the logger. It writes on rank 0 only."""
        mirror = open_wandb(self.config, self.run)
        return RunLogger(None if parallel.rank() else self.run, first, last, mirror)

    def _run(self, batches: Iterator[Batch], last: int, logger: RunLogger) -> bool:
        self._clock, self._clock_step = time.perf_counter(), self.progress.step
        self._train_mode()
        with self._profiler() as profiler:
            return self._run_to(last, batches, logger, profiler)

    def _profiler(self) -> contextlib.AbstractContextManager[torch.profiler.profile | None]:
        """Returns a profiler on rank 0 if the config asks for one, otherwise a null context."""
        num_steps = self.config.profile_steps
        if parallel.rank() or not num_steps:
            return contextlib.nullcontext()
        return create_profiler(self.run, num_steps, self.device)

    def _run_to(
        self,
        last: int,
        batches: Iterator[Batch],
        logger: RunLogger,
        profiler: torch.profiler.profile | None,
    ) -> bool:
        while self.progress.step < last and not self.stopped_early:
            micro_batches = self._fetch(batches)
            if signal_number := self._agree():
                self.save()
                logger.say(f"stopped at step {self.progress.step}, saved; continue with --resume")
                self.stop_signal = signal_number
                return False
            self._step(micro_batches, logger)
            step = self.progress.step
            if profiler is not None:
                profiler.step()
            if step % self.config.validate_every == 0 or step == last:
                if self._agree() and step < last:
                    continue  # stop without a validation, because little time may be left
                self._validate(logger)
            if step % self.config.save_every == 0 or step == last or self.stopped_early:
                self._agree()
                self.save()
        if self.stopped_early:
            progress = self.progress
            logger.say(
                f"stopped early at step {progress.step}: {progress.num_without_gain} validations "
                f"without a higher IoU than {progress.best_iou:.4f} of step {progress.best_step}"
            )
        return True

    @property
    def stopped_early(self) -> bool:
        """Whether the run has ended before its last step, see `TrainConfig.stop_after`."""
        return (
            0 < self.config.stop_after <= self.progress.num_without_gain
            and self.progress.step < self.config.optim.steps
        )

    def _fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        """Returns the micro batches of a step. An error is stored for `_agree`."""
        try:
            return [next(batches) for _ in range(self.config.optim.accumulation_steps)]
        except (UserError, OSError) as error:
            self._failure = error
        except RuntimeError as error:
            self._failure = lost_loader(error)
            if self._failure is None:
                raise
        return []

    def _agree(self) -> int:
        """Returns the signal to stop by, or 0, the same on every rank. Collective.

        If a rank has failed, every rank raises. The run is saved before, unless a loss or gradient
        is not finite.
        """
        own: int | torch.Tensor = self.stop_signal or 0
        if self._failure is not None:
            own = _FAILED + exit_status(self._failure)
        if self._loss is not None:
            finite = self._loss.isfinite() & (not self.engine.gradients_failed)
            own = torch.where(finite, own, _NOT_FINITE)
        verdict = parallel.all_reduce_max(own, self.device)
        if verdict >= _NOT_FINITE:
            raise self._not_finite()
        if verdict >= _FAILED:
            self.save()
            raise self._failure or ReportedByPeer("see the other ranks", verdict - _FAILED)
        return verdict

    def _not_finite(self) -> Exception:
        """Returns the error for a loss or gradient that is not finite.

        Each rank reports its own loss. Gradients are summed over ranks, so rank 0 reports them.
        """
        what, indices = "loss", self._indices
        told_here = self._loss is not None and not bool(self._loss.isfinite())
        if (
            self.engine.gradients_failed
            and parallel.all_reduce_max(int(told_here), self.device) == 0
        ):
            what, told_here = "gradient", parallel.rank() == 0
            indices = parallel.all_numbers(indices, self.device)
        if not told_here:
            return ReportedByPeer("see the other ranks")
        names = ", ".join(self.train_set.ids[index] for index in indices)
        return UserError(
            f"the {what} of step {self.progress.step} is not finite for the shapes {names}; "
            "continue from the last checkpoint with --resume and a lower optim.lr"
        )

    def save(self) -> None:
        """Writes a checkpoint and exports the weights to last/.

        Raises:
            UserError: a weight is not finite. No checkpoint is written then.
            OSError: the checkpoint cannot be written.
        """
        model, moments = self.engine.whole_model(), self.engine.moments()
        self.progress.engine = self.engine.state()

        def write() -> None:
            state = model.state_dict()
            for name, value in state.items():
                if not value.isfinite().all():
                    raise UserError(
                        f"{name} is not finite at step {self.progress.step}; continue from the "
                        "last checkpoint with --resume and a lower optim.lr"
                    )
            weights = {_MODEL + name: value for name, value in state.items()}
            keep = self.config.keep_checkpoints
            save_checkpoint(self.run, self.progress, {**weights, **moments}, keep)
            if self.progress.step:
                self._export(model, "last")

        parallel.from_first_rank(write)

    def _export(self, model: Model, name: str, **metrics: Any) -> None:
        manifest = self.train_set.manifest
        save_pretrained(
            model,
            self.run / name,
            step=self.progress.step,
            splits=manifest.splits,
            trained_on={
                "source": manifest.source,
                "categories": manifest.categories,
                "num_shapes": len(self.train_set),
            },
            **metrics,
        )

    def _step(self, micro_batches: list[Batch], logger: RunLogger) -> None:
        self._loss, self._indices = torch.zeros((), device=self.device), []
        for micro, stored in enumerate(micro_batches):
            batch = to_device(stored, self.device)
            # A seed per micro step and rank makes dropout and latents reproducible after a resume
            # without stored generator states.
            micro_step = self.progress.step * len(micro_batches) + micro
            torch.manual_seed(_stream(self.config.seed, micro_step, parallel.rank()))
            output = self.engine(*self.objective.inputs(batch))
            loss, figures = self.objective.loss(output, batch, self.progress.step)
            self.engine.train_step(loss)
            self._loss += loss.detach()
            self._indices += stored["index"].tolist()
        self.progress.step += 1
        self.progress.samples += self._samples_per_step()
        if self.progress.step % self.config.log_every:
            logger.advance()
        else:
            mean_loss = self._loss / len(micro_batches)
            iou = compute_iou(self.objective, self.model, output, batch).mean()
            figures = {"loss": mean_loss, "iou": iou, **figures}
            self._log(logger, figures)

    def _log(self, logger: RunLogger, figures: dict[str, torch.Tensor]) -> None:
        """Logs the means of scalars over the ranks."""
        values = torch.stack([value.double().to(self.device) for value in figures.values()])
        means = (parallel.sum_over_ranks(values) / parallel.world_size()).tolist()
        now, step = time.perf_counter(), self.progress.step
        samples = (step - self._clock_step) * self._samples_per_step()
        rate = samples / (now - self._clock)
        self._clock, self._clock_step = now, step
        shown = dict(zip(figures, means, strict=True), samples_per_s=rate)
        logger.advance(**shown)
        metrics = {f"train/{name}": value for name, value in shown.items()}
        metrics["train/lr"] = self.engine.learning_rate()
        metrics["train/grad_norm"] = self.engine.grad_norm()
        metrics |= peak_memory(self.device)
        try:
            logger.write(step, metrics)
        except OSError as error:
            self._failure = error

    def _validate(self, logger: RunLogger) -> None:
        """Validates the model on shapes of the val split, which the ranks share."""
        self.engine.eval()
        model = self.engine.whole_model()
        ious = torch.empty(0)
        try:
            ious = self.validator.measure(model)
        except (UserError, OSError) as error:
            self._failure = error
        self._agree()
        self._report(model, logger, self.validator.gather(ious))
        self._train_mode()
        self._clock, self._clock_step = time.perf_counter(), self.progress.step

    def _train_mode(self) -> None:
        """Sets training mode, except in frozen parts, whose batch norm statistics stay fixed."""
        self.engine.train()
        for part in self.frozen:
            part.eval()

    def _report(self, model: Model, logger: RunLogger, validation: Validation) -> None:
        """Records a validation. Rank 0 reports it and exports the model if it is the best."""
        step, last, before = self.progress.step, self.config.optim.steps, self.progress
        self.progress = dataclasses.replace(before)
        best = self.progress.record_validation(validation.iou, validation.shapes)

        def write() -> None:
            logger.write(step, validation.metrics())
            for line in describe_validation(validation, before, step):
                logger.say(line)
            self.validator.write_sheets(self.run, step, model, validation.shapes)
            if best:
                self._export(model, "best", val_iou=validation.iou)
            write_validation_report(
                self.run, validation, before, self.progress, last, self.stopped_early
            )

        parallel.from_first_rank(write)

    def _check_same_data(self, digest: str) -> None:
        manifest = self.train_set.manifest
        if manifest.digest() != digest:
            raise UserError(
                f"{self.config.data.root}: is not the dataset of rank 0; "
                "copy the same dataset to this path on every node"
            )

    def _check_data_of_run(self) -> str:
        """Returns the digest of the dataset. Refuses to resume on other data. On rank 0 only."""
        digest = self.train_set.manifest.shards_digest()
        if self.progress.dataset not in (None, digest):
            raise UserError(
                f"{self.config.data.root}: is not the dataset that {self.run} began with, or was "
                "rebuilt with other content; restore it, or start a new run with "
                f"initial_weights={self.run}"
            )
        return digest

    def _datasets(self) -> tuple[ShapeDataset, ShapeDataset]:
        data = self.config.data
        validate_points = stored_points(data.root, "val", self.config.validate_points)
        return (
            self._dataset("train", data.num_points, data.num_views),
            self._dataset("val", validate_points, data.num_views),
        )

    def _dataset(self, split: str, num_points: int, num_views: int) -> ShapeDataset:
        data, train = self.config.data, split == "train"
        num_near_points = data.num_near_points if train else 0
        observation = self.model.observation
        return open_split(
            data.root,
            split,
            observation if train else observation.in_evaluation(),
            num_views=num_views,
            target=self.objective.data_target(self.model, num_points, num_near_points),
            train=train,
            augment=train and data.augment,
            seed=self.config.seed,
        )

    def _hold(self) -> DeviceDataset | None:
        """Loads the training split onto the device if the config asks for it."""
        return DeviceDataset(self.train_set, self.device) if self.config.data.on_device else None

    def _train_batches(self, first: int, last: int) -> Iterator[Batch]:
        data, accumulation = self.config.data, self.config.optim.accumulation_steps
        sampler = StepSampler(
            len(self.train_set),
            self.config.optim.batch_size,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
            seed=self.config.seed,
            steps=range(first * accumulation, last * accumulation),
            position=self.progress.samples,
            random_views=(data.min_views, data.num_views) if data.min_views else None,
        )
        if self._held is not None:
            return self._held.batches(sampler)
        return load_batches(
            self.train_set,
            sampler,
            num_workers=data.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _global_batch(self) -> int:
        return self.config.optim.batch_size * parallel.world_size()

    def _samples_per_step(self) -> int:
        return self._global_batch() * self.config.optim.accumulation_steps

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = self.stop_signal or number


def _freeze(model: torch.nn.Module, names: tuple[str, ...]) -> list[torch.nn.Module]:
    """Excludes submodules from training. Returns them."""
    parts = dict(model.named_modules())
    for name in names:
        if name not in parts:
            known = ", ".join(child for child, _ in model.named_children())
            raise UserError(
                f"frozen: the model has no part {name!r}; its parts are {known}; set frozen=[] to "
                "train all of it"
            )
        parts[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("frozen: leaves no part of the model to train; list fewer parts")
    return [parts[name] for name in names]


def _stream(seed: int, step: int, rank: int) -> int:
    """Returns a seed that differs for every step and rank, for up to 2^20 ranks."""
    return (seed * 1_000_003 + step << 20 | rank) % 2**63
