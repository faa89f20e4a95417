"""Failures of the log: a full disk, and errors of other threads."""

import errno
import threading

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from occvae.system.verbosity import Verbosity
from occvae.train.logging import RunLogger


def test_a_full_disk_is_one_error(tmp_path, monkeypatch, capfd):
    """It occurs in a thread of TensorBoard. The traceback of that thread is not printed."""

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    logger = RunLogger(tmp_path, 0, 2)
    monkeypatch.setattr(RecordWriter, "write", fill)
    with pytest.raises(OSError, match=f"{tmp_path}: metrics cannot be written .*No space left"):
        for step in range(1000):
            logger.write(step, {"loss": 1.0})
    with pytest.raises(OSError, match=f"{tmp_path}: metrics cannot be written"):
        logger.close()
    assert "Traceback" not in capfd.readouterr().err


def test_failures_of_other_threads_are_reported(tmp_path, monkeypatch):
    def fail():
        raise OSError("unexpected")

    told = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: told.append(failure.exc_value))
    logger = RunLogger(tmp_path, 0, 2)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    logger.close()
    assert [str(error) for error in told] == ["unexpected"]


@pytest.mark.parametrize(
    ("verbosity", "printed"),
    [
        (Verbosity.QUIET, []),
        (Verbosity.NORMAL, ["saved"]),
        (Verbosity.VERBOSE, ["step 1: train/loss 0.1235, val/iou 2", "saved"]),
    ],
)
def test_the_verbosity_selects_the_lines(tmp_path, capsys, monkeypatch, verbosity, printed):
    monkeypatch.setattr("occvae.system.verbosity._chosen", verbosity)
    logger = RunLogger(tmp_path, 0, 2)
    logger.write(1, {"train/loss": 0.12345, "val/iou": 2.0})
    logger.advance()
    logger.say("saved")
    logger.close()
    captured = capsys.readouterr()
    assert captured.out.splitlines() == printed
    assert bool(captured.err) == (verbosity is not Verbosity.QUIET)  # the progress bar
