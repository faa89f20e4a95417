"""Checkpoints are complete or absent, and errors about them are one line."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from occvae.errors import UserError
from occvae.train import checkpoint
from occvae.train.checkpoint import (
    Progress,
    choose_run_folder,
    list_checkpoints,
    read_progress,
    read_tensors,
    save_checkpoint,
)

TENSORS = {"model.weight": torch.arange(6.0).reshape(2, 3), "exp_avg.weight": torch.zeros(2, 3)}


def save(run: Path, step: int, keep: int = 2) -> None:
    save_checkpoint(run, Progress("onet", step, 80, None, 0.25, 8), TENSORS, keep)


def names(run: Path) -> list[str]:
    return [path.name for path in list_checkpoints(run)]


def test_a_checkpoint_round_trips(tmp_path):
    save(tmp_path, 7)
    assert read_progress(tmp_path, "onet") == Progress("onet", 7, 80, None, 0.25, 8)
    found = read_tensors(tmp_path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_tensors_of_other_layouts_are_saved_like_contiguous_ones(tmp_path):
    weight = torch.arange(36.0).reshape(1, 4, 3, 3)
    tensors = {"model.weight": weight.to(memory_format=torch.channels_last)}
    save_checkpoint(tmp_path, Progress("onet", 7, 80, None, 0.25, 8), tensors, keep=1)
    assert torch.equal(read_tensors(tmp_path)["model.weight"], weight)


def test_the_files_have_the_mode_of_other_new_files(tmp_path):
    (tmp_path / "other").touch()
    save(tmp_path, 7)
    modes = {file.stat().st_mode for file in (tmp_path / "checkpoints" / "step-7").iterdir()}
    assert modes == {(tmp_path / "other").stat().st_mode}


def test_the_newest_checkpoints_are_kept(tmp_path):
    for step in (8, 9, 10, 100):  # by number, not by name
        save(tmp_path, step)
    assert names(tmp_path) == ["step-10", "step-100"]
    save(tmp_path, 101, keep=1)
    assert names(tmp_path) == ["step-101"]


@pytest.mark.parametrize("call", ["save_file", "to_disk", "os.rename"])
def test_a_failed_write_keeps_the_previous_checkpoint(tmp_path, monkeypatch, call):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    save(tmp_path, 1)
    owner = {
        "save_file": "safetensors.torch.save_file",
        "to_disk": "occvae.train.checkpoint.to_disk",
        "os.rename": "occvae.train.checkpoint.os.rename",
    }
    with monkeypatch.context() as patched:
        patched.setattr(owner[call], full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 2)
    assert names(tmp_path) == ["step-1"]
    assert read_progress(tmp_path, "onet").step == 1
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1  # nothing half written
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-1", "step-2"]


def test_a_process_killed_while_writing_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    """A child process is killed at each call that touches the disk."""
    save(tmp_path, 1)
    for call in ("save_file", "to_disk", "os.rename", "shutil.rmtree"):
        child = os.fork()
        if child == 0:
            target = {
                "save_file": "safetensors.torch.save_file",
                "to_disk": "occvae.train.checkpoint.to_disk",
            }.get(call, f"occvae.train.checkpoint.{call}")
            monkeypatch.setattr(target, lambda *a, **k: os._exit(9))
            save(tmp_path, 2)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert names(tmp_path) == ["step-1"]
        assert read_progress(tmp_path, "onet").step == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-1", "step-2"]


def test_a_damaged_checkpoint_is_reported_with_the_previous_one(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = tmp_path / "checkpoints" / "step-2"
    tensors = newest / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"step-2: damaged .*; delete it, to resume from step-1"):
        read_tensors(tmp_path)
    (newest / "state.json").write_text("{")
    with pytest.raises(UserError, match="step-2: damaged"):
        read_progress(tmp_path, "onet")
    shutil.rmtree(newest)
    assert read_progress(tmp_path, "onet").step == 1


def test_a_missing_or_unsuitable_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint to resume"):
        read_progress(tmp_path, "onet")
    save(tmp_path, 3)
    with pytest.raises(UserError, match="has arch 'onet', not 'vitocc'"):
        read_progress(tmp_path, "vitocc")
    path = tmp_path / "checkpoints" / "step-3" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 9}))
    with pytest.raises(UserError, match="step-3: has format 9, this occvae reads 3$"):
        read_progress(tmp_path, "onet")


def test_run_folders_are_chosen_by_their_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert choose_run_folder(None, "onet", resume=False) == Path("runs/onet")
    with pytest.raises(UserError, match="runs/onet: no run to resume"):
        choose_run_folder(None, "onet", resume=True)
    save(Path("runs/onet"), 1)
    save(Path("runs/onet-x"), 1)  # not named by the trainer
    assert choose_run_folder(None, "onet", resume=False) == Path("runs/onet-2")
    save(Path("runs/onet-2"), 1)
    os.utime(Path("runs/onet/checkpoints/step-1"), (2e9, 2e9))
    assert choose_run_folder(None, "onet", resume=True) == Path("runs/onet")
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        choose_run_folder("runs/onet", "onet", resume=False)


def test_other_folders_are_not_checkpoints(tmp_path):
    save(tmp_path, 1)
    for name in ("step-x", ".step-9.partial", "step-"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert names(tmp_path) == ["step-1"]
    assert checkpoint.read_progress(tmp_path, "onet").step == 1


def test_the_highest_step_is_newest_whatever_its_time(tmp_path):
    """A run may continue on a node whose clock differs."""
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
        folder = tmp_path / "checkpoints" / f"step-{step}"
        for path in (folder, *folder.iterdir()):
            os.utime(path, (10**9 - step, 10**9 - step))
    assert read_progress(tmp_path, "onet").step == 3
    save(tmp_path, 4, keep=2)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-3", "step-4"]
