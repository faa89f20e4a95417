"""The metrics sent to Weights & Biases, recorded by a fake wandb module."""

import sys
from types import SimpleNamespace

import pytest

from occvae.errors import UserError
from occvae.train import wandb_mirror
from occvae.train.config import apply_overrides
from occvae.train.logging import RunLogger
from occvae.train.presets import make_preset

CONFIG = apply_overrides(make_preset("cpu-small", "vitocc"), ["wandb_project=shapes"])


class FakeRun:
    def __init__(self):
        self.logged, self.finished = [], False

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished = True


@pytest.fixture(autouse=True)
def first_rank(monkeypatch):
    monkeypatch.setattr(wandb_mirror.parallel, "from_first_rank", lambda function: function())


def test_metrics_are_mirrored_and_a_resume_continues_the_same_run(monkeypatch, tmp_path):
    run, started = FakeRun(), []

    def init(**options):
        started.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    mirror = wandb_mirror.open_wandb(CONFIG, tmp_path)
    logger = RunLogger(tmp_path, 0, 2, mirror)
    logger.write(1, {"train/loss": 0.5})
    logger.close()
    assert run.logged == [(1, {"train/loss": 0.5})] and run.finished
    wandb_mirror.open_wandb(CONFIG, tmp_path)
    assert started[0] == started[1]
    assert (started[0]["project"], started[0]["resume"]) == ("shapes", "allow")
    assert started[0]["config"]["optim"]["steps"] == CONFIG.optim.steps
    assert "mode" not in started[0]  # WANDB_MODE decides


def test_an_error_of_wandb_is_one_line(monkeypatch, tmp_path):
    def init(**_):
        raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(
        UserError, match=r"^wandb_project: api_key not configured \(no-tty\); WANDB"
    ):
        wandb_mirror.open_wandb(CONFIG, tmp_path)


def test_a_missing_wandb_is_reported_only_if_asked_for(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb is not installed; pip install wandb"):
        wandb_mirror.open_wandb(CONFIG, tmp_path)
    assert wandb_mirror.open_wandb(make_preset("cpu-small", "onet"), tmp_path) is None
