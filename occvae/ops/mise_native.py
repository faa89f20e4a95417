"""Exact MISE on the compiled kernels, with four bits of state per cell."""

from __future__ import annotations

import torch
from torch import Tensor

from occvae.ops import _extension
from occvae.ops.field import Evaluator
from occvae.ops.mise_memory import MiseMemory
from occvae.ops.mise_reference import coarse_lattice


def refine(
    evaluate: Evaluator,
    *,
    resolution: int,
    coarse_resolution: int,
    level: float,
    num_shapes: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Evaluates the same points in the same rounds as mise_reference.refine, in another order.

    The order depends neither on the device nor on the number of threads. For a device without
    kernels the state is on the CPU, and the results are on `device`.

    Raises:
        MemoryError: the next round would not fit. Raised before the field is called for it.
    """
    step = resolution // coarse_resolution
    cells = _Cells(resolution, coarse_resolution, num_shapes, device)
    points, shape_index = coarse_lattice(coarse_resolution, step, num_shapes, device)
    rounds: list[tuple[Tensor, Tensor, Tensor]] = []
    known = 0
    while True:
        values = evaluate.unchecked(points, shape_index)
        rounds.append((points, values, shape_index))
        if step == 1:
            evaluate.refuse_nan(values, points, shape_index)
            break
        problems = cells.mark(points, shape_index, values, level)
        splits, added = cells.choose()
        nan, _, new = torch.cat([problems, added]).tolist()  # the only sync per round
        if nan:
            evaluate.refuse_nan(values, points, shape_index)
        if new == 0:
            break
        known += len(points)
        cells.memory.require_round(known, new, values.itemsize)
        points, shape_index = (part.to(device) for part in cells.split(splits, new))
    counts = [len(part[0]) for part in rounds]
    if len(rounds) == 1:
        return *rounds[0], counts
    all_points, all_values, all_shapes = (torch.cat(parts) for parts in zip(*rounds, strict=True))
    return all_points, all_values, all_shapes, counts


class _Cells:
    """State of all cells above the finest level: four bits per cell, all shapes in one tensor."""

    def __init__(
        self, resolution: int, coarse_resolution: int, num_shapes: int, device: torch.device
    ):
        self._resolutions = (resolution, coarse_resolution)
        self._device = _extension.kernel_device("mise_mark", device)
        size = 0
        if resolution > coarse_resolution:
            size = torch.ops.occvae._mise_state_size(resolution, coarse_resolution)
        state = 8 * num_shapes * size
        # On CUDA, choose() returns one int64 per record. A record is four int64 of the state.
        splits = state // 4 if self._device.type == "cuda" else 0
        self.memory = MiseMemory(resolution, coarse_resolution, num_shapes, self._device)
        self.memory.require_state(state + splits)
        self._state = torch.zeros((num_shapes, size), dtype=torch.int64, device=self._device)

    def mark(self, points: Tensor, shape_index: Tensor, values: Tensor, level: float) -> Tensor:
        """Records the sides of new points (N, 3) in all cells that they touch.

        Returns:
            (2,) int64: the number of NaN values and of points outside the lattice. Neither are
            recorded.
        """
        new = (part.to(self._device) for part in (points, shape_index, values))
        return _mark(self._state, *new, level, *self._resolutions)

    def choose(self) -> tuple[Tensor, Tensor]:
        """Finds the leaves to split.

        Returns:
            The leaves, in a format for split() only, and (1,) int64, the number of points that
            splitting them adds.
        """
        return _split(self._state, *self._resolutions)

    def split(self, splits: Tensor, added: int) -> tuple[Tensor, Tensor]:
        """Splits the leaves that choose() found. Returns the added points and their shapes."""
        return _points(self._state, splits, added, *self._resolutions)


def _fake_mark(
    state: Tensor,
    points: Tensor,
    shape_index: Tensor,
    values: Tensor,
    level: float,
    resolution: int,
    coarse_resolution: int,
) -> Tensor:
    return state.new_empty(2)


def _fake_split(state: Tensor, resolution: int, coarse_resolution: int) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return state.new_empty(size), state.new_empty(1)


def _fake_points(
    state: Tensor, splits: Tensor, added: int, resolution: int, coarse_resolution: int
) -> tuple[Tensor, Tensor]:
    return state.new_empty((added, 3), dtype=torch.int32), state.new_empty(added)


# mise_reference.refine is the reference implementation of the three ops together.
_mark = _extension.declare(
    "mise_mark(Tensor(a!) state, Tensor points, Tensor shape_index, Tensor values, float level,"
    " int resolution, int coarse_resolution) -> Tensor problems",
    None,
    _fake_mark,
)
_split = _extension.declare(
    "mise_split(Tensor(a!) state, int resolution, int coarse_resolution)"
    " -> (Tensor splits, Tensor added)",
    None,
    _fake_split,
)
_points = _extension.declare(
    "mise_points(Tensor(a!) state, Tensor splits, int added, int resolution,"
    " int coarse_resolution) -> (Tensor points, Tensor shape_index)",
    None,
    _fake_points,
)
