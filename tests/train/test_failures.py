"""Failures end a run as docs/guides/multi_node.md says: message, exit status, checkpoints."""

import errno
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import h5py
import psutil
import pytest

from occvae.data.dataset import ShapeDataset
from occvae.data.shards import Shard
from occvae.errors import UserError
from occvae.train.checkpoint import list_checkpoints
from tests.small_disk import mounted
from tests.tiny import TINY_RUN, build_tiny_dataset
from tests.train.ranks import Rank, no_rank_left, start, wait_until

pytestmark = pytest.mark.usefixtures(no_rank_left.__name__)
HOST = socket.gethostname()
ENDLESS = ["optim.steps=100000", "validate_every=100000", "log_every=1"]
FRESH = ["--preset", "cpu-small", *TINY_RUN, *ENDLESS]


def lives(run: Path, rank: Rank, steps: int = 3) -> None:
    """Waits until the run has logged some more steps."""
    records = run / "metrics.jsonl"
    before = len(records.read_text().splitlines()) if records.exists() else 0
    wait_until(
        lambda: records.exists() and len(records.read_text().splitlines()) >= before + steps, rank
    )


def look_after_loaders_often() -> None:
    """Makes torch check its loader processes every 0.2 seconds instead of every five."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

    assert _MultiProcessingDataLoaderIter._try_get_data.__defaults__ == (5.0,)
    _MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.2,)


@pytest.mark.slow
def test_two_ranks_stop_together(tiny_dataset, tmp_path):
    """A signal to one rank saves and stops both. If one rank dies or hangs, the other ends."""
    run = tmp_path / "run"
    out = ["--out", run, "--timeout", "5"]
    fresh = [*out, "--data", tiny_dataset, *FRESH, "optim.batch_size=2"]
    first, second = start(tmp_path, fresh, ranks=2)
    lives(run, first)
    [other] = start(tmp_path, ["--out", run, "--resume"])
    assert other.status() == 2
    [line] = other.errors()
    assert f"is being trained by process {first.pid} on {HOST}" in line

    os.kill(second.pid, signal.SIGTERM)
    assert (first.status(), second.status()) == (143, 143)
    assert first.errors() == second.errors() == []
    assert "saved; continue with --resume" in first.text()
    saved = list_checkpoints(run)

    first, second = start(tmp_path, [*out, "--resume", "save_every=5"], ranks=2)
    wait_until(lambda: list_checkpoints(run) != saved, first)
    os.kill(second.pid, signal.SIGSTOP)
    begin = time.monotonic()
    assert first.status() == 1
    assert time.monotonic() - begin < 40
    [line] = first.errors()
    assert line.startswith(f"error: rank 0 on {HOST}: lost contact with other ranks (Timed out")
    second.process.kill()

    first, second = start(tmp_path, [*out, "--resume"], ranks=2)
    lives(run, first)
    second.process.kill()
    begin = time.monotonic()
    assert first.status() == 1
    assert time.monotonic() - begin < 40
    [line] = first.errors()
    assert "lost contact with other ranks" in line

    step = int(list_checkpoints(run)[-1].name.removeprefix("step-"))
    [alone] = start(tmp_path, [*out, "--resume", f"optim.steps={step + 2}"])
    assert alone.status() == 0, alone.text()


def test_a_loss_that_is_not_finite_ends_the_run(tiny_dataset, tmp_path):
    run = tmp_path / "run"
    mad = ["optim.lr=1e30", "optim.warmup_steps=0", "save_every=1", "keep_checkpoints=9"]
    [rank] = start(tmp_path, ["--out", run, "--data", tiny_dataset, *FRESH, *mad])
    assert rank.status() == 2
    [line] = rank.errors()
    assert "the loss of step 2 is not finite for the shapes boxes-" in line
    assert [folder.name for folder in list_checkpoints(run)] == ["step-0", "step-1"]


def test_a_killed_loader_and_a_damaged_shard_end_the_run(tiny_dataset, tmp_path):
    data, run = Path(shutil.copytree(tiny_dataset, tmp_path / "data")), tmp_path / "run"
    arguments = ["--out", run, "--data", data, *FRESH, "data.num_workers=1"]
    [rank] = start(tmp_path, arguments, prepare=look_after_loaders_often)
    lives(run, rank)
    psutil.Process(rank.pid).children()[0].kill()
    assert rank.status() == 1
    [line] = rank.errors()
    assert "a data loader process was killed" in line
    before = list_checkpoints(run)
    assert before

    with h5py.File(data / "train-00003.h5", "r+") as file:
        file["image_bytes"][:] = 0
    [rank] = start(tmp_path, ["--out", run, "--resume"])
    assert rank.status() == 2
    [line] = rank.errors()
    assert f"{data}/train-00003.h5: shape " in line
    assert "delete it and run the command that built the dataset again" in line


def test_a_read_error_names_the_shard(tiny_dataset, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    dataset = ShapeDataset(tiny_dataset, "train", image_size=32)
    monkeypatch.setattr(Shard, "image", fail)
    with pytest.raises(UserError, match=f"train-00000.h5: shape {dataset.ids[0]}: .*Input/output"):
        dataset[0]


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk", "32m") as folder:
        yield folder


def test_a_full_disk_ends_the_run_which_can_be_resumed(tiny_dataset, small_disk, tmp_path):
    run, filler = small_disk / "run", small_disk / "filler"
    arguments = ["--out", run, "--data", tiny_dataset, *FRESH, "save_every=5"]
    [rank] = start(tmp_path, arguments)
    wait_until(lambda: list_checkpoints(run), rank)
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(1 << 12))
    assert rank.status() == 2
    [line] = rank.errors()
    assert "No space left" in line
    step = int(list_checkpoints(run)[-1].name.removeprefix("step-"))
    filler.unlink()
    [rank] = start(tmp_path, ["--out", run, "--resume", f"optim.steps={step + 2}"])
    assert rank.status() == 0, rank.text()


@pytest.mark.slow
def test_ranks_that_do_not_meet_give_up(tiny_dataset, tmp_path):
    arguments = ["--data", tiny_dataset, "--timeout", "0.2", *FRESH]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        [busy] = start(tmp_path, arguments, WORLD_SIZE="2", MASTER_PORT=port)
        assert busy.status() == 2
    assert busy.errors() == [f"error: port {port} is in use; choose another --master_port"]

    [alone] = start(tmp_path, arguments, WORLD_SIZE="2", MASTER_PORT=port)
    [lost] = start(tmp_path, arguments, WORLD_SIZE="2", RANK="1", MASTER_ADDR="127.0.0.2")
    assert (alone.status(), lost.status()) == (1, 1)
    [line] = alone.errors()
    assert f"only 1 of 2 ranks came to 127.0.0.1:{port} within 2 s" in line
    [line] = lost.errors()
    assert line.startswith(f"error: rank 1 on {HOST}: the ranks cannot meet at 127.0.0.2:")


def spoil_gradients() -> None:
    """Adds a term with finite value and infinite gradient, the square root of 0, to the loss."""
    from occvae.train.objectives import PointObjective

    sound = PointObjective.loss

    def spoilt(self, output, batch, step):
        loss, figures = sound(self, output, batch, step)
        return loss + (0.0 * output).square().sum().sqrt(), figures

    PointObjective.loss = spoilt


@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_that_are_not_finite_end_the_run(tiny_dataset, tmp_path, ranks):
    run = tmp_path / "run"
    arguments = ["--out", run, "--data", tiny_dataset, *FRESH]
    started = start(tmp_path, arguments, ranks=ranks, prepare=spoil_gradients)
    assert [rank.status() for rank in started] == [2] * ranks
    [line] = [line for rank in started for line in rank.errors()]
    assert line.startswith("error: the gradient of step 1 is not finite for the shapes boxes-")
    assert line.count("boxes-") == 4 * ranks
    assert [folder.name for folder in list_checkpoints(run)] == ["step-0"]


def use_own_folder() -> None:
    os.chdir(Path(os.environ["NODES"]) / os.environ["RANK"])


def test_nodes_with_different_data_do_not_train(tiny_dataset, tmp_path):
    build_tiny_dataset(tmp_path / "other", count=6)
    for rank, data in enumerate((tiny_dataset, tmp_path / "other" / "data")):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "data").symlink_to(data)
    arguments = ["--out", tmp_path / "run", "--data", "data", *FRESH]
    ranks = start(tmp_path, arguments, ranks=2, prepare=use_own_folder, NODES=str(tmp_path))
    assert [rank.status() for rank in ranks] == [2, 2]
    [line] = [line for rank in ranks for line in rank.errors()]
    assert line.startswith(f"error: rank 1 on {HOST}: data: is not the dataset of rank 0")


def test_a_loader_killed_on_one_rank_has_one_exit_status(tiny_dataset, tmp_path):
    run = tmp_path / "run"
    arguments = ["--out", run, "--data", tiny_dataset, *FRESH, "data.num_workers=1"]
    ranks = start(tmp_path, arguments, ranks=2, prepare=look_after_loaders_often)
    lives(run, ranks[0])
    psutil.Process(ranks[1].pid).children()[0].kill()
    assert [rank.status() for rank in ranks] == [1, 1]
    [line] = [line for rank in ranks for line in rank.errors()]
    assert line.startswith(f"error: rank 1 on {HOST}: a data loader process was killed")


def test_unreadable_validation_shapes_end_the_run_after_saving(tiny_dataset, tmp_path):
    data, run = Path(shutil.copytree(tiny_dataset, tmp_path / "data")), tmp_path / "run"
    with h5py.File(data / "val-00000.h5", "r+") as file:
        file["image_bytes"][:] = 0
    arguments = ["--out", run, "--data", data, *FRESH, "validate_every=3"]
    ranks = start(tmp_path, arguments, ranks=2)
    assert [rank.status() for rank in ranks] == [2, 2]
    assert all("val-00000.h5: shape " in line for rank in ranks for line in rank.errors())
    assert [folder.name for folder in list_checkpoints(run)] == ["step-0", "step-3"]


def test_a_mistake_on_all_ranks_is_reported_once(tiny_dataset, tmp_path):
    arguments = ["--out", tmp_path / "run", "--data", tiny_dataset, *FRESH, 'frozen=["encode"]']
    ranks = start(tmp_path, arguments, ranks=2)
    assert [rank.status() for rank in ranks] == [2, 2]
    [line] = [line for rank in ranks for line in rank.errors()]
    assert line.startswith("error: frozen: the model has no part 'encode'")


def test_unwritable_metrics_end_the_run_before_it_trains(tiny_dataset, tmp_path):
    run = tmp_path / "run"
    (run / "metrics.jsonl").mkdir(parents=True)
    ranks = start(tmp_path, ["--out", run, "--data", tiny_dataset, *FRESH], ranks=2)
    assert [rank.status() for rank in ranks] == [2, 2]
    [line] = [line for rank in ranks for line in rank.errors()]
    assert line.startswith(f"error: {run}: metrics cannot be written (")


def hang_in_checkpoints() -> None:
    from occvae.train import trainer

    save = trainer.save_checkpoint

    def stop(*arguments):
        save(*arguments)
        os.kill(os.getpid(), signal.SIGSTOP)

    trainer.save_checkpoint = stop


def test_ranks_give_up_a_rank_0_that_hangs_while_it_saves(tiny_dataset, tmp_path):
    arguments = ["--out", tmp_path / "run", "--data", tiny_dataset, "--timeout", "3", *FRESH]
    first, second = start(tmp_path, arguments, ranks=2, prepare=hang_in_checkpoints)
    begin = time.monotonic()
    assert second.status(timeout=60) == 1, second.text()
    [line] = second.errors()
    assert line.startswith(f"error: rank 1 on {HOST}: lost contact with other ranks")
    assert time.monotonic() - begin < 45
    first.process.kill()


def write_checkpoints_slowly() -> None:
    from occvae.train import trainer

    save = trainer.save_checkpoint

    def save_slowly(run, progress, *others):
        if progress.step:
            time.sleep(5)
        save(run, progress, *others)

    trainer.save_checkpoint = save_slowly


@pytest.mark.slow
def test_ranks_wait_for_a_rank_0_that_saves_slowly(tiny_dataset, tmp_path):
    short = ["--timeout", "3", "optim.steps=1"]
    arguments = ["--out", tmp_path / "run", "--data", tiny_dataset, *FRESH, *short]
    ranks = start(tmp_path, arguments, ranks=2, prepare=write_checkpoints_slowly)
    assert [rank.status() for rank in ranks] == [0, 0], ranks[1].text()


def test_resuming_a_finished_run_writes_a_missing_export(tiny_dataset, tmp_path):
    """For example because it was killed between its last checkpoint and the export."""
    run = tmp_path / "run"
    [rank] = start(tmp_path, ["--out", run, "--data", tiny_dataset, *FRESH, "optim.steps=2"])
    assert rank.status() == 0, rank.text()
    weights = (run / "last" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "last")
    [rank] = start(tmp_path, ["--out", run, "--resume"])
    assert rank.status() == 0, rank.text()
    assert (run / "last" / "model.safetensors").read_bytes() == weights


def test_unsynchronized_batch_norm_with_few_samples_gives_a_warning(tiny_dataset, tmp_path):
    own = ["optim.steps=2", "sync_batch_norm=false"]
    arguments = ["--out", tmp_path / "run", "--data", tiny_dataset, *FRESH, *own]
    first, second = start(tmp_path, arguments, ranks=2)
    assert (first.status(), second.status()) == (0, 0), first.text()
    assert "warning: sync_batch_norm=false with 4 shapes per rank" in first.text()
    assert "warning: sync_batch_norm" not in second.text()


def test_an_unknown_host_is_reported(tiny_dataset, tmp_path):
    arguments = ["--data", tiny_dataset, *FRESH]
    unknown = {"WORLD_SIZE": "2", "MASTER_ADDR": "nowhere.invalid"}
    [rank] = start(tmp_path, arguments, **unknown)
    assert rank.status() == 2
    [line] = rank.errors()
    assert line.startswith("error: MASTER_ADDR=nowhere.invalid: no such host")
