"""Locks on files and folders. They end with the process that holds them."""

import fcntl
import os
from pathlib import Path

_held: dict[Path, int] = {}  # the locks of this process and their descriptors


def try_lock(path: Path) -> bool:
    """Locks a file, made if absent, or a folder; False if this or another process holds it.

    The lock lasts until `unlock` or the end of this process. Processes that it forks, as loaders
    are, do not inherit the lock: one that outlives a killed trainer does not hold up the next.
    On a file system without locks this is always True.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:
        pass  # many network file systems have no locks
    _held[path.resolve()] = descriptor
    return True


def holds_lock(path: Path) -> bool:
    """Whether this process holds the lock."""
    return path.resolve() in _held


def unlock(path: Path) -> None:
    """Ends a lock of this process."""
    descriptor = _held.pop(path.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def _close_in_child() -> None:
    """Leaves the locks to the parent: a lock ends with the last copy of its descriptor."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
