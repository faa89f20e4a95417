"""Complete runs of launchers/train.py: they learn, resume exactly and stop cleanly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import occvae
from occvae.evaluation import evaluate
from occvae.train.checkpoint import list_checkpoints
from tests.tiny import (
    TINY_OBSERVING_MODELS,
    TINY_OBSERVING_RUN,
    TINY_RUN,
    build_tiny_dataset,
)
from tests.train.ranks import no_rank_left, start, wait_until
from tests.train.runs import (
    TORCHRUN,
    arguments_of,
    assert_refused,
    assert_same_weights,
    command,
    deepspeed,
    metrics,
    run,
    succeed,
    succeed_as_user,
    weights,
)

pytestmark = pytest.mark.usefixtures(no_rank_left.__name__)


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "trained"
    steps = ["optim.steps=240", "validate_every=120", "save_every=240"]
    succeed(tiny_dataset, out, *TINY_RUN, *steps, sheets=True)
    return out


def test_training_learns_from_the_image(trained, tiny_dataset):
    model = occvae.from_pretrained(trained / "last")
    report = evaluate(model, tiny_dataset, mesh_resolution=None)
    controls = report["controls"]
    found = report["metrics"]["iou_voxels"]["micro"]["mean"]
    assert found > controls["mean_shape"]["micro"]["mean"] + 0.05, report
    assert found > controls["shuffled_images"]["micro"]["mean"] + 0.1, report


def test_exports_record_the_splits_they_were_trained_on(trained):
    for name, step in (("best", 120), ("last", 240)):
        config = json.loads((trained / name / "config.json").read_text())
        assert config["splits"] == "own" and config["step"] >= step
        assert config["trained_on"]["source"] == "voxels"
        assert config["trained_on"]["num_shapes"] > 0 and config["trained_on"]["categories"]


def test_a_run_leaves_its_records(trained):
    lines = metrics(trained)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0]
    assert [line["step"] for line in lines if "val/iou" in line] == [120, 240]
    assert json.loads((trained / "train_config.json").read_text())["optim"]["steps"] == 240
    assert list((trained / "tensorboard").iterdir())
    assert (trained / "samples" / "step-0000240.png").stat().st_size > 1000
    validated = [line for line in lines if "val/iou" in line][-1]
    assert {"val/category_mean", "val/iou/even", "val/iou/odd"} <= validated.keys()
    page = (trained / "index.html").read_text()
    assert page.count("<img src=") == 1 and "Validated at step 240 of 240" in page
    assert [folder.name for folder in list_checkpoints(trained)] == ["step-0", "step-240"]


def die_at_step_30() -> None:
    from occvae.train.trainer import Trainer

    take_step = Trainer._step

    def take_step_or_die(self, *arguments):
        take_step(self, *arguments)
        if self.progress.step == 30:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._step = take_step_or_die


def test_resume_continues_bit_for_bit(tiny_dataset, tmp_path):
    steps = ["optim.steps=60", "save_every=20", "validate_every=1000"]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    succeed(tiny_dataset, straight, *TINY_RUN, *steps)
    loader = "data.num_workers=1"
    [rank] = run(tiny_dataset, resumed, *TINY_RUN, *steps, loader, prepare=die_at_step_30)
    assert rank.status() == 128 + signal.SIGKILL, rank.text()
    assert [folder.name for folder in list_checkpoints(resumed)] == ["step-0", "step-20"]
    succeed(tiny_dataset, resumed, "--resume")
    assert_same_weights(straight, resumed)


def test_a_run_with_its_data_on_the_device_resumes_bit_for_bit(tiny_dataset, tmp_path):
    held = ["data.on_device=true", "data.augment=true", "data.num_views=2", "data.min_views=1"]
    steps = ["optim.steps=40", "save_every=20", "validate_every=1000"]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    succeed(tiny_dataset, straight, *TINY_RUN, *steps, *held)
    [rank] = run(tiny_dataset, resumed, *TINY_RUN, *steps, *held, prepare=die_at_step_30)
    assert rank.status() == 128 + signal.SIGKILL, rank.text()
    succeed(tiny_dataset, resumed, "--resume")
    assert_same_weights(straight, resumed)
    losses = [line["train/loss"] for line in metrics(straight) if "train/loss" in line]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.slow  # compiles for half a minute
def test_a_compiled_model_trains_like_any_other(tiny_dataset, tmp_path):
    steps = ["optim.steps=3", "validate_every=3", "precision=fp32", "log_every=1"]
    small = 'model.encoder_options={"depth": 1, "embed_dim": 16, "num_heads": 1, "patch_size": 16}'
    for name in ("true", "false"):
        succeed(tiny_dataset, tmp_path / name, *TINY_RUN, *steps, small, f"compile={name}")
    compiled, plain = metrics(tmp_path / "true"), metrics(tmp_path / "false")
    for mine, expected in zip(compiled, plain, strict=True):
        for key in {"train/loss", "val/iou"} & expected.keys():
            assert mine[key] == pytest.approx(expected[key], rel=1e-4)
    assert weights(tmp_path / "true").keys() == weights(tmp_path / "false").keys()


def test_data_on_the_device_is_refused_for_other_observations(tiny_cloud_dataset, tmp_path):
    settings = [*TINY_OBSERVING_MODELS["onet-voxels"], *TINY_OBSERVING_RUN]
    ranks = run(
        tiny_cloud_dataset,
        tmp_path / "run",
        *["--arch", "onet-voxels", *settings, "optim.steps=2", "data.on_device=true"],
    )
    assert_refused(ranks, "data.on_device is for training on images; set data.on_device=false")


def test_two_ranks_train_like_one_of_twice_the_batch(tiny_dataset, tmp_path):
    """Samples, batch norm statistics and gradients of two ranks equal those of one process."""
    steps = ["optim.steps=3", "validate_every=3", "precision=fp32", "log_every=1"]
    two_ranks = [*TINY_RUN, *steps, "optim.batch_size=2"]
    succeed_as_user(deepspeed(ranks=2), tiny_dataset, tmp_path / "two", *two_ranks)
    succeed(tiny_dataset, tmp_path / "one", *TINY_RUN, *steps)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert two[0]["train/loss"] == pytest.approx(one[0]["train/loss"], rel=1e-5)
    assert two[0]["train/grad_norm"] == pytest.approx(one[0]["train/grad_norm"], rel=1e-4)
    # Adam turns rounding of tiny gradients into full steps, so later values are only close.
    assert two[2]["train/loss"] == pytest.approx(one[2]["train/loss"], rel=1e-2)
    assert two[-1]["val/iou"] == pytest.approx(one[-1]["val/iou"], abs=0.02)


def test_a_batch_that_the_ranks_cannot_share_is_refused(trained, tiny_dataset):
    copy = Path(shutil.copytree(trained, trained.parent / "copy"))
    state = copy / "checkpoints" / "step-240" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "global_batch": 3}))
    refused = run(tiny_dataset, copy, "--resume", ranks=2)
    assert_refused(refused, "batch of 3 shapes cannot be divided evenly among 2 ranks")


def test_a_rebuilt_dataset_is_not_resumed_on(tmp_path):
    data, run_folder = tmp_path / "tiny" / "data", tmp_path / "run"
    build_tiny_dataset(tmp_path / "tiny", count=24)
    succeed(data, run_folder, *TINY_RUN, "optim.steps=1", "validate_every=1000")
    shutil.rmtree(data)
    build_tiny_dataset(tmp_path / "tiny", count=24)  # with the same content
    succeed(data, run_folder, "--resume", "optim.steps=2")

    shutil.rmtree(data)
    build_tiny_dataset(tmp_path / "tiny", count=32)
    before = list_checkpoints(run_folder)
    refused = run(data, run_folder, "--resume", "optim.steps=3")
    message = f"{data}: is not the dataset that {run_folder} began with, or was rebuilt"
    assert_refused(refused, message)
    assert list_checkpoints(run_folder) == before

    state = before[-1] / "state.json"
    content = json.loads(state.read_text())
    del content["dataset"]  # as in runs of earlier versions
    state.write_text(json.dumps(content))
    succeed(data, run_folder, "--resume", "optim.steps=3")
    assert json.loads((list_checkpoints(run_folder)[-1] / "state.json").read_text())["dataset"]


ENDLESS = ["optim.steps=100000", "validate_every=100000", "data.num_workers=1"]


def test_sigint_to_all_processes_saves_the_run(tiny_dataset, tmp_path):
    """A terminal sends it to every process, including the data loaders."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        command([sys.executable], tiny_dataset, out, *TINY_RUN, *ENDLESS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: has_records(out), process)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT, output
    assert "saved; continue with --resume" in output
    assert list_checkpoints(out)


