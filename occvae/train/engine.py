"""A model under DeepSpeed: mixed precision, ZeRO, gradient accumulation and clipping.

Nothing is compiled at run time: the optimiser is torch's own AdamW handed over by us.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from occvae.errors import UserError
from occvae.models.batch_norm import synchronise_batch_norm
from occvae.train import zero_state
from occvae.train.config import TrainConfig
from occvae.train.parallel import world_size


class Engine:
    """One model on this rank.

    Args:
        model: with the weights to start from, the same on every rank.
        config: of the run.
        schedule: factor of the learning rate at a step.
        device: of this rank.
        step: that the weights are of.
        moments: of the optimiser at that step, as `moments()` gives them; None on ranks other than
            the first, which hands them out.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        schedule: Callable[[int], float],
        device: torch.device,
        step: int = 0,
        moments: dict[str, torch.Tensor] | None = None,
    ):
        import deepspeed

        self.device = device
        self.dtype = _autocast_dtype(config.precision, device)
        self._stage = config.zero_stage if world_size() > 1 else 0
        # Under ZeRO-3 a rank holds its share of the weights only; whole ones go here.
        self._whole = copy.deepcopy(model).to(device) if self._stage == 3 else None
        if world_size() > 1:
            synchronise_batch_norm(model)
        model.to(device)
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.optim.weight_decay, config.optim.lr)
        )
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, schedule, step - 1),
            config=_deepspeed_config(config, self._stage, self.dtype),
        )
        zero_state.create_moments(self._engine, step)
        if step:
            zero_state.set_moments(self._engine, moments)

    def train_step(self, loss: torch.Tensor) -> None:
        """Backward of a micro step; the optimiser moves when enough have been accumulated."""
        self._engine.backward(loss)
        if self._stage == 0:
            trained = [p for p in self._engine.module.parameters() if p.requires_grad]
            for parameter in trained:
                # What a batch does not use has gradient 0, as under ZeRO, and decays like the rest.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            # DeepSpeed reports the norm under ZeRO only.
            self._grad_norm = torch.nn.utils.get_total_norm([p.grad for p in trained])
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

    def whole_model(self) -> nn.Module:
        """Collective: the model with all its weights, to predict with and to export."""
        if self._whole is None:
            return self._engine.module
        zero_state.copy_whole(self._engine.module, self._whole)
        return self._whole.train(self._engine.module.training)

    def moments(self) -> dict[str, torch.Tensor]:
        """Collective: the optimiser's moments by name of moment and parameter, on the CPU.

        Empty on ranks other than the first.
        """
        return zero_state.get_moments(self._engine)


def _deepspeed_config(config: TrainConfig, stage: int, dtype: torch.dtype | None) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": config.optim.batch_size,
        "gradient_accumulation_steps": config.optim.accumulation_steps,
        "gradient_clipping": config.optim.clip_norm,
        "zero_optimization": {"stage": stage},
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
