"""A lock belongs to one process and ends with it, not with processes that it forked."""

import os
import signal
import subprocess
import sys

import pytest

from occvae.system.lock import holds_lock, try_lock, unlock

# Locks the path, and leaves a forked process behind when it is killed.
HOLDER = """
import multiprocessing, os, pathlib, sys, time
from occvae.system.lock import holds_lock, try_lock
path = pathlib.Path(sys.argv[1])
print(try_lock(path), flush=True)
child = multiprocessing.get_context("fork").Process(
    target=lambda: (print(holds_lock(path), os.getpid(), flush=True), time.sleep(600))
)
child.start()
time.sleep(600)
"""


def start_holder(path) -> tuple[subprocess.Popen, int]:
    """Starts a process that holds the lock. Returns it and the number of its forked child."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    inherited, child = process.stdout.readline().split()
    assert inherited == "False"
    return process, int(child)


@pytest.mark.parametrize("name", [".", "file"])
def test_a_lock_is_exclusive_and_not_inherited(tmp_path, name):
    path = tmp_path / name
    process, child = start_holder(path)
    try:
        assert not try_lock(path) and not holds_lock(path)
        process.kill()
        process.wait()
        os.kill(child, 0)  # the child is still alive
        assert try_lock(path) and holds_lock(path)
        unlock(path)
    finally:
        process.kill()
        process.stdout.close()
        os.kill(child, signal.SIGKILL)


def test_a_process_takes_a_lock_once(tmp_path):
    assert try_lock(tmp_path) and not try_lock(tmp_path)
    assert holds_lock(tmp_path) and list(tmp_path.iterdir()) == []
    unlock(tmp_path)
    assert not holds_lock(tmp_path) and try_lock(tmp_path)
    unlock(tmp_path)
