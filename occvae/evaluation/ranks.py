"""An evaluation shared among the processes that torchrun or deepspeed has started.

Each computes a part and all get the whole, in one order, so that nothing in it tells how many they
were. No more than gloo is needed: what they exchange are figures of shapes.
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

_MEETING = timedelta(minutes=10)  # nodes do not start at the same time
_PATIENCE = timedelta(hours=2)  # the slowest rank keeps the others waiting
_Result = TypeVar("_Result")


@contextmanager
def processes() -> Iterator[torch.device]:
    """Meets the other processes, if a launcher announced any; yields the device of this one.

    Once in the life of a process: under torchrun a second meeting would find the addresses of the
    first, which nobody answers any more.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield local_device()
        return
    try:
        dist.init_process_group("gloo", timeout=_MEETING)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the ranks cannot meet: {str(error).splitlines()[0]}") from None
    share_cores()
    everyone = dist.group.WORLD
    assert everyone is not None  # the processes have just met
    set_time_limit(_PATIENCE, everyone)
    try:
        yield local_device()
        _leave_together()
    finally:
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def raise_together(function: Callable[[], _Result]) -> _Result:
    """What the function returns on this rank, unless it fails on any.

    A mistake of the user on one rank then ends all of them: the first one raises and so tells it,
    the others leave with status 2 and without a word. Must not be nested.
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
    """The values of all ranks, in their order, on each of them."""
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
        label: of the progress bar.
    """
    mine = numbers[rank() :: world_size()]
    # Closed before a mistake is told, which else would stand behind the bar.
    with tqdm(mine, label, unit="shape", mininterval=1.0, disable=rank() > 0) as bar:
        part = raise_together(lambda: [function(number) for number in bar])
    parts = gather(part)
    return [parts[i % len(parts)][i // len(parts)] for i in range(len(numbers))]


def _leave_together() -> None:
    """A gloo process that exits while others still talk aborts."""
    try:
        dist.barrier()
    except RuntimeError:  # the first rank has failed in what it does alone, and told why
        raise SystemExit(2) from None
