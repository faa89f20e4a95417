"""An evaluation shared among the processes that torchrun or deepspeed has started.

Each computes a part and all get the whole, in one order, so that nothing in it tells how many they
were. No more than gloo is needed: what they exchange are figures of shapes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from occvae.errors import UserError

_TIMEOUT = timedelta(hours=2)  # the slowest rank keeps the others waiting
_Result = TypeVar("_Result")


@contextmanager
def processes() -> Iterator[torch.device]:
    """Meets the other processes, if a launcher announced any; yields the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield _device()
        return
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
    torch.set_num_threads(max(1, _num_cores() // local_ranks))
    try:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    except (dist.DistError, ValueError) as error:
        raise UserError(f"the ranks cannot meet: {str(error).splitlines()[0]}") from None
    try:
        yield _device()
        # A gloo process that exits while others still talk aborts.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def from_all_ranks(function: Callable[[], _Result]) -> list[_Result]:
    """What the function returns on each rank, to all of them.

    A mistake of the user on one rank ends all: the first rank raises it, the others leave with
    status 2 and without a word.
    """
    result, failure = None, None
    try:
        result = function()
    except (UserError, OSError) as error:
        if world_size() == 1:
            raise
        failure = str(error)
    if world_size() == 1:
        return [result]
    outcomes = [None] * world_size()
    dist.all_gather_object(outcomes, (result, failure))
    failures = [message for _, message in outcomes if message is not None]
    if failures:
        raise UserError(failures[0]) if rank() == 0 else SystemExit(2)
    return [result for result, _ in outcomes]


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device(
        "cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    )
    torch.cuda.set_device(device)
    return device


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
