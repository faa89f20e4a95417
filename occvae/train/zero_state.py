"""Full tensors of a DeepSpeed engine, whichever way ZeRO partitions them among the ranks.

A checkpoint holds weights and AdamW moments by the parameter's name, so it does not depend on the
number of ranks or the ZeRO stage. Weights are loaded into the model before DeepSpeed wraps it. The
moments exist only inside DeepSpeed's optimizer.
"""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

_MOMENTS = ("exp_avg", "exp_avg_sq")
_Module = TypeVar("_Module", bound=nn.Module)


def moment_names(module: nn.Module) -> set[str]:
    """Returns the keys that `get_moments` returns for a model."""
    return {f"{moment}.{name}" for name, _ in _trained(module) for moment in _MOMENTS}


def create_moments(engine: Any, step: int) -> None:
    """Creates moments of zeros in the optimizer, as AdamW does in its first step.

    New runs need this too. Otherwise DeepSpeed would link parameters to their parts of the flat
    moments after the step of the first parameter group, before the other groups have moments.

    Args:
        engine: DeepSpeed engine.
        step: number of optimizer steps to record with the moments.
    """
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    optimizer = zero.optimizer if stage else zero
    held = zero.fp32_partitioned_groups_flat if stage == 3 else _held(optimizer)
    fused = optimizer.defaults["fused"]
    for parameter in held:
        optimizer.state[parameter] = {
            # Fused implementations read the step on the device.
            "step": torch.tensor(float(step), device=parameter.device if fused else "cpu"),
            **{moment: torch.zeros_like(parameter, requires_grad=False) for moment in _MOMENTS},
        }
    if stage in (1, 2):
        zero._lazy_init_hp_params_optimizer_state()


def get_moments(engine: Any) -> dict[str, torch.Tensor]:
    """Returns the full moments "exp_avg.NAME" and "exp_avg_sq.NAME" on the CPU. Collective.

    Only rank 0 gets them. The others get an empty dict.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    stage, first = engine.zero_optimization_stage(), dist.get_rank() == 0
    moments = {}
    for name, parameter in _trained(engine.module):
        for moment in _MOMENTS:
            if stage:
                whole = safe_get_full_optimizer_state(parameter, moment)
            else:
                whole = engine.optimizer.state[parameter][moment]
            if first:
                moments[f"{moment}.{name}"] = whole.detach().cpu().clone()
    return moments


def set_moments(engine: Any, moments: dict[str, torch.Tensor]) -> None:
    """Restores the moments of an optimizer. Collective.

    Args:
        engine: DeepSpeed engine, after `create_moments`.
        moments: moments from `get_moments`. Only those of rank 0 are read. It sends them to the
            others.
    """
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    stage = engine.zero_optimization_stage()
    for name, parameter in _trained(engine.module):
        for moment in _MOMENTS:
            whole = torch.empty(_whole_shape(parameter), device=engine.device)
            if dist.get_rank() == 0:
                whole.copy_(moments[f"{moment}.{name}"])
            if dist.get_world_size() > 1:
                dist.broadcast(whole, 0)
            if stage == 3:
                safe_set_local_optimizer_state(parameter, _own_share(whole, parameter), moment)
            elif stage:
                safe_set_full_optimizer_state(parameter, whole, moment)
            else:
                engine.optimizer.state[parameter][moment].copy_(whole)


def empty_copy(module: _Module) -> _Module:
    """Copies a model without its weights, for `gathered_copy`. Call it before DeepSpeed starts."""
    empty = copy.deepcopy(module).cpu()
    for parameter in empty.parameters():
        parameter.data = parameter.data.new_empty(0)
    return empty


@torch.no_grad()
def gathered_copy(module: nn.Module, empty: _Module) -> _Module:
    """Returns a copy of a model under ZeRO-3 with all its weights, on its device. Collective.

    Args:
        module: model that ZeRO-3 partitions.
        empty: result of `empty_copy` for the same model.
    """
    import deepspeed

    whole = copy.deepcopy(empty)
    for shared, parameter in zip(module.parameters(), whole.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([shared]):
            parameter.data = shared.detach().clone()
    for here, there in zip(module.buffers(), whole.buffers(), strict=True):
        there.copy_(here)
    return whole.to(next(module.parameters()).device)


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def _whole_shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def _own_share(whole: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """Returns this rank's part of a tensor under ZeRO-3, which pads the last part with zeros.

    DeepSpeed's own function fails if the size is not divisible by the number of ranks.
    """
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # ZeRO-3 adds it
    flat = torch.zeros(size * dist.get_world_size(), device=whole.device)
    flat[: whole.numel()] = whole.flatten()
    return flat.narrow(0, size * dist.get_rank(), size)


def _held(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
