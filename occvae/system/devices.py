"""The device of a process, its share of the CPU cores, and timeouts of process groups."""

import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from occvae.system.openmp import chosen_threads, usable_cores


def set_time_limit(limit: timedelta, group: dist.ProcessGroup) -> None:
    """Sets how long this rank waits for the other ranks of a group."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(limit, group)
    else:  # its name in older versions of torch
        dist.distributed_c10d._set_pg_timeout(limit, group)


def local_device() -> torch.device:
    """Returns the device of this rank: a GPU by LOCAL_RANK if there are GPUs, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device(
        "cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    )
    torch.cuda.set_device(device)
    return device


def share_cores(group: dist.ProcessGroup | None = None, busy: int = 0) -> None:
    """Sets the number of threads so that the ranks of a host share its cores. Collective.

    If every rank used all cores, ranks would mostly wait for each other. A rank that its launcher
    has bound to cores of its own uses all of these. If the user has set OMP_NUM_THREADS, every rank
    uses that number of threads.

    Args:
        group: group of the ranks on CPU tensors; None is the default group.
        busy: number of cores to leave to other programs.
    """
    cores = usable_cores()
    mine = (socket.gethostname(), cores)
    places: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(places, mine, group=group)
    sharing = sum(host == mine[0] and bool(cores & others) for host, others in places)
    threads = chosen_threads() or max(1, (len(cores) - busy) // sharing)
    torch.set_num_threads(threads)
