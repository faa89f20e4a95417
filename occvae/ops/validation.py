"""Checks of the arguments that the extraction functions share. Each error is one line."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occvae.ops.lattice import Bounds, Lattice, Vector

# Lattice coordinates reach the field through float32, which has every integer up to 2**24.
MAX_RESOLUTION = 2**24
# Vertices keep at least this share of their edge as distance from both ends. Otherwise a value
# equal or very close to the level would put up to six vertices on one lattice point, with triangles
# of zero area between them. The error is at most a thousandth of a cell.
MIN_EDGE_FRACTION = 1e-3
# Fields compute squares of distances, which must not overflow in float32.
_GREATEST_BOUND = 1e18


def check_count(name: str, value: int, least: int = 1) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}; got {count}")
    return count


def check_level(level: Any) -> float:
    """Returns a number, also of NumPy or a tensor of one element, as a float."""
    try:
        number = float(level.item() if isinstance(level, Tensor | np.ndarray) else level)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"level must be a number; got {type(level).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"level must be finite; got {number}")
    return number


def check_is_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}")


def check_tensor(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    check_is_tensor(name, tensor)
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


def check_bounds(bounds: Bounds, resolution: int) -> Bounds:
    """Returns bounds as floats, and a cube as two numbers.

    Numbers and points can be of any kind that PyTorch converts to tensors. Refuses bounds where
    float32 could not tell vertices apart, and boxes that are thinner than a cell.
    """
    lower, upper = _corners(bounds)
    numbers = (*lower, *upper)
    is_cube = len({*lower}) == len({*upper}) == 1
    found: Bounds = (lower[0], upper[0]) if is_cube else (lower, upper)
    ordered = all(low < high for low, high in zip(lower, upper, strict=True))
    if not (all(map(math.isfinite, numbers)) and ordered):
        raise ValueError(f"bounds must be finite with lower < upper; got {found}")
    if max(map(abs, numbers)) > _GREATEST_BOUND:
        raise ValueError(
            f"bounds must be at most {_GREATEST_BOUND:g} in magnitude, because fields compute in "
            f"float32; got {found}: scale the field and its bounds down"
        )
    lattice = Lattice(resolution, found)
    size = max(high - low for low, high in zip(lower, upper, strict=True))
    farthest = max(max(abs(low), abs(low + size)) for low in lower)
    spacing = 2.0 ** (math.frexp(farthest)[1] - 24)  # distance between float32 numbers there
    thinnest = lattice.cell if lattice.is_full else lattice.cell / 2
    if MIN_EDGE_FRACTION * thinnest < 2 * spacing:
        raise ValueError(
            f"bounds {found} at resolution {resolution} are too far from 0 for float32: "
            "its steps there are not small compared with a cell; choose bounds around 0"
        )
    thin = [high - low for low, high in zip(lower, upper, strict=True) if high - low < lattice.cell]
    if thin:
        raise ValueError(
            f"bounds {found} have a side of {thin[0]:g}, less than a cell of {lattice.cell:g}: "
            f"choose a resolution of at least {math.ceil(size / min(thin))} or thicker bounds"
        )
    return found


def _corners(bounds: Bounds) -> tuple[Vector, Vector]:
    try:
        lower, upper = (_vector(end) for end in bounds)
    except (TypeError, ValueError, RuntimeError):
        got = " ".join(repr(bounds).split())
        raise TypeError(
            "bounds must be two numbers (lower, upper) or two points ((x, y, z), (x, y, z)); "
            f"got {got}"
        ) from None
    return lower, upper


def _vector(end: float | Vector) -> Vector:
    x, y, z = torch.as_tensor(end, dtype=torch.float64, device="cpu").expand(3).tolist()
    return x, y, z


def check_coarse_box(lattice: Lattice, coarse_resolution: int) -> None:
    """Refuses a box with fewer than two coarse cells along a side: MISE would hardly look into it.

    Raises:
        ValueError: there are fewer, and cells are refined.
    """
    resolution, thinnest = lattice.resolution, min(lattice.last)
    enough = coarse_resolution
    while enough < resolution and thinnest * enough < 2 * resolution:
        enough *= 2
    if enough > coarse_resolution:
        raise ValueError(
            f"bounds {lattice.bounds} have a side of less than two cells of the coarse lattice: "
            f"pass coarse_resolution={enough}"
        )


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
