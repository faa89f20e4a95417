"""Calls the user's field for the algorithms that evaluate it on a lattice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from occvae.ops.sparse_grid import lattice_to_world

#: (points (N, 3) float32 in world units, shape_index (N,) int64) -> (N,) floating values.
Field = Callable[[Tensor, Tensor], Tensor]
#: (round from 0, points done in this round, points of this round) -> None.
Progress = Callable[[int, int, int], None]


class Evaluator:
    """Evaluates the user's field at lattice points.

    Converts points to world units, splits them into calls of bounded size, checks the values and
    reports progress. Algorithms call it as (points (N, 3), shape_index (N,) int64) -> (N,) values
    without NaN. Points are lattice coordinates: integers, or fractions for refined vertices.
    """

    def __init__(
        self,
        field: Field,
        resolution: int,
        bounds: tuple[float, float],
        max_points_per_call: int,
        progress: Progress | None,
        first_round: int = 0,
    ):
        self._field = field
        self._resolution = resolution
        self._bounds = bounds
        self._max_points_per_call = max_points_per_call
        self._progress = progress
        self._round = first_round
        self._dtype: torch.dtype | None = None

    def __call__(self, points: Tensor, shape_index: Tensor) -> Tensor:
        values = self.unchecked(points, shape_index)
        self.refuse_nan(values, points, shape_index)
        return values

    @torch.no_grad()
    def unchecked(self, points: Tensor, shape_index: Tensor) -> Tensor:
        """As calling the evaluator, but values may be NaN: testing for NaN would wait for a GPU."""
        found, done = None, 0
        for part, shape in zip(
            points.split(self._max_points_per_call),
            shape_index.split(self._max_points_per_call),
            strict=True,
        ):
            world = lattice_to_world(part, self._resolution, self._bounds).to(torch.float32)
            values = self._checked(self._field(world, shape), world)
            if found is None:
                found = values.new_empty(len(points))
            found[done : done + len(part)] = values  # copies, because fields may reuse memory
            done += len(part)
            if self._progress is not None:
                self._progress(self._round, done, len(points))
        self._round += 1
        assert found is not None  # zero points are split into one empty part
        return found

    def _checked(self, values: Tensor, world: Tensor) -> Tensor:
        if not isinstance(values, Tensor):
            raise TypeError(f"field must return a tensor; got {type(values).__name__}")
        if not values.is_floating_point():
            raise TypeError(f"field must return floating values; got {values.dtype}")
        if values.shape != world.shape[:1]:
            expected = tuple(world.shape[:1])
            raise ValueError(f"field must return shape {expected}; got {tuple(values.shape)}")
        if values.device != world.device:
            raise ValueError(f"field must return values on {world.device}; got {values.device}")
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
        where = lattice_to_world(points[first], self._resolution, self._bounds).tolist()
        position = ", ".join(f"{coordinate:.4f}" for coordinate in where)
        raise ValueError(
            f"field returned NaN at {count} of {len(values)} points of round {self._round - 1}, "
            f"first at ({position}) of shape {int(shape_index[first])}"
        )
