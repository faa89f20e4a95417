"""Runs of launchers/train.py as a user starts them: they learn, resume exactly and stop well."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import occvae
from occvae.evaluation import evaluate
from occvae.train.checkpoint import list_checkpoints
from tests.tiny import TINY_RUN
from tests.train.ranks import free_port

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"
LAUNCHER = str(Path(sys.executable).parent / "deepspeed")


def command(data: Path, out: Path, *arguments: str, ranks: int = 0) -> list[str]:
    """Plain python, or the deepspeed launcher for ranks > 0."""
    port = str(free_port())
    start = (
        [LAUNCHER, "--num_gpus", str(ranks), "--master_port", port] if ranks else [sys.executable]
    )
    preset = [] if "--resume" in arguments else ["--preset", "cpu-small"]
    return [*start, str(TRAIN), *preset, "--out", str(out), "--data", str(data), *arguments]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments, **options), capture_output=True, text=True, timeout=240
    )


def succeed(*arguments, **options) -> None:
    result = run(*arguments, **options)
    assert result.returncode == 0, result.stdout + result.stderr


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return load_file(run_folder / "last" / "model.safetensors")


def metrics(run_folder: Path) -> list[dict]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(first: Path, second: Path) -> None:
    expected, found = weights(first), weights(second)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "trained"
    steps = ["optim.steps=400", "validate_every=200", "save_every=400"]
    succeed(tiny_dataset, out, *TINY_RUN, *steps)
    return out


def test_training_learns_from_the_image(trained, tiny_dataset):
    model = occvae.from_pretrained(trained / "last")
    report = evaluate(model, tiny_dataset, mesh_resolution=None)
    controls = report["controls"]
    found = report["metrics"]["iou_voxels"]["micro"]["mean"]
    assert found > controls["mean_shape"]["micro"]["mean"] + 0.05, report
    assert found > controls["shuffled_images"]["micro"]["mean"] + 0.1, report


def test_exports_say_what_they_were_trained_on(trained):
    for name, step in (("best", 200), ("last", 400)):
        config = json.loads((trained / name / "config.json").read_text())
        assert config["splits"] == "own" and config["step"] >= step


def test_a_run_leaves_its_records(trained):
    lines = metrics(trained)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0]
    assert [line["step"] for line in lines if "val/iou" in line] == [200, 400]
    assert json.loads((trained / "train_config.json").read_text())["optim"]["steps"] == 400
    assert list((trained / "tensorboard").iterdir())
    assert (trained / "samples" / "step-0000400.png").stat().st_size > 1000
    assert [folder.name for folder in list_checkpoints(trained)] == ["step-0", "step-400"]


@pytest.mark.slow
def test_resume_continues_bit_for_bit(tiny_dataset, tmp_path):
    steps = ["optim.steps=120", "save_every=20", "validate_every=1000"]
    succeed(tiny_dataset, tmp_path / "straight", *TINY_RUN, *steps)
    process = subprocess.Popen(
        command(tiny_dataset, tmp_path / "resumed", *TINY_RUN, *steps, "data.num_workers=1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    resumed = tmp_path / "resumed"
    wait_for(lambda: len(list_checkpoints(resumed)) > 1, process)  # and so not from step 0
    process.kill()
    process.wait()
    assert list_checkpoints(resumed)[-1].name != "step-120"
    succeed(tiny_dataset, tmp_path / "resumed", "--resume")
    assert_same_weights(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.slow
def test_two_ranks_train_like_one_of_twice_the_batch(tiny_dataset, tmp_path):
    """Data shares, batch norm statistics and gradients add up to those of a single process."""
    steps = ["optim.steps=3", "validate_every=3", "precision=fp32", "log_every=1"]
    succeed(tiny_dataset, tmp_path / "two", *TINY_RUN, *steps, "optim.batch_size=2", ranks=2)
    succeed(tiny_dataset, tmp_path / "one", *TINY_RUN, *steps)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert two[0]["train/loss"] == pytest.approx(one[0]["train/loss"], rel=1e-5)
    assert two[0]["train/grad_norm"] == pytest.approx(one[0]["train/grad_norm"], rel=1e-4)
    # Adam turns rounding into full steps where gradients vanish, so later figures only stay close.
    assert two[2]["train/loss"] == pytest.approx(one[2]["train/loss"], rel=1e-2)
    assert two[-1]["val/iou"] == pytest.approx(one[-1]["val/iou"], abs=0.02)


def test_a_batch_that_the_ranks_cannot_share_is_refused(trained):
    copy = Path(shutil.copytree(trained, trained.parent / "copy"))
    state = copy / "checkpoints" / "step-400" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "global_batch": 3}))
    command = [
        LAUNCHER,
        "--num_gpus",
        "2",
        "--master_port",
        str(free_port()),
        str(TRAIN),
        "--resume",
    ]
    result = subprocess.run(
        [*command, "--out", str(copy)], capture_output=True, text=True, timeout=240
    )
    assert_refused(result, "batch of 3 shapes cannot be shared out evenly among 2 ranks")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_job_saves_and_says_so(number, tiny_dataset, tmp_path):
    """As a terminal or a scheduler sends it: to every process, data loaders included."""
    out = tmp_path / "run"
    steps = ["optim.steps=100000", "validate_every=100000", "data.num_workers=1"]
    process = subprocess.Popen(
        command(tiny_dataset, out, *TINY_RUN, *steps),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    records = out / "metrics.jsonl"
    wait_for(lambda: records.exists() and records.stat().st_size, process)
    os.killpg(process.pid, number)
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + number, output
    assert "saved; continue with --resume" in output
    assert list_checkpoints(out)


def wait_for(condition, process: subprocess.Popen, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, "the run ended before the condition was met"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_refused(result: subprocess.CompletedProcess, message: str) -> None:
    assert result.returncode == 2, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in result.stderr


def test_mistakes_end_in_one_line(tiny_dataset, tmp_path, trained):
    out = tmp_path / "run"
    assert_refused(run(tiny_dataset, out, "--arch", "vitoc"), "did you mean vitocc")
    assert_refused(run(tmp_path / "nowhere", out), "no dataset here")
    assert_refused(run(tiny_dataset, trained), "already holds a run")
    assert_refused(run(tiny_dataset, trained, "--resume", "--arch", "onet"), "not 'onet'")
    assert_refused(run(tiny_dataset, trained, "--resume", "--preset", "default"), "--preset")
    assert_refused(run(tiny_dataset, out, "--resume"), "no run to resume")


def test_a_failure_ends_the_run_and_its_loaders(tiny_dataset, tmp_path):
    """A file where the samples folder should be stands for a full disk."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "samples").write_text("")
    steps = ["optim.steps=4", "validate_every=2", "data.num_workers=1"]
    assert_refused(run(tiny_dataset, out, *TINY_RUN, *steps), "samples")


def test_torchrun_with_its_default_of_one_process(tiny_dataset, tmp_path):
    torchrun = str(Path(sys.executable).parent / "torchrun")
    more = "validate_points=100000"  # than are stored: then those
    arguments = command(tiny_dataset, tmp_path / "run", *TINY_RUN, more, "optim.steps=2")[1:]
    result = subprocess.run([torchrun, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
