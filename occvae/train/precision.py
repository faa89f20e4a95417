"""The precision of a training, and the loss scale that fp16 needs."""

from pathlib import Path

import torch

from occvae.errors import UserError

_NAMES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def autocast_dtype(precision: str, device_type: str) -> torch.dtype | None:
    """Returns the dtype of autocast, or None for fp32.

    Args:
        precision: "fp32", "fp16", "bf16" or "auto". "auto" chooses bf16 if the hardware has bf16
            arithmetic, otherwise fp32.
        device_type: "cpu" or "cuda".

    Raises:
        UserError: the device does not support the precision.
    """
    if precision == "fp32":
        return None
    if precision == "fp16" and device_type == "cpu":
        raise UserError(
            "precision fp16: needs a GPU; use fp32, or bf16 if the CPU has bf16 arithmetic"
        )
    if precision != "fp16" and not _has_bf16(device_type):
        if precision == "bf16":
            raise UserError(f"precision bf16: this {device_type} has no bf16 arithmetic; use fp32")
        return None
    return _NAMES.get(precision, torch.bfloat16)


def _has_bf16(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # On a CPU without bf16 arithmetic, autocast would only add conversions.
    return not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    named = (line for line in lines if line.startswith(("flags", "Features")))  # x86, ARM
    return set(next(named, "").split())


class GradScalerState:
    """The loss scale of fp16, which keeps small gradients from rounding to zero.

    The scale is halved when gradients overflow, down to 1. It is doubled after every 2,000 steps
    without an overflow, up to 2^24. All ranks see the same overflows, so all have the same scale.

    Args:
        value: scale to start from.
        steps: number of steps since the last overflow.
    """

    FIRST, LARGEST, STEPS = 2.0**16, 2.0**24, 2000

    def __init__(self, value: float = FIRST, steps: int = 0):
        self.value, self.steps = value, steps

    def update(self, overflow: bool) -> None:
        """Adapts the scale after a step."""
        self.steps = 0 if overflow else self.steps + 1
        if overflow:
            self.value = max(1.0, self.value / 2)
        elif self.steps % self.STEPS == 0:
            self.value = min(self.LARGEST, self.value * 2)
