"""Failures of the log: a full disk, and errors of other threads."""

import errno
import threading

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from occvae.train.logging import RunLogger


def test_a_full_disk_is_one_error(tmp_path, monkeypatch, capfd):
    """It occurs in a thread of TensorBoard. The traceback of that thread is not printed."""

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    logger = RunLogger(tmp_path, 0, 2)
    monkeypatch.setattr(RecordWriter, "write", fill)
    with pytest.raises(OSError, match=f"{tmp_path}: no metrics .*No space left"):
        for step in range(1000):
            logger.write(step, {"loss": 1.0})
    with pytest.raises(OSError, match=f"{tmp_path}: no metrics"):
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