def test_sigterm_to_all_processes_saves_the_run(tiny_dataset, tmp_path):
    """A scheduler sends it to every process of a job."""
    out = tmp_path / "run"
    arguments = arguments_of(tiny_dataset, out, *TINY_RUN, *ENDLESS)
    [rank] = start(tmp_path, arguments, prepare=os.setpgrp)
    wait_until(lambda: has_records(out), rank)
    os.killpg(rank.pid, signal.SIGTERM)
    assert rank.status() == 128 + signal.SIGTERM, rank.text()
    assert "saved; continue with --resume" in rank.text()
    assert list_checkpoints(out)


def has_records(out: Path) -> bool:
    records = out / "metrics.jsonl"
    return records.exists() and records.stat().st_size > 0


def wait_for(condition, process: subprocess.Popen, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, "the run ended before the condition was met"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "vitoc"], "did you mean vitocc"),
        (["--data", "{folder}/nowhere"], "no dataset here"),
        (["--out", "{trained}"], "already holds a run"),
        (["--out", "{trained}", "--resume", "--arch", "onet"], "not 'onet'"),
        (["--out", "{trained}", "--resume", "--preset", "default"], "--preset"),
        (["--resume"], "no run to resume"),
        (["--device", "cuda:99"], "--device cuda:99: "),
        (["--config", "{folder}/nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_mistakes_end_in_one_line(tiny_dataset, tmp_path, trained, arguments, message):
    words = [word.format(folder=tmp_path, trained=trained) for word in arguments]
    standard = ["--data", str(tiny_dataset), "--out", str(tmp_path / "run")]
    assert_refused(start(tmp_path, [*standard, *words]), message)


def test_a_run_records_its_dataset_by_an_absolute_path(tiny_dataset, tmp_path, monkeypatch):
    out, data = tmp_path / "run", Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    steps = ["optim.steps=1", "validate_every=1", "data.num_workers=0"]
    succeed(Path("data"), out, *TINY_RUN, *steps)
    assert json.loads((out / "train_config.json").read_text())["data"]["root"] == str(data)
    data.rename(tmp_path / "moved")
    resume = ["--out", str(out), "--resume", "optim.steps=2"]
    message = f"{data}: no dataset here; {out}/train_config.json names this folder; if the dataset"
    assert_refused(start(tmp_path, resume), message)
    succeed(Path("moved"), out, "--resume", "optim.steps=2")
    recorded = json.loads((out / "train_config.json").read_text())["data"]["root"]
    assert recorded == str(tmp_path / "moved")


def test_a_failure_ends_the_run_and_its_loaders(tiny_dataset, tmp_path):
    """A file in place of the samples folder makes the validation fail."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "samples").write_text("")
    steps = ["optim.steps=4", "validate_every=2", "data.num_workers=1"]
    assert_refused(run(tiny_dataset, out, *TINY_RUN, *steps, sheets=True), "samples")


@pytest.mark.slow
def test_torchrun_with_its_default_of_one_process(tiny_dataset, tmp_path):
    more = "validate_points=100000"  # more than are stored, so all are used
    arguments = [*TINY_RUN, more, "optim.steps=2"]
    succeed_as_user([TORCHRUN], tiny_dataset, tmp_path / "run", *arguments)
