"""Runs of launchers/train.py, started by a real launcher or in forked ranks."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.train.ranks import Rank, free_port, start

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"
DEEPSPEED = Path(sys.executable).parent / "deepspeed"
TORCHRUN = Path(sys.executable).parent / "torchrun"


def arguments_of(data: Path, out: Path, *arguments: str) -> list[str]:
    preset = [] if "--resume" in arguments else ["--preset", "cpu-small"]
    return [*preset, "--out", str(out), "--data", str(data), *map(str, arguments)]


def command(launcher: list[str], data: Path, out: Path, *arguments: str) -> list[str]:
    """Returns the command line of a user: `launcher`, train.py and its arguments."""
    return [*map(str, launcher), str(TRAIN), *arguments_of(data, out, *arguments)]


def deepspeed(ranks: int) -> list[str]:
    return [str(DEEPSPEED), "--num_gpus", str(ranks), "--master_port", str(free_port())]


def succeed_as_user(launcher: list[str], data: Path, out: Path, *arguments: str) -> None:
    words = command(launcher, data, out, *arguments)
    result = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr


def run(data: Path, out: Path, *arguments: str, **options) -> list[Rank]:
    """Runs a training to its end and returns its ranks. Options are those of `start`."""
    ranks = start(out.parent, arguments_of(data, out, *arguments), **options)
    for rank in ranks:
        rank.status()
    return ranks


def succeed(data: Path, out: Path, *arguments: str, **options) -> None:
    for rank in run(data, out, *arguments, **options):
        assert rank.status() == 0, rank.text()


def assert_refused(ranks: list[Rank], message: str) -> None:
    """Asserts that all ranks ended with status 2 and one of them printed one error."""
    assert [rank.status() for rank in ranks] == [2] * len(ranks), ranks[0].text()
    [line] = [line for rank in ranks for line in rank.errors()]
    assert message in line


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return load_file(run_folder / "last" / "model.safetensors")


def metrics(run_folder: Path) -> list[dict]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(first: Path, second: Path) -> None:
    expected, found = weights(first), weights(second)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
