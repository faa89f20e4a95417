"""Ranks: how they meet, communicate, and stop together on a failure."""

import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import ModuleType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from occvae.errors import UserError
from occvae.system.devices import local_device, set_time_limit, share_cores
from occvae.system.openmp import busy_cores, chosen_threads, usable_cores
from occvae.system.verbosity import is_verbose
from occvae.train.failures import MachineFailure, ReportedByPeer, exit_status
from occvae.train.launch import check_address, choose_interface
from occvae.train.watch import watch_launchers

_Result = TypeVar("_Result")

# Seconds between heartbeats of rank 0 while it writes, reads or builds alone.
_HEARTBEAT_SECONDS = 1.0
# At the start, ranks wait this many times longer for each other, because nodes do not start at the
# same time.
_START_FACTOR = 10


class _Waiting:
    """How long ranks wait for each other, and the group for messages from rank 0."""

    step = timedelta(seconds=60)
    first_rank: dist.ProcessGroup | None = None


@contextmanager
def distributed(timeout: float, device_name: str | None = None) -> Iterator[torch.device]:
    """Joins the process group that the launcher announced, or a group of a single process.

    After success the ranks leave together through a barrier. A gloo process that exits while others
    still communicate would abort, and its launcher would report a failed run.

    Args:
        timeout: seconds to wait for ranks that do not answer, see `begin_time_limits`. Until then
            ranks wait ten times as long.
        device_name: device of the ranks, see `local_device`.

    Yields:
        The device of this rank.

    Raises:
        MachineFailure: the ranks do not meet.
        UserError: the port is in use, MASTER_ADDR is unknown, or there is no such device.
    """
    watch_launchers()
    env = os.environ
    if env["WORLD_SIZE"] == "1" and "TORCHELASTIC_RUN_ID" not in env:
        # Another run may use the launchers' default port. A single process can take any free port,
        # except under torchrun, which serves the port itself.
        env["MASTER_PORT"] = str(_free_port())
    check_address(env)
    device = local_device(device_name)
    deepspeed = _import_deepspeed(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    choose_interface(env)
    _Waiting.step = timedelta(seconds=timeout)
    try:
        starting = _START_FACTOR * _Waiting.step
        deepspeed.init_distributed(dist_backend=backend, timeout=starting, verbose=False)
        # This group uses gloo also on GPUs, because a rank that waits for rank 0 must handle
        # signals and must not spin.
        group = dist.new_group(timeout=starting, backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # every rank is a member
        _Waiting.first_rank = group
    except RuntimeError as error:
        raise _not_met(error, starting) from None
    _choose_threads()
    yield device
    dist.barrier()
    dist.destroy_process_group()


def _choose_threads() -> None:
    """Gives this rank its share of the cores that other programs leave free. Collective.

    A thread that shares its core with another program delays all threads in every parallel region.
    """
    dist.barrier(_Waiting.first_rank)  # no rank computes while the others measure
    cores = usable_cores()
    busy = 0.0 if chosen_threads() else busy_cores(cores)
    share_cores(_Waiting.first_rank, round(busy))
    if rank() == 0 and round(busy):
        print(
            f"warning: other programs keep {busy:.1f} of {len(cores)} cores busy, so this training "
            f"uses {torch.get_num_threads()} thread(s) per rank; set OMP_NUM_THREADS for another "
            "number",
            file=sys.stderr,
        )


def _not_met(error: RuntimeError, waited: timedelta) -> UserError:
    env, reason = os.environ, str(error).splitlines()[0]
    place = f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}"
    if "EADDRINUSE" in reason:
        return UserError(f"port {env['MASTER_PORT']} is in use; choose another --master_port")
    joined = re.search(r"(\d+)/(\d+) clients joined", reason)
    if joined:
        return MachineFailure(
            f"only {joined[1]} of {joined[2]} ranks came to {place} within {waited.seconds} s"
        )
    if env["LOCAL_RANK"] != "0":
        return ReportedByPeer("see the first rank of this node")
    return MachineFailure(f"the ranks cannot meet at {place} ({reason[:200]})")


def begin_time_limits() -> None:
    """Starts to apply the timeout: from here on, waiting longer for a rank ends the run.

    It applies to all process groups. Those that DeepSpeed created would otherwise wait for half an
    hour.
    """
    for group in list(dist.distributed_c10d._world.pg_map):
        set_time_limit(_Waiting.step, group)


def rank() -> int:
    """Returns the number of this rank."""
    return dist.get_rank()


def world_size() -> int:
    """Returns the number of ranks."""
    return dist.get_world_size()


def all_reduce_max(number: int | torch.Tensor, device: torch.device) -> int:
    """Returns the largest of the ranks' numbers, so that all ranks take the same branch."""
    return int(max_over_ranks(torch.as_tensor(number, device=device)).item())


def all_numbers(mine: list[int], device: torch.device) -> list[int]:
    """Returns the numbers of all ranks in rank order. Every rank must give equally many."""
    numbers = torch.tensor(mine, dtype=torch.int64, device=device)
    gathered = [torch.empty_like(numbers) for _ in range(world_size())]
    dist.all_gather(gathered, numbers)
    return torch.cat(gathered).tolist()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sums a tensor over the ranks in place and returns it. Collective."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Takes the elementwise maximum over the ranks in place and returns it. Collective."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def broadcast_model(model: torch.nn.Module, device: torch.device) -> None:
    """Moves a model to a device and copies weights and buffers from rank 0. Collective."""
    model.to(device)
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def from_first_rank(function: Callable[[], _Result]) -> _Result:
    """Runs a function on rank 0 only. Every rank gets its result.

    The other ranks wait as long as rank 0 sends heartbeats.

    Raises:
        UserError: the function raised it on rank 0. The other ranks raise `ReportedByPeer`.
        OSError: as for UserError.
    """
    outcome: list[Any] = [None, 0]  # a result, or the exit status
    failure: Exception | None = None
    if rank() == 0:
        with _heartbeat():
            try:
                outcome[0] = function()
            except (UserError, OSError) as error:
                outcome[1], failure = exit_status(error), error
    else:
        _wait_for_first_rank()
    if world_size() > 1:
        dist.broadcast_object_list(outcome, group=_Waiting.first_rank)
    if outcome[1]:
        raise failure or ReportedByPeer("see rank 0", outcome[1])
    return outcome[0]


@contextmanager
def _heartbeat() -> Iterator[None]:
    """Sends heartbeats from rank 0 while the context lasts, see `_wait_for_first_rank`."""
    if world_size() == 1:
        yield
        return
    done = threading.Event()
    failures: list[Exception] = []

    def beat() -> None:
        try:
            while not done.wait(_HEARTBEAT_SECONDS):
                dist.broadcast(torch.zeros(1), 0, _Waiting.first_rank)
        except RuntimeError as error:
            failures.append(error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]
    dist.broadcast(torch.ones(1), 0, _Waiting.first_rank)


def _wait_for_first_rank() -> None:
    """Waits until rank 0 leaves `_heartbeat`.

    A rank blocked in a collective cannot handle signals. Each heartbeat completes a collective, so
    this rank can handle signals about once per second.
    """
    done = torch.zeros(1)
    while not done:
        dist.broadcast(done, 0, _Waiting.first_rank)


def on_every_rank(function: Callable[[], _Result], device: torch.device) -> _Result:
    """Runs a function on every rank. If it fails on some ranks, all ranks stop.

    Returns:
        The result of this rank.

    Raises:
        UserError: the function raised it on this rank, which is the lowest rank with a failure. The
            other ranks raise `ReportedByPeer` with the same exit status.
        OSError: as for UserError.
    """
    result: Any = None
    failure: Exception | None = None
    try:
        result = function()
    except (UserError, OSError) as error:
        failure = error
    status = 0 if failure is None else exit_status(failure)
    statuses = all_numbers([status], device)
    if any(statuses):
        first = next(rank for rank, status in enumerate(statuses) if status)
        if failure is not None and rank() == first:
            raise failure
        raise ReportedByPeer(f"see rank {first}", statuses[first])
    return result


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _import_deepspeed(device: torch.device) -> ModuleType:
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import logging

    import deepspeed

    if not is_verbose():
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
