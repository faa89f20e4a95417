"""Ranks whose launcher has died save and stop, rather than train on unseen."""

import os
import signal
import threading
import time
from pathlib import Path

_LAUNCHERS = {"deepspeed", "deepspeed.launcher.launch", "torchrun", "torch.distributed.run"}
# Fields of /proc/PID/stat after the name.
_PARENT, _START = 1, 19


def watch_launchers(interval: float = 1.0) -> None:
    """Sends this process SIGTERM when deepspeed or torchrun above it are gone.

    The front process of deepspeed dies of a SIGTERM without passing it on; the process between it
    and the ranks lives on.
    """
    launchers = _launchers_above()
    if launchers:
        threading.Thread(target=_watch, args=(launchers, interval), daemon=True).start()


def _watch(launchers: dict[int, str], interval: float) -> None:
    while all(_started(pid) == start for pid, start in launchers.items()):
        time.sleep(interval)
    os.kill(os.getpid(), signal.SIGTERM)


def _launchers_above() -> dict[int, str]:
    """Process numbers and times of start."""
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
    """When a process started, as the kernel writes it; None of a dead one."""
    stat = _stat(pid)
    return None if not stat or stat[0] in "ZX" else stat[_START]


def _stat(pid: int) -> list[str]:
    """From the state on; the name before it may contain anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
