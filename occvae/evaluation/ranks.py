"""Evaluation on several ranks, started by torchrun or deepspeed.

Each rank computes a part of the shapes. All ranks get the scores of all shapes in the order of the
split, so the report does not depend on the number of ranks. Ranks exchange scores only, so gloo is
fast enough on GPUs too.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from tqdm import tqdm

from occvae.errors import UserError
from occvae.system.devices import local_device, set_time_limit, share_cores
from occvae.system.launchers import check_hostfile
from occvae.system.verbosity import is_quiet

_START_TIMEOUT = timedelta(minutes=10)  # nodes do not start at the same time
_RANK_TIMEOUT = timedelta(hours=2)  # how long the fastest rank waits for the slowest
_Result = TypeVar("_Result")


@contextmanager
def processes(device_name: str | None = None) -> Iterator[torch.device]:
    """Joins the other ranks, if a launcher started any.

    A process can do this only once. Under torchrun, a second call would find the addresses of the
    first call, which are closed by then.

    Args:
        device_name: device of the ranks, see `local_device`.

    Yields:
        The device of this rank.

    Raises:
        UserError: the ranks do not meet, there is no such device, or deepspeed did not find its
            hostfile.
        SystemExit: likewise on the other ranks, if every rank fails in the same way.
    """
    device = _check_start(device_name)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    try:
        dist.init_process_group("gloo", timeout=_START_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the ranks cannot meet: {str(error).splitlines()[0]}") from None
    share_cores()
    everyone = dist.group.WORLD
    assert everyone is not None  # init_process_group has created it
    set_time_limit(_RANK_TIMEOUT, everyone)
    try:
        yield device
        _leave_together()
    finally:
        dist.destroy_process_group()


def _check_start(device_name: str | None) -> torch.device:
    try:
        check_hostfile()
        return local_device(device_name)
    except UserError:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2) from None
        raise


def rank() -> int:
    """Returns the rank of this process, 0 without a launcher."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of ranks, 1 without a launcher."""
    return dist.get_world_size() if dist.is_initialized() else 1


def raise_together(function: Callable[[], _Result]) -> _Result:
    """Runs a function on every rank. If it fails on a rank, all ranks stop. Collective.

    Calls must not be nested.

    Returns:
        The result of this rank.

    Raises:
        UserError: on rank 0, if the function raised `UserError` or `OSError` on a rank.
        SystemExit: on the other ranks, which then exit silently with status 2.
    """
    if world_size() == 1:
        return function()
    result: Any = None
    failure: str | None = None
    try:
        result = function()
    except (UserError, OSError) as error:
        failure = str(error)
    failures = [message for message in gather(failure) if message is not None]
    if failures:
        raise UserError(failures[0]) if rank() == 0 else SystemExit(2)
    return result


def gather(value: _Result) -> list[_Result]:
    """Returns the values of all ranks in rank order. Collective."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def map_over_ranks(
    numbers: Sequence[int], function: Callable[[int], _Result], label: str
) -> list[_Result]:
    """Maps `function` over `numbers`, striped across ranks. Every rank gets all results.

    Args:
        numbers: arguments of `function`.
        function: computes one result. Results must be picklable.
        label: label of the progress bar.
    """
    mine = numbers[rank() :: world_size()]
    # The bar is closed before an error is printed, so that the error starts a new line.
    with tqdm(mine, label, unit="shape", mininterval=1.0, disable=rank() > 0 or is_quiet()) as bar:
        part = raise_together(lambda: [function(number) for number in bar])
    parts = gather(part)
    return [parts[i % len(parts)][i // len(parts)] for i in range(len(numbers))]


def _leave_together() -> None:
    """Waits for the other ranks, because gloo aborts in a process that exits before them."""
    try:
        dist.barrier()
    except RuntimeError:  # rank 0 failed in work of its own and reported why
        raise SystemExit(2) from None
