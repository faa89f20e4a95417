"""Kills and resumes a small training at random times, and compares it with an undisturbed one.

Each life of the run has one or two ranks and a random ZeRO stage. It ends by SIGKILL at a random
time: while it starts, trains, validates or saves. In the end, every step must have the loss and the
samples of the undisturbed run.

    python -m tests.train.soak --cycles 200
"""

import argparse
import functools
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from occvae.train.checkpoint import list_checkpoints
from tests.tiny import TINY_RUN, build_tiny_dataset
from tests.train.ranks import Rank, start
from tests.train.sample_records import record

GLOBAL_BATCH = 4
# Another number of ranks rounds differently, and training amplifies rounding: at a learning rate of
# 2e-3, losses differ by up to 2e-2 after 120 steps. Hence fp32 and a small learning rate.
SETTINGS = ["precision=fp32", "log_every=1", "save_every=3", "optim.warmup_steps=5"]
SETTINGS += ["optim.lr=2e-5"]


@dataclass
class Outcome:
    """The result of a soak: largest difference of losses, and steps with different samples."""

    lives: int
    steps: int
    largest_difference: float
    wrong_samples: list[int]


def soak(
    folder: Path, data: Path, settings: list[str], cycles: int, steps: int, seed: int
) -> Outcome:
    """Runs both trainings in a folder and compares them."""
    first = ["--preset", "cpu-small", "--data", str(data), *settings, *SETTINGS]
    first += [f"optim.steps={steps}", f"validate_every={steps // 3}"]
    finish(launch(folder, "straight", 0, 1, [*first, f"optim.batch_size={GLOBAL_BATCH}"]))
    rng = random.Random(seed)
    for life in range(cycles):
        ranks, stage = 1 + life % 2, rng.randrange(4)
        arguments = [*first, f"optim.batch_size={GLOBAL_BATCH // ranks}"]
        if list_checkpoints(folder / "killed"):
            arguments = ["--resume"]
        started = launch(folder, "killed", life, ranks, [*arguments, f"zero_stage={stage}"])
        kill_after_some_steps(folder / "killed", started, steps, cycles - life, rng)
    if not finished(folder / "killed", steps):
        finish(launch(folder, "killed", cycles, 1, ["--resume"]))
    return compare(folder, cycles, steps)


def launch(folder: Path, name: str, life: int, ranks: int, arguments: list[str]) -> list[Rank]:
    """Starts the ranks of one life."""
    records = folder / f"{name}-samples" / f"{life:04d}"
    logs = folder / f"{name}-logs" / f"{life:04d}"
    logs.mkdir(parents=True)
    command = ["--out", str(folder / name), *arguments]
    return start(logs, command, ranks, prepare=functools.partial(record, records))


def finish(ranks: list[Rank]) -> None:
    for rank in ranks:
        if rank.status():
            raise RuntimeError(rank.text())


def kill_after_some_steps(
    run: Path, ranks: list[Rank], steps: int, lives_left: int, rng: random.Random
) -> None:
    """Kills the ranks at a random time, on average early enough for all lives to train a little.

    Most lives end after a random number of steps and a random part of the next one. One in ten ends
    up to ten seconds after its start.
    """
    before = last_step(run)
    target = before + rng.uniform(0, 2 * max(1, steps - before) / lives_left)
    starting = rng.random() < 0.1
    deadline = time.monotonic() + (rng.uniform(0, 10) if starting else 600)
    while time.monotonic() < deadline and any(rank.process.is_alive() for rank in ranks):
        if not starting and last_step(run) >= target:
            time.sleep(rng.uniform(0, 0.1))
            break
        time.sleep(0.01)
    ended = [rank.process.exitcode for rank in ranks]  # before a rank notices that another has died
    for rank in ranks:
        rank.process.kill()
        rank.process.join()
    if any(ended):
        raise RuntimeError("\n".join(rank.text() for rank in ranks))


def losses(run: Path) -> dict[int, float]:
    records = run / "metrics.jsonl"
    text = records.read_text() if records.exists() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def last_step(run: Path) -> int:
    return max(losses(run), default=0)


def finished(run: Path, steps: int) -> bool:
    return any(folder.name == f"step-{steps}" for folder in list_checkpoints(run))


def samples(folder: Path) -> dict[int, list[int]]:
    """Returns the sorted samples of each step, from the last life that took the step."""
    latest: dict[int, list[int]] = {}
    for life in sorted(folder.iterdir()):
        taken: dict[int, list[int]] = {}
        for path in life.iterdir():
            for line in path.read_text().splitlines():
                if line.endswith("}"):
                    content = json.loads(line)
                    taken.setdefault(content["step"], []).extend(content["indices"])
        latest.update(taken)
    return {step: sorted(indices) for step, indices in latest.items()}


def compare(folder: Path, lives: int, steps: int) -> Outcome:
    expected, found = losses(folder / "straight"), losses(folder / "killed")
    if expected.keys() != found.keys() or len(expected) != steps:
        raise RuntimeError(f"{len(found)} of {steps} steps have a record")
    first, second = samples(folder / "straight-samples"), samples(folder / "killed-samples")
    return Outcome(
        lives=lives,
        steps=steps,
        largest_difference=max(abs(expected[step] - found[step]) for step in expected),
        wrong_samples=[step for step in expected if first.get(step) != second.get(step)],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        build_tiny_dataset(Path(name) / "tiny")
        outcome = soak(
            Path(name),
            Path(name) / "tiny" / "data",
            TINY_RUN,
            options.cycles,
            options.steps,
            options.seed,
        )
    print(outcome)
    return 0 if outcome.largest_difference <= 1e-6 and not outcome.wrong_samples else 1


if __name__ == "__main__":
    sys.exit(main())
