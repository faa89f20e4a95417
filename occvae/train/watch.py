"""Stops a rank when its launcher has died, so that no training continues unnoticed."""

import os
import signal
import threading
import time

from occvae.system.launchers import launchers_above, start_time


def watch_launchers(interval: float = 1.0) -> None:
    """Sends SIGTERM to this process when a deepspeed or torchrun process above it has ended.

    A SIGTERM ends the front process of deepspeed, which does not pass it on. The process between
    it and the ranks continues, so watching only the parent is not enough.

    Args:
        interval: seconds between checks.
    """
    launchers = launchers_above()
    if launchers:
        threading.Thread(target=_watch, args=(launchers, interval), daemon=True).start()


def _watch(launchers: dict[int, str], interval: float) -> None:
    while all(start_time(pid) == start for pid, start in launchers.items()):
        time.sleep(interval)
    os.kill(os.getpid(), signal.SIGTERM)
