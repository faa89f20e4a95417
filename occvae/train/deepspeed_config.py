"""The configuration for DeepSpeed: the settings of a run, merged with a user's JSON file.

Each setting of a run has one place. A key of the JSON file falls into one of three groups:

- It adds to the settings (bucket sizes, overlap, profilers). It is passed on.
- It repeats a setting. It must have the same value.
- It would be ignored, or would change what a checkpoint holds. It is refused by name.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from occvae.errors import UserError
from occvae.train.config import TrainConfig
from occvae.train.precision import autocast_dtype

Config = dict[str, Any]

# Keys of DeepSpeed's configuration that do not change what a checkpoint holds.
_PASSED_ON = (
    "communication_data_type comms_logger dump_state flops_profiler gradient_predivide_factor "
    "memory_breakdown prescale_gradients steps_per_print timers wall_clock_breakdown "
    "zero_optimization"
).split()
_ADVICE = {
    "activation_checkpointing": "set activation_checkpointing=true",
    "amp": "set precision",
    "checkpoint": "checkpoints are occvae's own, and resume on any number of ranks",
    "csv_monitor": "metrics are in the run folder",
    "data_types": "set precision",
    "elasticity": "checkpoints resume on any number of ranks without it",
    "optimizer": "the optimizer is AdamW; set optim.lr and optim.weight_decay",
    "scheduler": "set optim.schedule and optim.warmup_steps",
    "tensorboard": "metrics are in the run folder",
    "torch_autocast": "set precision",
    "wandb": "set wandb_project",
}
_BATCH = {
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
}
_COMMUNICATION = ("fp32", "fp16", "bf16")
_OFFLOAD_OPTIONS = {"device", "pin_memory"}


def resolve_deepspeed(config: TrainConfig, world_size: int, device_type: str) -> TrainConfig:
    """Returns the config with the content of its `deepspeed_config` in place of the file name.

    Values that repeat a setting are left out of the content.

    Args:
        config: settings of the run.
        world_size: number of ranks.
        device_type: "cpu" or "cuda".

    Raises:
        UserError: the device lacks the precision, the file cannot be read, or one of its keys is
            refused or contradicts a setting.
    """
    autocast_dtype(config.precision, device_type)
    own = config.deepspeed_config
    if own is None:
        return config
    own = _without_auto(_read(own) if isinstance(own, str) else own)
    _check_batch(own, config, world_size)
    _check_blocks(own, device_type)
    _check_zero(own.get("zero_optimization", {}), config, device_type)
    return dataclasses.replace(config, deepspeed_config=_beside_ours(own))


def _beside_ours(own: Config) -> Config:
    """Drops the values that repeat a setting, because a resume may change the setting."""
    kept = {name: value for name, value in own.items() if name not in _BATCH}
    if "zero_optimization" in kept:
        zero = {k: v for k, v in kept["zero_optimization"].items() if k != "stage"}
        kept["zero_optimization"] = zero
    return kept


def make_deepspeed_config(config: TrainConfig, stage: int, dtype: torch.dtype | None) -> Config:
    """Returns the configuration for `deepspeed.initialize`.

    Args:
        config: config returned by `resolve_deepspeed`.
        stage: ZeRO stage; 0 if nothing is partitioned.
        dtype: dtype of autocast; None for fp32.
    """
    given = config.deepspeed_config or {}
    assert not isinstance(given, str)  # resolve_deepspeed has read the file
    own = {k: v for k, v in given.items() if k in _PASSED_ON}
    own.setdefault("steps_per_print", 2**31 - 1)
    zero = {**own.get("zero_optimization", {}), "stage": stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {**zero.get("offload_optimizer", {}), "device": "cpu"}
    return {
        **own,
        "train_micro_batch_size_per_gpu": config.optim.batch_size,
        "gradient_accumulation_steps": config.optim.accumulation_steps,
        # Without ZeRO, `Engine` clips, because DeepSpeed fails on parameters without gradients.
        "gradient_clipping": config.optim.clip_norm if stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own CPU optimizer would need a compiler at run time.
        "zero_force_ds_cpu_optimizer": False,
        # Autocast instead of DeepSpeed's fp16 and bf16 modes keeps parameters and checkpoints fp32.
        "torch_autocast": {
            "enabled": dtype is not None,
            "dtype": str(dtype or torch.bfloat16).removeprefix("torch."),
        },
    }


def _read(file: str) -> Config:
    try:
        content = json.loads(Path(file).read_text())
    except OSError as error:
        raise UserError(f"deepspeed_config: {file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"deepspeed_config: {file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"deepspeed_config: {file}: must hold a JSON object")
    return content


def _without_auto(content: Config) -> Config:
    """Drops values "auto", which mean that the trainer fills them in."""
    return {
        name: _without_auto(value) if isinstance(value, dict) else value
        for name, value in content.items()
        if value != "auto"
    }


def _check_batch(own: Config, config: TrainConfig, world_size: int) -> None:
    optim = config.optim
    for name, setting, value in (
        ("train_micro_batch_size_per_gpu", "optim.batch_size", optim.batch_size),
        ("gradient_accumulation_steps", "optim.accumulation_steps", optim.accumulation_steps),
        ("gradient_clipping", "optim.clip_norm", optim.clip_norm),
    ):
        _check_equal(own.get(name, value), value, name, setting)
    whole = optim.batch_size * optim.accumulation_steps * world_size
    if own.get("train_batch_size", whole) != whole:
        raise UserError(
            f"deepspeed_config: train_batch_size is {own['train_batch_size']}, but "
            f"optim.batch_size={optim.batch_size} x optim.accumulation_steps="
            f"{optim.accumulation_steps} x {world_size} rank(s) is {whole}; change one of them"
        )


def _check_blocks(own: Config, device_type: str) -> None:
    communication = own.get("communication_data_type", "fp32")
    if communication not in _COMMUNICATION:
        raise UserError(
            f"deepspeed_config: communication_data_type is {communication!r}; "
            f"choose from {', '.join(_COMMUNICATION)}"
        )
    for name in own.keys() - _BATCH - set(_PASSED_ON):
        if name in ("fp16", "bf16"):
            if isinstance(own[name], dict) and not own[name].get("enabled", False):
                continue
            advice = f"set precision={name}"
            if name == "fp16" and device_type == "cpu":
                advice = "it needs a GPU"
        else:
            advice = _ADVICE.get(name, f"only these are passed on: {', '.join(_PASSED_ON)}")
        raise UserError(f"deepspeed_config: leave out {name}: {advice}")


def _check_zero(zero: Config, config: TrainConfig, device_type: str) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    name = "zero_optimization"
    if not isinstance(zero, dict):
        raise UserError(f"deepspeed_config: {name} must be an object, got {zero!r}")
    _check_equal(zero.get("stage", config.zero_stage), config.zero_stage, f"{name}.stage")
    for unsupported in {"offload_param", "cpu_offload", "cpu_offload_param", "zenflow"} & set(zero):
        raise UserError(
            f"deepspeed_config: leave out {name}.{unsupported}: only optimizer states can be "
            "offloaded, with offload_optimizer=true"
        )
    for quantized in zero:
        if quantized.startswith("zero_quantized") and zero[quantized] and device_type == "cpu":
            raise UserError(f"deepspeed_config: leave out {name}.{quantized}: it needs a GPU")
    offload = zero.get("offload_optimizer") or {}
    if others := offload.keys() - _OFFLOAD_OPTIONS:
        named = ", ".join(sorted(others))
        raise UserError(f"deepspeed_config: leave out {name}.offload_optimizer.{named}")
    ours = "cpu" if config.offload_optimizer else "none"
    device = offload.get("device", ours)
    if device != ours:
        raise UserError(
            f"deepspeed_config: {name}.offload_optimizer.device is {device!r}, but "
            f"offload_optimizer={str(config.offload_optimizer).lower()}; change one of them"
        )
    try:
        DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([name, *map(str, first["loc"])])
        raise UserError(f"deepspeed_config: {place}: {first['msg'].lower()}") from None


def _check_equal(value: Any, ours: Any, name: str, setting: str = "zero_stage") -> None:
    if value != ours:
        raise UserError(
            f"deepspeed_config: {name} is {value!r}, but {setting}={ours}; change one of them"
        )
