"""Free memory, asked before it is used: a request that cannot fit is an error and not a crash."""

from __future__ import annotations

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def require_memory(needed: int, device: torch.device, purpose: str, advice: str) -> int | None:
    """MemoryError "<purpose> needs ... GiB, ... GiB are free: <advice>" when it would not fit.

    Args:
        needed: bytes.
        purpose, advice: what needs them, and what the user can do about it.

    Returns:
        available_memory(device).
    """
    free = available_memory(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"{purpose} needs {_size(needed)}, {_size(free)} are free on {device.type}: {advice}"
        )
    return free


class FreeMemory:
    """require_memory() of one device for needs that grow, without asking it each time.

    The device is asked again only for more than a quarter of what it last had: the rest has room
    for what was taken since, as long as that is no more than three times the need.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._free: int | None = None

    def require(self, needed: int, purpose: str, advice: str, *, kept: int = 0) -> None:
        """As require_memory(); `kept` of these bytes will be taken for good."""
        if self._free is None or 4 * needed > self._free:
            self._free = require_memory(needed, self._device, purpose, advice)
        if self._free is not None:
            self._free -= kept


def available_memory(device: torch.device) -> int | None:
    """Free bytes of a device, or None where the system does not tell (for CPUs only Linux does)."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_machine_memory(), _container_memory()) if limit is not None]
    return min(limits, default=None)


def _machine_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return next(sizes, None)


def _container_memory() -> int | None:
    """What a container's limit leaves; memory that holds copies of files counts as free."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        statistics = (_CGROUP / "memory.stat").read_text(encoding="ascii").split()
        files = int(statistics[statistics.index("inactive_file") + 1])
        return max(int(limit) - used + files, 0) if limit != "max" else None
    except (OSError, ValueError):
        return None


def _size(count: int) -> str:
    """Bytes in GiB, or in MiB where that would be 0.0."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
