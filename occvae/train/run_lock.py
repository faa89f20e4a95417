"""One training at a time in a run folder."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from occvae.errors import UserError

_NAME = ".lock"
# A lock ends with the last descriptor of its file that this process closes.
_held: list[TextIO] = []


def lock_run(run: Path) -> None:
    """Keeps other trainings out of a run folder for as long as this process lives.

    A POSIX record lock, because loader processes do not inherit it: one that outlives its trainer
    for a moment does not hold up the next. Network file systems pass it on to other hosts.

    Raises:
        UserError: another process holds it.
    """
    file = (run / _NAME).open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            file.close()
            return  # a file system without locks
        file.seek(0)
        raise UserError(f"{run}: is being trained by {file.read().strip()}") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held.append(file)
