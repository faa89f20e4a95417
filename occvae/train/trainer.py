"""The training loop."""

import multiprocessing
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from occvae.contact_sheet import write_contact_sheet
from occvae.data.dataset import ShapeDataset, StepSampler, make_loader
from occvae.losses import occupancy_loss
from occvae.models.pretrained import save_pretrained
from occvae.models.registry import create_model
from occvae.ops.voxel_iou import voxel_iou
from occvae.train import engine as parallel
from occvae.train.checkpoint import Checkpoint, commit_checkpoint
from occvae.train.config import TrainConfig
from occvae.train.logging import RunLogger
from occvae.train.schedule import warmup_cosine


@dataclass
class Progress:
    """What a checkpoint remembers beside tensors; everything else follows from the step."""

    step: int = 0
    best_iou: float = -1.0


class Trainer:
    """One run of one model on this rank.

    Args:
        config: of the run.
        run: its folder, the same on every rank.
        device: of this rank.
    """

    def __init__(self, config: TrainConfig, run: Path, device: torch.device):
        self.config, self.run, self.device = config, run, device
        self.progress = Progress()
        self.stop_signal: int | None = None
        # The same initial weights on every rank; DeepSpeed would broadcast parameters but not
        # buffers.
        torch.manual_seed(config.seed)
        self.model = create_model(config.arch, **config.model)
        self.train_set = self._dataset("train", config.data.num_points, config.data.num_views)
        self.validation_set = self._dataset("val", config.validate_points, config.data.num_views)
        optim = config.optim
        self.engine = parallel.Engine(
            self.model, config, warmup_cosine(optim.warmup_steps, optim.steps), device
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        state = self.engine.load(checkpoint.folder, checkpoint.tag, self.device)
        self.progress = Progress(**state)

    def fit(self) -> bool:
        """Trains to the last step; False when a signal ended it early, after saving."""
        first, last = self.progress.step, self.config.optim.steps
        leader = parallel.rank() == 0
        logger = RunLogger(self.run if leader else None, first, last)
        handlers = {
            number: signal.signal(number, self._request_stop)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            return self._run(iter(self._train_loader(first, last)), last, logger)
        except BaseException:
            # Loader processes ignore the signal by which Python would end them, and it would wait.
            # Without its handler torch does not raise once more because they end.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for process in multiprocessing.active_children():
                process.kill()
            raise
        finally:
            logger.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _run(self, batches, last: int, logger: RunLogger) -> bool:
        self._clock, self._clock_step = time.perf_counter(), self.progress.step
        self.engine.train()
        while self.progress.step < last:
            self._step(batches, logger)
            step = self.progress.step
            if step % self.config.validate_every == 0 or step == last:
                self._validate(logger)
            stopping = parallel.any_rank(self.stop_signal is not None, self.device)
            if stopping or step % self.config.save_every == 0 or step == last:
                self.save()
            if stopping and step < last:
                logger.say(f"stopped at step {step}, saved; continue with --resume")
                return False
        return True

    def save(self) -> None:
        """Collective: a resumable checkpoint, and the export of the last weights."""
        folder, tag = self.run / "checkpoints", f"step-{self.progress.step}"
        self.engine.save(folder, tag, vars(self.progress))
        if parallel.rank() == 0:
            commit_checkpoint(
                Checkpoint(folder, tag, self.config.arch, self.progress.step, parallel.world_size())
            )
            save_pretrained(self.model, self.run / "last", step=self.progress.step)

    def _step(self, batches, logger: RunLogger) -> None:
        accumulation = self.config.optim.accumulation_steps
        for micro in range(accumulation):
            batch = next(batches)
            # Dropout and the like draw from a stream that follows from the step, so that a resume
            # needs no generator states.
            micro_step = self.progress.step * accumulation + micro
            torch.manual_seed(_stream(self.config.seed, micro_step, parallel.rank()))
            occupancies = batch["occupancies"].to(self.device, non_blocking=True)
            points = batch["points"].to(self.device, non_blocking=True)
            logits = self.engine(self._images(batch), points)
            loss = occupancy_loss(logits, occupancies, self.config.optim.dice_weight)
            self.engine.train_step(loss)
        self.progress.step += 1
        if self.progress.step % self.config.log_every:
            logger.advance()
        else:
            self._log(logger, loss.detach(), logits.detach(), occupancies)

    def _log(self, logger, loss, logits, occupancies) -> None:
        iou = voxel_iou(logits.float().sigmoid(), occupancies, (self.model.threshold,)).mean()
        mean = parallel.sum_over_ranks(torch.stack([loss.double(), iou.to(loss.device)]))
        loss, iou = (mean / parallel.world_size()).tolist()
        now, step = time.perf_counter(), self.progress.step
        samples = (step - self._clock_step) * self._samples_per_step()
        rate = samples / (now - self._clock)
        self._clock, self._clock_step = now, step
        logger.advance(loss=loss, iou=iou, samples_per_s=rate)
        metrics = {"train/loss": loss, "train/iou": iou, "train/samples_per_s": rate}
        metrics["train/lr"] = self.engine.learning_rate()
        metrics["train/grad_norm"] = self.engine.grad_norm()
        logger.write(step, metrics)

    def _validate(self, logger: RunLogger) -> None:
        """IoU on points of the validation shapes, shared out among the ranks."""
        count = min(len(self.validation_set), self.config.validate_shapes)
        mine = range(parallel.rank(), count, parallel.world_size())
        # Every k-th shape, so that all categories are seen.
        stride = len(self.validation_set) / count
        batches = [[(0, int(number * stride))] for number in mine]
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.engine.eval()
        with torch.no_grad(), self.engine.autocast():
            for batch in make_loader(self.validation_set, batches, num_workers=0, pin_memory=False):
                logits = self.model(self._images(batch), batch["points"].to(self.device))
                probabilities = logits.float().sigmoid()
                target = batch["occupancies"].to(self.device)
                iou = voxel_iou(probabilities, target, (self.model.threshold,))
                total += torch.tensor([iou.sum(), iou.numel()], device=self.device)
        self._finish_validation(logger, *parallel.sum_over_ranks(total).tolist())
        self.engine.train()
        self._clock, self._clock_step = time.perf_counter(), self.progress.step

    def _finish_validation(self, logger: RunLogger, iou_sum: float, count: float) -> None:
        step, iou = self.progress.step, iou_sum / count
        best = iou > self.progress.best_iou
        self.progress.best_iou = max(iou, self.progress.best_iou)
        if parallel.rank() == 0:
            logger.write(step, {"val/iou": iou})
            logger.say(f"step {step}: validation IoU {iou:.4f}{' (best)' if best else ''}")
            sheet = self.run / "samples" / f"step-{step:07d}.png"
            write_contact_sheet(sheet, self.model, self.validation_set, self.device)
            if best:
                save_pretrained(self.model, self.run / "best", step=step, val_iou=iou)

    def _images(self, batch) -> torch.Tensor:
        return batch["images"].to(self.device, non_blocking=True).float() / 255.0

    def _dataset(self, split: str, num_points: int, num_views: int) -> ShapeDataset:
        return ShapeDataset(
            self.config.data.root,
            split,
            image_size=self.model.image_size,
            num_points=num_points,
            num_views=num_views,
            train=split == "train",
            seed=self.config.seed,
        )

    def _train_loader(self, first: int, last: int):
        accumulation = self.config.optim.accumulation_steps
        sampler = StepSampler(
            len(self.train_set),
            self.config.optim.batch_size,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
            seed=self.config.seed,
            steps=range(first * accumulation, last * accumulation),
        )
        return make_loader(
            self.train_set,
            sampler,
            num_workers=self.config.data.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _samples_per_step(self) -> int:
        optim = self.config.optim
        return optim.batch_size * optim.accumulation_steps * parallel.world_size()

    def _request_stop(self, number: int, frame) -> None:
        self.stop_signal = number


def _stream(seed: int, step: int, rank: int) -> int:
    """A seed for each step and rank; distinct for less than 2^20 ranks."""
    return (seed * 1_000_003 + step << 20 | rank) % 2**63
