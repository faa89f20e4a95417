"""A lock that lets only one training at a time use a run folder."""

import os
import socket
from pathlib import Path

from occvae.errors import UserError
from occvae.system.lock import holds_lock, try_lock

_NAME = ".lock"


def lock_run(run: Path) -> None:
    """Locks a run folder until this process ends. Only one process at a time can train in it.

    Does nothing if this process already holds the lock.

    Raises:
        UserError: another process holds the lock.
    """
    lock = run / _NAME
    if holds_lock(lock):
        return
    if not try_lock(lock):
        raise UserError(
            f"{run}: is being trained by {lock.read_text().strip()}; "
            "stop it or choose another --out"
        )
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
