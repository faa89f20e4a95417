"""Processes: how ranks find each other, agree, and fail together."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from occvae.errors import UserError

TIMEOUT = timedelta(minutes=30)


@contextmanager
def distributed() -> Iterator[torch.device]:
    """Joins the process group that the launcher announced, or one of a single process.

    Yields this rank's device. Leaves through a barrier when all went well: a gloo process that
    exits while others still talk aborts, and its launcher reports a failed run.
    """
    _complete_environment()
    device = _local_device()
    _share_cores(int(os.environ["LOCAL_WORLD_SIZE"]))
    deepspeed = _import_deepspeed(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        deepspeed.init_distributed(dist_backend=backend, timeout=TIMEOUT, verbose=False)
    except dist.DistError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the ranks cannot meet at {place} ({reason}); try another --master_port"
        ) from None
    yield device
    dist.barrier()
    dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank()


def world_size() -> int:
    return dist.get_world_size()


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank when it is true on one: ranks must take branches together."""
    if world_size() == 1:
        return flag
    tensor = torch.tensor(int(flag), device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor.item())


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


def from_first_rank(function: Callable[[], Any]) -> Any:
    """The result of a function that only rank 0 runs.

    Its mistakes of the user end every rank: as `UserError` on rank 0, which tells them, and as
    `ToldByFirstRank` on the others.
    """
    outcome, failure = [None, False], None
    if rank() == 0:
        try:
            outcome[0] = function()
        except (UserError, OSError) as error:
            outcome[1], failure = True, UserError(str(error))
    if world_size() > 1:
        dist.broadcast_object_list(outcome)
    if outcome[1]:
        raise failure or ToldByFirstRank("see rank 0")
    return outcome[0]


class ToldByFirstRank(UserError):
    """A mistake that rank 0 has named already."""


def _complete_environment() -> None:
    """What the deepspeed launcher, torchrun and plain python leave out."""
    env = os.environ
    for name in ("RANK", "LOCAL_RANK"):
        env.setdefault(name, "0")
    env.setdefault("WORLD_SIZE", "1")
    env.setdefault("LOCAL_WORLD_SIZE", env.get("LOCAL_SIZE", "1"))  # deepspeed's name for it
    env.setdefault("MASTER_ADDR", "127.0.0.1")
    if env["WORLD_SIZE"] == "1" and "TORCHELASTIC_RUN_ID" not in env:
        # Nobody else must find it, and the launchers' usual port may be another run's. torchrun,
        # though, serves the port itself.
        env["MASTER_PORT"] = str(_free_port())
    env.setdefault("MASTER_PORT", "29500")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _local_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _share_cores(num_local_ranks: int) -> None:
    """Each rank taking all cores makes two ranks on two cores a hundred times slower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, cores // num_local_ranks))


def _import_deepspeed(device: torch.device):
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import logging

    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
