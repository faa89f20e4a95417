"""One rank of train_bench.py: trains some steps and measures their time and memory."""

import argparse
import json
import tempfile
from pathlib import Path

import torch

import timing
from occvae.train import parallel
from occvae.train.config import TrainConfig, apply_overrides
from occvae.train.objectives import to_device
from occvae.train.presets import make_preset
from occvae.train.trainer import Trainer
from step_clock import StepClock

WARMUP_STEPS = 2


def make_config(options: argparse.Namespace) -> TrainConfig:
    steps = WARMUP_STEPS + options.steps
    settings = [f"data.root={options.data}", f"optim.steps={steps}", *options.overrides]
    return apply_overrides(make_preset(options.preset, options.arch), settings)


def time_steps(trainer: Trainer, clock: StepClock, steps: int) -> dict:
    """Returns the median seconds of a step and of its phases on this rank, bytes and memory."""
    config, engine, objective = trainer.config, trainer.engine, trainer.objective
    batches = trainer._train_batches(0, WARMUP_STEPS + steps)
    trainer._train_mode()
    rows = []
    for step in range(WARMUP_STEPS + steps):
        if step == WARMUP_STEPS:
            clock.calls.clear()
            clock.num_bytes.clear()
        for _ in range(config.optim.accumulation_steps):
            clock.enter("data")
            batch = to_device(next(batches), trainer.device)
            clock.enter("forward")
            loss, _ = objective.loss(engine(*objective.inputs(batch)), batch, step)
            clock.enter("backward")
            engine.backward(loss)
            clock.enter("step")
            engine.step()
        rows.append(clock.finish())
    rows = rows[WARMUP_STEPS:]
    phases = {name: timing.summarize([row[name] for row in rows])["median"] for name in rows[0]}
    return {
        **timing.summarize([sum(row.values()) for row in rows]),
        "phases": phases,
        "collectives": {name: count / steps for name, count in clock.calls.items()},
        "collective_bytes": {name: size / steps for name, size in clock.num_bytes.items()},
        "samples": trainer._samples_per_step(),
        "peak_rss": timing._process_memory("VmHWM"),
        "peak_gpu": torch.cuda.max_memory_allocated() if trainer.device.type == "cuda" else 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", help="file into which rank 0 writes the results of all ranks")
    parser.add_argument("--arch", required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="CPU threads of this rank")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    clock = StepClock(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory() as run, clock.watch_collectives():
        with parallel.distributed(timeout=60) as device:
            torch.set_num_threads(options.threads)
            trainer = Trainer(make_config(options), Path(run), device)
            found = time_steps(trainer, clock, options.steps)
            ranks = [None] * parallel.world_size()
            torch.distributed.all_gather_object(ranks, found)
            if parallel.rank() == 0:
                Path(options.result).write_text(json.dumps(ranks))


if __name__ == "__main__":
    main()
