"""Checks of free memory before it is allocated, so that too large requests do not crash."""

from __future__ import annotations

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_UNQUERIED_SHARE = 1 / 100  # of the memory of a GPU


def require_memory(needed: int, device: torch.device, purpose: str, advice: str) -> int | None:
    """Checks that a device has enough free memory.

    On CUDA, a request of less than a hundredth of the device's memory passes without a query. The
    query takes longer than a small mesh. An allocation that fails there raises an error of PyTorch,
    and does no harm.

    Args:
        needed: bytes that will be allocated.
        device: device to allocate them on.
        purpose: what needs the memory, for the error message.
        advice: what the user can do instead, for the error message.

    Returns:
        The result of `available_memory`, or None for a small request on CUDA.

    Raises:
        MemoryError: the device has less free memory. The message is
            "PURPOSE needs ... GiB, ... GiB are free on DEVICE: ADVICE".
    """
    if device.type == "cuda" and needed < _UNQUERIED_SHARE * total_cuda_memory(device):
        return None
    free = available_memory(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"{purpose} needs {_size(needed)}, {_size(free)} are free on {device.type}: {advice}"
        )
    return free


class FreeMemory:
    """Checks repeated allocations on one device, and queries the device only rarely.

    A request of up to a quarter of the last known free memory passes without a query. This is safe
    if at most three times the request was allocated since the query.

    Args:
        device: device to allocate on.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._free: int | None = None

    def require(self, needed: int, purpose: str, advice: str, *, kept: int = 0) -> None:
        """Checks a request like `require_memory`.

        Args:
            needed: bytes that will be allocated.
            purpose: what needs the memory, for the error message.
            advice: what the user can do instead, for the error message.
            kept: how many of these bytes stay allocated.

        Raises:
            MemoryError: the device has less free memory.
        """
        if self._free is None or 4 * needed > self._free:
            self._free = require_memory(needed, self._device, purpose, advice)
        if self._free is not None:
            self._free -= kept


def available_memory(device: torch.device) -> int | None:
    """Returns the free bytes of a device, or None if unknown. CPU memory is known on Linux only."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_machine_memory(), _container_memory()) if limit is not None]
    return min(limits, default=None)


def total_cuda_memory(device: torch.device) -> int:
    """Returns all bytes of a GPU. PyTorch keeps this number, so no call of the driver is made."""
    return torch.cuda.get_device_properties(device).total_memory


def _machine_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return next(sizes, None)


def _container_memory() -> int | None:
    """Returns the free bytes below the limit of a container, or None without one.

    Inactive file cache counts as free.
    """
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        statistics = (_CGROUP / "memory.stat").read_text(encoding="ascii").split()
        files = int(statistics[statistics.index("inactive_file") + 1])
        return max(int(limit) - used + files, 0) if limit != "max" else None
    except (OSError, ValueError):
        return None


def _size(count: int) -> str:
    """Formats bytes in GiB, or in MiB if they are less than 0.1 GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
