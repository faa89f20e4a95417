"""The device of a process, its share of the CPU cores, and timeouts of process groups."""

import os
import re
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from occvae.errors import UserError
from occvae.system.openmp import chosen_threads, usable_cores


def set_time_limit(limit: timedelta, group: dist.ProcessGroup) -> None:
    """Sets how long this rank waits for the other ranks of a group."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(limit, group)
    else:  # its name in older versions of torch
        dist.distributed_c10d._set_pg_timeout(limit, group)


def local_device(name: str | None = None) -> torch.device:
    """Returns the device of this rank and makes it the current GPU if it is one.

    Args:
        name: "cpu", "cuda", or a GPU such as "cuda:1". "cuda" is the GPU by LOCAL_RANK. None is
            "cuda" if there are GPUs, otherwise "cpu".

    Raises:
        UserError: this machine has no such device, or ranks would share a GPU.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = _named_device(name)
    if device.type == "cpu":
        return device
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "cuda":
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
    elif local_rank:
        raise UserError(f"--device {name}: ranks cannot share a GPU; use --device cuda")
    torch.cuda.set_device(device)
    return device


def _named_device(name: str) -> torch.device:
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise UserError(f"--device {name}: choose cpu, cuda, or a GPU such as cuda:1")
    count = torch.cuda.device_count()
    if name != "cpu" and count == 0:
        raise UserError(f"--device {name}: no GPU is visible; `occvae info` prints what is found")
    if match[1] is not None and int(match[1]) >= count:
        raise UserError(f"--device {name}: there are {count} GPU(s), numbered from 0")
    return torch.device(name)


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
