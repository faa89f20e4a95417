"""Learning rate schedules: functions from a step to a factor of the peak learning rate."""

import math
from collections.abc import Callable


def create_schedule(name: str, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """Returns the schedule of a name.

    Args:
        name: "cosine" or "halved", see `warmup_cosine` and `warmup_halved`.
        warmup_steps: length of the linear warm-up, in steps.
        total_steps: length of the run, in steps.
    """
    makers = {"cosine": warmup_cosine, "halved": warmup_halved}
    return makers[name](warmup_steps, total_steps)


def warmup_halved(warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """Rises linearly over the warm-up, stays 1 until three fifths of the run, then is 0.5.

    Pix2Vox halves its learning rate after 150 of 250 epochs (Xie et al. 2019).
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 1.0 if step < 0.6 * total_steps else 0.5

    return factor


def warmup_cosine(warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """Rises linearly over the warm-up, then falls to 0 along half a cosine.

    The warm-up takes at most half of the run.
    """
    warmup_steps = min(warmup_steps, total_steps // 2)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    return factor
