"""Kills and resumes a small training at random, and compares it with one left alone.

Each life of the run has one or two ranks and some ZeRO stage, and dies by SIGKILL at a random
moment: while it starts, trains, validates or saves. In the end the loss of every step must be that
of the undisturbed run, and every step must have taken the same samples.

    python tests/train/soak.py --cycles 200
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from occvae.train.checkpoint import list_checkpoints

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("recorded_training.py")
GLOBAL_BATCH = 4
# Full precision, because a rank's share of a batch is rounded like the whole then.
SETTINGS = ["precision=fp32", "log_every=1", "save_every=3", "optim.warmup_steps=5"]


@dataclass
class Outcome:
    """Of a soak: the largest difference of losses, and the steps whose samples differ."""

    lives: int
    steps: int
    largest_difference: float
    wrong_samples: list[int]


def soak(folder: Path, data: Path, settings: list[str], cycles: int, steps: int, seed: int):
    """Runs both trainings in a folder; returns an `Outcome`."""
    start = ["--preset", "cpu-small", "--data", str(data), *settings, *SETTINGS]
    start += [f"optim.steps={steps}", f"validate_every={steps // 3}"]
    finish(launch(folder, "straight", 0, 1, [*start, f"optim.batch_size={GLOBAL_BATCH}"]))
    rng = random.Random(seed)
    for life in range(cycles):
        ranks, stage = 1 + life % 2, rng.randrange(4)
        arguments = [*start, f"optim.batch_size={GLOBAL_BATCH // ranks}"]
        if list_checkpoints(folder / "killed"):
            arguments = ["--resume"]
        processes = launch(folder, "killed", life, ranks, [*arguments, f"zero_stage={stage}"])
        kill_after_some_steps(folder / "killed", processes, steps, cycles - life, rng)
    if not finished(folder / "killed", steps):
        finish(launch(folder, "killed", cycles, 1, ["--resume"]))
    return compare(folder, cycles, steps)


def launch(
    folder: Path, name: str, life: int, ranks: int, arguments: list[str]
) -> list[subprocess.Popen]:
    """The ranks of one life, without a launcher: that would outlive some of the kills."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    records = folder / f"{name}-samples" / f"{life:04d}"
    command = [sys.executable, SCRIPT, records, "--out", folder / name]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    log = (folder / f"{name}.log").open("a")
    return [
        subprocess.Popen(
            [str(word) for word in [*command, *arguments]],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=log,
            stderr=log,
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.wait(timeout=600):
            raise RuntimeError(f"a rank ended with status {process.returncode}; see the logs")


def kill_after_some_steps(run: Path, processes, steps: int, lives_left: int, rng) -> None:
    """SIGKILL at a random moment, on average early enough for all lives to see some training.

    Mostly after a random number of steps and a random fraction of one; now and then while it
    starts.
    """
    before = last_step(run)
    target = before + rng.uniform(0, 2 * max(1, steps - before) / lives_left)
    starting = rng.random() < 0.1
    deadline = time.monotonic() + (rng.uniform(0, 10) if starting else 600)
    while time.monotonic() < deadline and any(p.poll() is None for p in processes):
        if not starting and last_step(run) >= target:
            time.sleep(rng.uniform(0, 0.1))
            break
        time.sleep(0.01)
    ended = [process.poll() for process in processes]  # before the others notice a death
    for process in processes:
        process.kill()
        process.wait()
    if any(ended):
        raise RuntimeError(f"ranks ended by themselves: {ended}; see the logs")


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
    """What the ranks of the last life that took a step took in it, sorted."""
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
    sys.path.insert(0, str(ROOT))
    from tests.tiny import TINY_RUN, build_tiny_dataset

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
