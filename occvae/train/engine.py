"""The only file that knows DeepSpeed: processes, the engine, its checkpoints.

Nothing is compiled at run time: the optimiser is torch's own AdamW handed over by us, and
DeepSpeed's shared-memory collective, which it would build with a C++ compiler on CPUs, is off.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from occvae.errors import UserError
from occvae.models.batch_norm import synchronise_batch_norm
from occvae.train.config import TrainConfig

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


class Engine:
    """A model under DeepSpeed: mixed precision, ZeRO, gradient accumulation and clipping."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        schedule: Callable[[int], float],
        device: torch.device,
    ):
        import deepspeed

        self.device = device
        self.dtype = _autocast_dtype(config.precision, device)
        if world_size() > 1:
            synchronise_batch_norm(model)
        model.to(device)
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.optim.weight_decay, config.optim.lr)
        )
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, schedule),
            config=_deepspeed_config(config, self.dtype),
        )

    def train_step(self, loss: torch.Tensor) -> None:
        """Backward of a micro step; the optimiser moves when enough have been accumulated."""
        self._engine.backward(loss)
        if self._engine.zero_optimization_stage() == 0:
            # DeepSpeed reports the norm under ZeRO only.
            gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
            self._grad_norm = torch.nn.utils.get_total_norm(gradients)
        self._engine.step()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._engine(*inputs)

    @property
    def precision(self) -> str:
        return "fp32" if self.dtype is None else "bf16 autocast"

    def train(self) -> None:
        self._engine.train()

    def eval(self) -> None:
        self._engine.eval()

    def grad_norm(self) -> float:
        """Of the last step, before clipping."""
        norm = self._engine.get_global_grad_norm()
        return float(self._grad_norm if norm is None else norm)

    def learning_rate(self) -> float:
        return float(self._engine.get_lr()[0])

    def save(self, folder: Path, tag: str, state: dict[str, Any]) -> None:
        """Collective: every rank must call it."""
        self._engine.save_checkpoint(str(folder), tag=tag, client_state={"occvae": state})

    def load(self, folder: Path, tag: str, device: torch.device) -> dict[str, Any]:
        """Collective; refuses when a rank cannot load what the others do."""
        reason, state = "", {}
        try:
            path, state = self._engine.load_checkpoint(str(folder), tag=tag)
            reason = "" if path is not None else "not found on this node"
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        if any_rank(bool(reason), device):
            raise UserError(f"{folder / tag}: cannot resume ({reason or 'another rank failed'})")
        return state["occvae"]


def _deepspeed_config(config: TrainConfig, dtype: torch.dtype | None) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": config.optim.batch_size,
        "gradient_accumulation_steps": config.optim.accumulation_steps,
        "gradient_clipping": config.optim.clip_norm,
        "zero_optimization": {"stage": config.zero_stage if world_size() > 1 else 0},
        "zero_allow_untested_optimizer": True,
        # Autocast rather than DeepSpeed's bf16 mode: parameters and checkpoints stay fp32.
        "torch_autocast": {
            "enabled": dtype is not None,
            "dtype": str(dtype or torch.bfloat16).removeprefix("torch."),
        },
        "steps_per_print": 2**31 - 1,
    }


def _parameter_groups(model: nn.Module, weight_decay: float, lr: float) -> list[dict[str, Any]]:
    """Decay for matrices only: decayed biases and norm scales would fight the data.

    A model's `lr_scales` are factors of the learning rate by the beginning of a parameter's name.
    """
    scales = getattr(model, "lr_scales", {})
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = next((scales[start] for start in scales if name.startswith(start)), 1.0)
            groups.setdefault((scale, parameter.dim() >= 2), []).append(parameter)
    return [
        {"params": params, "weight_decay": weight_decay if is_matrix else 0.0, "lr": scale * lr}
        for (scale, is_matrix), params in sorted(groups.items(), reverse=True, key=lambda g: g[0])
    ]


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """None for fp32."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Without bf16 multipliers autocast on a CPU only adds conversions.
        has_bf16 = not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
    if precision == "bf16" and not has_bf16:
        raise UserError(f"precision bf16: this {device.type} has no bf16 arithmetic; use fp32")
    return torch.bfloat16 if has_bf16 and precision != "fp32" else None


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    named = (line for line in lines if line.startswith(("flags", "Features")))  # x86, ARM
    return set(next(named, "").split())


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
