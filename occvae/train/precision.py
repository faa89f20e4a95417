"""The precision of a training, and the loss scale that fp16 needs."""

from pathlib import Path

import torch

from occvae.errors import UserError

_NAMES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def autocast_dtype(precision: str, device_type: str) -> torch.dtype | None:
    """What products are computed in, or None for fp32.

    Args:
        precision: "fp32", "fp16", "bf16", or "auto" for bf16 where the hardware multiplies it.
        device_type: "cpu" or "cuda".

    Raises:
        UserError: the device has no such arithmetic.
    """
    if precision == "fp32":
        return None
    if precision == "fp16" and device_type == "cpu":
        raise UserError("precision fp16: needs a GPU; use fp32 on a CPU, or bf16 where it has that")
    if precision != "fp16" and not _has_bf16(device_type):
        if precision == "bf16":
            raise UserError(f"precision bf16: this {device_type} has no bf16 arithmetic; use fp32")
        return None
    return _NAMES.get(precision, torch.bfloat16)


def _has_bf16(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without bf16 multipliers autocast on a CPU only adds conversions.
    return not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    named = (line for line in lines if line.startswith(("flags", "Features")))  # x86, ARM
    return set(next(named, "").split())


class GradScalerState:
    """A factor that lifts small gradients above what fp16 rounds to zero.

    Halved when gradients overflow, doubled after 2,000 steps in which they did not. All ranks see
    the same overflows, so all have the same factor.

    Args:
        value, steps: of a run that is resumed: the factor, and the steps since it overflowed.
    """

    FIRST, LARGEST, STEPS = 2.0**16, 2.0**24, 2000

    def __init__(self, value: float = FIRST, steps: int = 0):
        self.value, self.steps = value, steps

    def update(self, overflow: bool) -> None:
        """After a step."""
        self.steps = 0 if overflow else self.steps + 1
        if overflow:
            self.value = max(1.0, self.value / 2)
        elif self.steps % self.STEPS == 0:
            self.value = min(self.LARGEST, self.value * 2)
