"""The device of a process, its share of the cores, and how long it waits for others."""

import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from occvae.system.openmp import chosen_threads, usable_cores


def set_time_limit(limit: timedelta, group: dist.ProcessGroup) -> None:
    """How long this rank waits for the others of the group from here on."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(limit, group)
    else:  # what it was called before
        dist.distributed_c10d._set_pg_timeout(limit, group)


def local_device() -> torch.device:
    """Of this rank on its node."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device(
        "cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    )
    torch.cuda.set_device(device)
    return device


def share_cores(group: dist.ProcessGroup | None = None, busy: int = 0) -> None:
    """Collective: divides the cores of each host among the ranks that may run on them.

    Ranks that each take all cores wait for one another most of the time. Ranks that their launcher
    has bound to cores of their own keep these. OMP_NUM_THREADS decides where the user has set it.

    Args:
        group: of the ranks, on the CPU; None is the default group.
        busy: cores that other work keeps busy, which are left to it.
    """
    cores = usable_cores()
    mine = (socket.gethostname(), cores)
    places: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(places, mine, group=group)
    sharing = sum(host == mine[0] and bool(cores & others) for host, others in places)
    threads = chosen_threads() or max(1, (len(cores) - busy) // sharing)
    torch.set_num_threads(threads)
