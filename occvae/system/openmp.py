"""OpenMP threads of a process: how long they spin while they wait, and how many there are."""

import os
import time
from pathlib import Path

# Iterations for which a waiting thread of libgomp spins before it sleeps. With libgomp's default, a
# thread spins for milliseconds and blocks a core that another process or thread needs.
_SPIN_COUNT = "1000"
_SAMPLE_SECONDS = 0.25


def limit_spinning() -> None:
    """Makes waiting OpenMP threads sleep soon. Call it before torch is imported.

    It does nothing if the user has set OMP_WAIT_POLICY or GOMP_SPINCOUNT.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def chosen_threads() -> int | None:
    """Returns the number of threads in OMP_NUM_THREADS, or None if the user has not set it.

    torchrun sets OMP_NUM_THREADS=1 for its ranks if the user has not. That value is ignored.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not text.isdecimal() or int(text) == 0:
        return None
    if text == "1" and "TORCHELASTIC_RUN_ID" in os.environ and not _parent_has("OMP_NUM_THREADS"):
        return None
    return int(text)


def usable_cores() -> frozenset[int]:
    """Returns the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def busy_cores(cores: frozenset[int]) -> float:
    """Returns how many of the cores other processes keep busy, on average over 0.25 seconds.

    The calling process must be idle meanwhile. The result is 0 if the system lacks /proc/stat.
    """
    before = _times(cores)
    time.sleep(_SAMPLE_SECONDS)
    after = _times(cores)
    busy = 0.0
    for core in before.keys() & after.keys():
        idle, total = (now - then for now, then in zip(after[core], before[core], strict=True))
        busy += 1.0 - idle / total if total else 0.0
    return busy


def _times(cores: frozenset[int]) -> dict[int, tuple[int, int]]:
    """Returns the idle and the total ticks of each core since the machine started."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines if line.startswith("cpu"))
    ticks = {int(row[0][3:]): [int(word) for word in row[1:9]] for row in rows if row[0] != "cpu"}
    # Fields: user, nice, system, idle, iowait, irq, softirq, steal (man 5 proc).
    return {core: (t[3] + t[4], sum(t)) for core, t in ticks.items() if core in cores}


def _parent_has(variable: str) -> bool:
    """Returns whether the parent process was started with an environment variable."""
    try:
        environment = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return True
    return any(entry.startswith(f"{variable}=".encode()) for entry in environment)
