"""Learning rate schedules, as factors of the peak."""

import math
from collections.abc import Callable


def create_schedule(name: str, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """`cosine` or `halved`."""
    makers = {"cosine": warmup_cosine, "halved": warmup_halved}
    return makers[name](warmup_steps, total_steps)


def warmup_halved(warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """Linear over the warm-up, then constant, half of it from three fifths on.

    As Pix2Vox is trained: halved after 150 of 250 epochs (Xie et al. 2019).
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 1.0 if step < 0.6 * total_steps else 0.5

    return factor


def warmup_cosine(warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """Linear over the warm-up, then half a cosine down to 0 at the last step."""
    warmup_steps = min(warmup_steps, total_steps // 2)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    return factor
