"""One training at a time in a run folder."""

import os
import socket
from pathlib import Path

from occvae.errors import UserError
from occvae.system.lock import holds_lock, try_lock

_NAME = ".lock"


def lock_run(run: Path) -> None:
    """Keeps other trainings out of a run folder for as long as this process lives.

    Raises:
        UserError: another process holds it.
    """
    lock = run / _NAME
    if holds_lock(lock):
        return
    if not try_lock(lock):
        raise UserError(f"{run}: is being trained by {lock.read_text().strip()}")
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
