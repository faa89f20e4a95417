"""Processes: how ranks find each other, agree, and fail together."""

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
from occvae.train.failures import MachineFailure, ReportedByPeer, exit_status
from occvae.train.launch import check_address, choose_interface
from occvae.train.watch import watch_launchers

_Result = TypeVar("_Result")

# Seconds between the first rank's heartbeats while it writes, reads or builds alone.
_HEARTBEAT_SECONDS = 1.0
# Nodes do not start at the same time: how much longer ranks wait for each other then.
_STARTING = 10


class _Waiting:
    """How long the ranks wait for each other, and where they hear from the first one."""

    step = timedelta(seconds=60)
    first_rank: dist.ProcessGroup | None = None


@contextmanager
def distributed(timeout: float) -> Iterator[torch.device]:
    """Joins the process group that the launcher announced, or one of a single process.

    Yields this rank's device. Leaves through a barrier when all went well: a gloo process that
    exits while others still talk aborts, and its launcher reports a failed run.

    Args:
        timeout: seconds after which ranks that do not answer are given up, see
            `begin_time_limits`; ten times as long in the beginning.

    Raises:
        MachineFailure: the ranks do not meet.
    """
    watch_launchers()
    env = os.environ
    if env["WORLD_SIZE"] == "1" and "TORCHELASTIC_RUN_ID" not in env:
        # Nobody else must find it, and the launchers' usual port may be another run's. torchrun,
        # though, serves the port itself.
        env["MASTER_PORT"] = str(_free_port())
    check_address(env)
    device = local_device()
    deepspeed = _import_deepspeed(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    choose_interface(env)
    _Waiting.step = timedelta(seconds=timeout)
    try:
        starting = _STARTING * _Waiting.step
        deepspeed.init_distributed(dist_backend=backend, timeout=starting, verbose=False)
        # Of gloo on GPUs, too: who waits for the first rank must hear signals, and not spin.
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
    """Collective: gives this rank its share of the cores that other work leaves free.

    A thread that shares its core with other work keeps the others waiting in every parallel region.
    """
    dist.barrier(_Waiting.first_rank)  # no rank works while the others measure
    cores = usable_cores()
    busy = 0.0 if chosen_threads() else busy_cores(cores)
    share_cores(_Waiting.first_rank, round(busy))
    if rank() == 0 and round(busy):
        print(
            f"warning: other work keeps {busy:.1f} of {len(cores)} cores busy, so this training "
            f"uses {torch.get_num_threads()} thread(s) a rank; set OMP_NUM_THREADS for another "
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
    """From here on a rank that keeps the others waiting is given up.

    For all groups, those that DeepSpeed has made for gradients included: they would wait for half
    an hour.
    """
    for group in list(dist.distributed_c10d._world.pg_map):
        set_time_limit(_Waiting.step, group)


def rank() -> int:
    return dist.get_rank()


def world_size() -> int:
    return dist.get_world_size()


def all_reduce_max(number: int | torch.Tensor, device: torch.device) -> int:
    """Of the ranks' numbers: ranks must take branches together."""
    return int(max_over_ranks(torch.as_tensor(number, device=device)).item())


def all_numbers(mine: list[int], device: torch.device) -> list[int]:
    """Those of all ranks, each of which has as many."""
    numbers = torch.tensor(mine, dtype=torch.int64, device=device)
    gathered = [torch.empty_like(numbers) for _ in range(world_size())]
    dist.all_gather(gathered, numbers)
    return torch.cat(gathered).tolist()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def broadcast_model(model: torch.nn.Module, device: torch.device) -> None:
    """Moves a model to the device, with the weights and buffers of the first rank."""
    model.to(device)
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def from_first_rank(function: Callable[[], _Result]) -> _Result:
    """The result of a function that only rank 0 runs.

    Its mistakes of the user end every rank: as `UserError` on rank 0, which tells them, and as
    `ReportedByPeer` on the others, which wait for it for as long as it gives heartbeats.
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
    """Of the first rank, for `_wait_for_first_rank` of the others."""
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
    """A rank blocked in a collective cannot handle signals, so it returns on each heartbeat."""
    done = torch.zeros(1)
    while not done:
        dist.broadcast(done, 0, _Waiting.first_rank)


def on_every_rank(function: Callable[[], _Result], device: torch.device) -> _Result:
    """The result of a function that may fail on some ranks: then it ends the others, too.

    The first rank it fails on tells why, and all have its exit status.
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

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
