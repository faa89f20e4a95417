"""Locks on files and folders, which end with the process that holds them."""

import fcntl
import os
from pathlib import Path

_held: dict[Path, int] = {}  # file descriptors of the locks of this process


def try_lock(path: Path) -> bool:
    """Locks a file or a folder. Returns False if this or another process holds the lock.

    The lock lasts until `unlock` or the end of this process. Forked processes do not inherit it, so
    a loader process that outlives a killed trainer does not block the next one. A file system
    without locks always gives True.

    Args:
        path: folder, or file that is created if absent.
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
    """Returns whether this process holds the lock of a path."""
    return path.resolve() in _held


def unlock(path: Path) -> None:
    """Releases a lock of this process. Does nothing if the process does not hold it."""
    descriptor = _held.pop(path.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def _close_in_child() -> None:
    """Closes inherited descriptors, because a lock lasts until its last descriptor is closed."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
