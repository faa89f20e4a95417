"""The device of a process, its share of the cores, and how long it waits for others."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist


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


def share_cores(num_local_ranks: int) -> None:
    """Each rank taking all cores makes two ranks on two cores a hundred times slower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, cores // num_local_ranks))
