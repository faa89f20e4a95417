"""Stops a rank when its launcher has died, so that no training continues unnoticed."""

import os
import signal
import threading
import time
from pathlib import Path

_LAUNCHERS = {"deepspeed", "deepspeed.launcher.launch", "torchrun", "torch.distributed.run"}
# Fields of /proc/PID/stat after the name.
_PARENT, _START = 1, 19


def watch_launchers(interval: float = 1.0) -> None:
    """Sends SIGTERM to this process when a deepspeed or torchrun process above it has ended.

    A SIGTERM ends the front process of deepspeed, which does not pass it on. The process between
    it and the ranks continues, so watching only the parent is not enough.

    Args:
        interval: seconds between checks.
    """
    launchers = _launchers_above()
    if launchers:
        threading.Thread(target=_watch, args=(launchers, interval), daemon=True).start()


def _watch(launchers: dict[int, str], interval: float) -> None:
    while all(_started(pid) == start for pid, start in launchers.items()):
        time.sleep(interval)
    os.kill(os.getpid(), signal.SIGTERM)


def _launchers_above() -> dict[int, str]:
    """Returns the start times of the launchers above this process by process number."""
    found: dict[int, str] = {}
    pid = os.getppid()
    while _is_launcher(pid) and (stat := _stat(pid)):
        found[pid] = stat[_START]
        pid = int(stat[_PARENT])
    return found


def _is_launcher(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False
    return not _LAUNCHERS.isdisjoint(Path(word).name for word in words)


def _started(pid: int) -> str | None:
    """Returns the start time of a process as the kernel writes it, or None if it has ended."""
    stat = _stat(pid)
    return None if not stat or stat[0] in "ZX" else stat[_START]


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat after the name, which may contain spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
