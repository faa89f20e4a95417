"""Lattice: where the points of a regular lattice lie in the world, in a cube or a box."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Vector = tuple[float, float, float]
#: World coordinates of the lower and upper end: two numbers for a cube, two points for a box.
Bounds = tuple[float, float] | tuple[Vector, Vector]

DEFAULT_BOUNDS = (-0.55, 0.55)
_MOST_TABLE_CELLS = 2**16  # beyond it, a table of world coordinates would not stay in a cache


def corners(bounds: Bounds) -> tuple[Vector, Vector]:
    """Returns the lower and upper corner of bounds that are a cube or a box."""
    lower, upper = bounds
    if isinstance(lower, tuple) and isinstance(upper, tuple):
        return lower, upper
    assert isinstance(lower, float) and isinstance(upper, float)
    return (lower, lower, lower), (upper, upper, upper)


class Lattice:
    """Positions of the lattice {0, ..., resolution}^3 in the world.

    Point 0 is the lower corner of the bounds. Cells are cubes, and `resolution` of them fit along
    the longest side. In a box, points beyond the upper corner do not lie in the bounds. If another
    side is not a whole number of cells, the last layer of cells along it is 0.5 to 1.5 cells thick,
    so that a layer of points lies on the face of the box.

    Args:
        resolution: cells along the longest side.
        bounds: as `check_bounds` returns them.

    Attributes:
        cell: edge of a cell in world units.
        lower: lower corner of the bounds.
        upper: upper corner of the bounds.
        last: the last lattice coordinate within the bounds, for each axis.
        is_full: whether all lattice points lie within the bounds, as in a cube.
    """

    def __init__(self, resolution: int, bounds: Bounds):
        self.resolution = resolution
        self.bounds = bounds
        self.lower, self.upper = corners(bounds)
        sides = [high - low for low, high in zip(self.lower, self.upper, strict=True)]
        self._size = max(sides)
        self.cell = self._size / resolution
        self.last = tuple(min(round(side / self.cell), resolution) for side in sides)
        self.is_full = self.last == (resolution,) * 3

    def to_world(self, coordinates: Tensor) -> Tensor:
        """Converts lattice coordinates to world: `size * (i / resolution - 0.5) + center` per axis.

        The order of operations is that of the published code of Occupancy Networks (2019). A
        network therefore receives a lattice point with exactly the same bits.

        Args:
            coordinates: (..., 3), integer or floating. 0 is the lower bound.

        Returns:
            (..., 3) in world units, float32 for integer input, otherwise in the dtype of the input.
        """
        if not coordinates.is_floating_point():
            coordinates = coordinates.to(torch.float32)
        # A tensor, because CUDA replaces division by a number with multiplication by its inverse.
        divisor = coordinates.new_full((), self.resolution)
        if not isinstance(self.bounds[0], tuple):
            center = (self.lower[0] + self.upper[0]) / 2
            return self._size * (coordinates / divisor - 0.5) + center
        centers = coordinates.new_tensor([low + self._size / 2 for low in self.lower])
        return self._fit(self._size * (coordinates / divisor - 0.5) + centers, coordinates)

    def points_to_world(self, points: Tensor) -> Tensor:
        """Converts points of the lattice to world, with the same bits as `to_world`.

        It looks the coordinates up in a table, which is one operation instead of six. On a GPU the
        launches of small operations would take longer than the work.

        Args:
            points: (N, 3) int32 in {0, ..., resolution}.

        Returns:
            (N, 3) float32 in world units.
        """
        if self.resolution > _MOST_TABLE_CELLS:
            return self.to_world(points)
        table, starts = _world_table(self.resolution, self.bounds, points.device)
        if starts is not None:
            points = points + starts
        return table.index_select(0, points.reshape(-1)).view(points.shape)

    def _fit(self, world: Tensor, coordinates: Tensor) -> Tensor:
        """Moves the last layer of points in a box onto its faces. Removes errors of rounding."""
        lower, upper, last = (world.new_tensor(v) for v in (self.lower, self.upper, self.last))
        shifts = [
            high - (low + count * self.cell)
            for low, high, count in zip(self.lower, self.upper, self.last, strict=True)
        ]
        world = world + (coordinates - last + 1).clamp(0, 1) * world.new_tensor(shifts)
        is_within = (coordinates >= 0) & (coordinates <= last)
        return torch.where(is_within, world.clamp(lower, upper), world)

    def contains(self, points: Tensor) -> Tensor | None:
        """Whether lattice points (N, 3) lie within the bounds, (N,) bool. None if all do."""
        return None if self.is_full else (points <= points.new_tensor(self.last)).all(1)

    def last_along(self, axes: Tensor) -> Tensor | int:
        """The last lattice coordinate within the bounds along each of `axes` (N,)."""
        return self.resolution if self.is_full else axes.new_tensor(self.last)[axes]


@lru_cache(maxsize=8)
def _world_table(
    resolution: int, bounds: Bounds, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """World coordinates of the lattice coordinates 0, ..., resolution.

    Computed on the CPU, because the copy to a GPU ends before this returns. Every stream may then
    read the table.

    Returns:
        The coordinates, float32, and None. In a box the coordinates of x, y and z follow each
        other, and the second result is (3,) int32, where those of each axis start.
    """
    axis = torch.arange(resolution + 1, dtype=torch.int32, device="cpu")
    world = Lattice(resolution, bounds).to_world(axis[:, None].expand(-1, 3))
    if not isinstance(bounds[0], tuple):
        return world[:, 0].contiguous().to(device), None
    starts = torch.arange(3, dtype=torch.int32, device="cpu") * (resolution + 1)
    return world.t().reshape(-1).to(device), starts.to(device)
