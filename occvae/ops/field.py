"""Calls the user's field for the algorithms that evaluate it on a lattice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from occvae.ops.lattice import Lattice
from occvae.ops.uniform_field import UniformField
from occvae.ops.validation import check_count
from occvae.system.memory import total_cuda_memory

_CALL_POINTS = 262_144
_CALL_POINTS_ON_LARGE_GPU = 1_048_576  # below it, launches take longer than fused kernels
_LARGE_GPU = 32 * 2**30  # bytes

#: (round from 0, points done in this round, points of this round) -> None.
Progress = Callable[[int, int, int], None]


def choose_points_per_call(count: int | None, device: torch.device) -> int:
    """Checks `max_points_per_call`, and replaces None by the default for the device."""
    if count is not None:
        return check_count("max_points_per_call", count)
    is_large = device.type == "cuda" and total_cuda_memory(device) >= _LARGE_GPU
    return _CALL_POINTS_ON_LARGE_GPU if is_large else _CALL_POINTS


class Evaluator:
    """Evaluates the user's field at lattice points.

    Converts points to world units, splits them into calls of bounded size, checks the values and
    reports progress. Algorithms call it as (points (N, 3), shape_index (N,) int64) -> (N,) values
    without NaN. Points are lattice coordinates: integers, or fractions for refined vertices.
    Points beyond the bounds get the value -inf, and the field is not called for them.
    """

    def __init__(
        self,
        field: UniformField,
        lattice: Lattice,
        max_points_per_call: int,
        progress: Progress | None,
        first_round: int = 0,
    ):
        self._field = field
        self._lattice = lattice
        self._max_points_per_call = max_points_per_call
        self._progress = progress
        self._round = first_round
        self._evaluated = 0  # points of the last round
        self._dtype: torch.dtype | None = None

    def __call__(self, points: Tensor, shape_index: Tensor) -> Tensor:
        values = self.unchecked(points, shape_index)
        self.refuse_nan(values, points, shape_index)
        return values

    @torch.no_grad()
    def unchecked(self, points: Tensor, shape_index: Tensor) -> Tensor:
        """As calling the evaluator, but values may be NaN: testing for NaN would wait for a GPU."""
        within = self._lattice.contains(points)
        if within is None:
            values = self._evaluate(points, shape_index)
        else:
            found = self._evaluate(points[within], shape_index[within])
            values = found.new_full((len(points),), -torch.inf)
            values[within] = found
        self._round += 1
        return values

    def _evaluate(self, points: Tensor, shape_index: Tensor) -> Tensor:
        self._evaluated = len(points)
        if not len(points):  # a round of a box in which all points lie beyond it
            return points.new_empty(0, dtype=self._dtype)
        found, done = None, 0
        for part, shape in zip(
            points.split(self._max_points_per_call),
            shape_index.split(self._max_points_per_call),
            strict=True,
        ):
            world = self._to_world(part)
            values = self._of_one_dtype(self._field(world, shape))
            if found is None:
                found = values.new_empty(len(points))
            found[done : done + len(part)] = values  # copies, because fields may reuse memory
            done += len(part)
            if self._progress is not None:
                self._progress(self._round, done, len(points))
        assert found is not None
        return found

    def _to_world(self, points: Tensor) -> Tensor:
        if points.is_floating_point():
            return self._lattice.to_world(points).to(torch.float32)
        return self._lattice.points_to_world(points)

    def _of_one_dtype(self, values: Tensor) -> Tensor:
        if self._dtype not in (None, values.dtype):
            raise TypeError(
                "field must return one dtype; "
                f"got {self._dtype} in the first call and {values.dtype} now"
            )
        self._dtype = values.dtype
        return values

    def refuse_nan(self, values: Tensor, points: Tensor, shape_index: Tensor) -> None:
        """Raises ValueError with the first position if any value of the last round is NaN."""
        nan = values.isnan()
        count = int(nan.count_nonzero())
        if count == 0:
            return
        first = int(nan.nonzero()[0])
        where = self._lattice.to_world(points[first]).tolist()
        position = ", ".join(f"{coordinate:.4f}" for coordinate in where)
        raise ValueError(
            f"field returned NaN at {count} of {self._evaluated} points of round "
            f"{self._round - 1}, first at ({position}) of shape {int(shape_index[first])}"
        )
