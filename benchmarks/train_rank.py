"""One rank of train_bench.py: trains some steps and notes where their time and memory went."""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import timing
from occvae.models.registry import create_model
from occvae.train import parallel
from occvae.train.config import TrainConfig, apply_overrides
from occvae.train.objectives import to_device
from occvae.train.presets import make_preset
from occvae.train.trainer import Trainer
from scaling_model import TrainingCost
from step_clock import StepClock

WARMUP_STEPS = 2


def make_config(options: argparse.Namespace) -> TrainConfig:
    steps = WARMUP_STEPS + options.steps
    settings = [f"data.root={options.data}", f"optim.steps={steps}", *options.overrides]
    return apply_overrides(make_preset(options.preset, options.arch), settings)


def time_steps(trainer: Trainer, clock: StepClock, steps: int) -> dict:
    """Medians of the seconds of a step and its phases, on this rank."""
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


def measure_cost(trainer: Trainer) -> dict:
    """What a sample and a step of this training take of any machine, see `TrainingCost`."""
    config, objective = trainer.config, trainer.objective
    model = create_model(config.arch, **config.model).to(trainer.device)  # without hooks
    for name in config.frozen:
        model.get_submodule(name).requires_grad_(False).eval()
    taken = []
    batches = trainer._train_batches(0, config.optim.steps)
    seconds = [
        timing._time_cpu(lambda: taken.append(next(batches))) for _ in range(config.optim.steps)
    ]
    size = config.optim.batch_size
    sample_bytes = sum(tensor.nbytes for tensor in taken[0].values()) / size
    batch = to_device(taken[0], trainer.device)
    with FlopCounterMode(display=False) as counter:
        loss, _ = objective.loss(model(*objective.inputs(batch)), batch, 0)
        loss.backward()
    norms = [
        module.num_features
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training
    ]
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    return dataclasses.asdict(
        TrainingCost(
            parameters=sum(trained),
            flops_per_sample=counter.get_total_flops() / size,
            sample_bytes=sample_bytes,
            loader_seconds_per_sample=timing.summarize(seconds)["median"] / size,
            norm_layers=len(norms),
            norm_channels=sum(norms),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", help="where rank 0 writes what all ranks found")
    parser.add_argument("--arch", required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="of this rank")
    parser.add_argument("--cost", action="store_true", help="count instead of timing steps")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    clock = StepClock(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory() as run, clock.watch_collectives():
        with parallel.distributed(timeout=60) as device:
            torch.set_num_threads(options.threads)
            trainer = Trainer(make_config(options), Path(run), device)
            if options.cost:
                found = measure_cost(trainer)
            else:
                found = time_steps(trainer, clock, options.steps)
            ranks = [None] * parallel.world_size()
            torch.distributed.all_gather_object(ranks, found)
            if parallel.rank() == 0:
                Path(options.result).write_text(json.dumps(ranks))


if __name__ == "__main__":
    main()
