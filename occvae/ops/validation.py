"""Checks of the arguments that the extraction functions share. Each error is one line."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Lattice coordinates reach the field through float32, which has every integer up to 2**24.
MAX_RESOLUTION = 2**24
# Vertices keep at least this share of their edge as distance from both ends. Otherwise a value
# equal or very close to the level would put up to six vertices on one lattice point, with triangles
# of zero area between them. The error is at most a thousandth of a cell.
MIN_EDGE_FRACTION = 1e-3


def check_count(name: str, value: int, least: int = 1) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}; got {count}")
    return count


def check_level(level: float) -> float:
    try:
        number = float(level)
    except (TypeError, ValueError):
        raise TypeError(f"level must be a number; got {type(level).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"level must be finite; got {number}")
    return number


def check_tensor(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
        wanted = " or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}"
        raise TypeError(f"{name} must be {wanted}; got {tensor.dtype}")


def check_callable(name: str, function: Callable[..., Any] | None) -> None:
    if not callable(function):
        raise TypeError(f"{name} must be callable; got {type(function).__name__}")


def check_progress(progress: Callable[..., Any] | None) -> None:
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable or None; got {type(progress).__name__}")


def check_bounds(bounds: tuple[float, float], resolution: int) -> tuple[float, float]:
    """Returns bounds as floats. Refuses those where float32 could not tell vertices apart."""
    try:
        lower, upper = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise TypeError(f"bounds must be two numbers (lower, upper); got {bounds!r}") from None
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise ValueError(f"bounds must be finite with lower < upper; got ({lower}, {upper})")
    farthest = max(abs(lower), abs(upper))
    spacing = 2.0 ** (math.frexp(farthest)[1] - 24)  # distance between float32 numbers there
    if MIN_EDGE_FRACTION * (upper - lower) / resolution < 2 * spacing:
        raise ValueError(
            f"bounds ({lower}, {upper}) at resolution {resolution} are too far from 0 for float32: "
            "its steps there are not small compared with a cell; choose bounds around 0"
        )
    return lower, upper


def check_resolutions(resolution: int, coarse_resolution: int) -> tuple[int, int]:
    """Returns both as ints. `resolution` must be `coarse_resolution * 2**k` with k >= 0."""
    resolution = check_count("resolution", resolution)
    coarse = check_count("coarse_resolution", coarse_resolution)
    if resolution > MAX_RESOLUTION:
        raise ValueError(f"resolution must be at most {MAX_RESOLUTION}; got {resolution}")
    if resolution < coarse:
        raise ValueError(
            f"resolution must be at least coarse_resolution; got {resolution} < {coarse}: nearest "
            f"valid resolution is {coarse}, or pass coarse_resolution={resolution}"
        )
    below = coarse << ((resolution // coarse).bit_length() - 1)
    if below == resolution:
        return resolution, coarse
    odd = resolution // (resolution & -resolution)
    candidates = [odd << k for k in range(resolution.bit_length()) if odd << k <= resolution]
    other = min(candidates, key=lambda candidate: abs(math.log(candidate / coarse)))
    raise ValueError(
        f"resolution must be coarse_resolution * 2**k; got {resolution} with coarse_resolution="
        f"{coarse}: nearest valid are {below} and {2 * below}, or pass coarse_resolution={other}"
    )


def suitable_coarse_resolution(resolution: int) -> int:
    """The coarse_resolution from 16 to 64, nearest to 32, for a resolution.

    Resolutions below 16 are their own coarse_resolution.

    Raises:
        ValueError: there is none, as for 101 or 134.
    """
    resolution = check_count("resolution", resolution)
    found = _coarse_resolution(resolution)
    if found is not None:
        return found
    below, above = resolution, resolution
    while _coarse_resolution(below) is None:
        below -= 1
    while _coarse_resolution(above) is None:
        above += 1
    raise ValueError(
        f"resolution must be a number up to 64, or 2**k times one from 32 to 64; got {resolution}: "
        f"nearest valid are {below} and {above}"
    )


def _coarse_resolution(resolution: int) -> int | None:
    odd = resolution // (resolution & -resolution)
    least = min(resolution, 16)
    usable = [odd << k for k in range(7) if least <= odd << k <= min(resolution, 64)]
    return min(usable, key=lambda coarse: abs(math.log(coarse / 32)), default=None)
