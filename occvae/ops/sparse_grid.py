"""SparseGrid: values of a field at some points of a regular lattice, for one or several shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from occvae.ops.lattice import DEFAULT_BOUNDS, Bounds, Lattice
from occvae.ops.validation import (
    check_bounds,
    check_count,
    check_is_tensor,
    check_level,
    check_resolutions,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseGrid:
    """Known values of a field on the lattice {0, ..., resolution}^3 of each of several shapes.

    Every point of the coarse lattice is known: its coordinates are divisible by
    resolution / coarse_resolution. Finer points are known only near the surface `field == level`.
    No point occurs twice, and points can be in any order. `mise` returns one, `from_dense` makes
    one from a full array, and `marching_cubes` takes either.

    If the bounds are a box, the lattice fills the smallest cube that holds the box and starts at
    its lower corner. Points of the lattice beyond the box have the value -inf.

    Raises:
        ValueError: shapes or devices of the tensors do not fit, or a number is out of range.
        TypeError: a tensor has the wrong dtype or a number the wrong type.
    """

    points: Tensor
    """(M, 3) int32 lattice coordinates x, y, z."""
    values: Tensor
    """(M,) floating: the field at each point, in the dtype that the field returned."""
    shape_index: Tensor
    """(M,) int64: the shape that each point belongs to."""
    rounds: list[int]
    """Number of points that each round of `mise` evaluated, over all shapes."""
    resolution: int
    """Cells along an edge of the finest lattice, which is the longest side of the bounds."""
    coarse_resolution: int
    """Cells along an edge of the coarsest lattice. Equal to `resolution` if all is known."""
    bounds: Bounds = DEFAULT_BOUNDS
    """World coordinates of the lower and upper end: numbers for a cube, points for a box."""
    level: float = 0.0
    """The value that separates inside (>= level) from outside. `mise` refined near it."""
    num_shapes: int = 1
    """Number of shapes, at least as large as every shape_index plus 1."""

    def __post_init__(self) -> None:
        for name in ("points", "values", "shape_index"):
            check_is_tensor(f"SparseGrid.{name}", getattr(self, name))
        count = len(self.points)
        expected = {"points": (count, 3), "values": (count,), "shape_index": (count,)}
        for name, shape in expected.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(f"SparseGrid.{name} must have shape {shape}; got {got}")
        for name, dtype in {"points": torch.int32, "shape_index": torch.int64}.items():
            got = getattr(self, name).dtype
            if got != dtype:
                raise TypeError(f"SparseGrid.{name} must be {dtype}; got {got}")
        if not self.values.is_floating_point():
            raise TypeError(f"SparseGrid.values must be floating; got {self.values.dtype}")
        devices = [str(getattr(self, name).device) for name in expected]
        if len(set(devices)) > 1:
            raise ValueError(f"SparseGrid's tensors must be on one device; got {devices}")
        resolution, coarse_resolution = check_resolutions(self.resolution, self.coarse_resolution)
        numbers = {
            "resolution": resolution,
            "coarse_resolution": coarse_resolution,
            "bounds": check_bounds(self.bounds, resolution),
            "level": check_level(self.level),
            "num_shapes": check_count("num_shapes", self.num_shapes),
        }
        for name, number in numbers.items():
            object.__setattr__(self, name, number)  # as Python numbers, because the class is frozen

    @classmethod
    def from_dense(
        cls,
        values: Tensor,
        *,
        bounds: Bounds = DEFAULT_BOUNDS,
        level: float = 0.0,
    ) -> SparseGrid:
        """Makes a grid in which every lattice point is known, from a dense array.

        Args:
            values: (B, R + 1, R + 1, R + 1) floating, indexed [shape, x, y, z].
            bounds: world coordinates of the first and the last lattice point of an axis, or the
                two points themselves, as a box of equal sides. For voxels with centers at
                (i + 0.5) / N - 0.5 these are -0.5 + 0.5 / N and 0.5 - 0.5 / N.
            level: the value that separates inside (>= level) from outside.

        Returns:
            A grid on the device of `values`. It takes 20 bytes per point beside the values.

        Raises:
            ValueError: `values` is not a batch of cubes with at least two points per edge, or
                bounds or level are out of range.
            TypeError: `values` is not a floating tensor.

        Example:
            >>> axis = torch.linspace(-0.55, 0.55, 33)
            >>> x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
            >>> ball = 0.4 - (x**2 + y**2 + z**2).sqrt()
            >>> SparseGrid.from_dense(ball[None]).resolution
            32
        """
        check_is_tensor("values", values)
        shape = tuple(values.shape)
        if values.ndim != 4 or len(set(shape[1:])) != 1 or shape[1] < 2:
            raise ValueError(f"values must be (B, R + 1, R + 1, R + 1) with R >= 1; got {shape}")
        bounds = check_bounds(bounds, shape[1] - 1)
        if not Lattice(shape[1] - 1, bounds).is_full:
            raise ValueError(f"bounds of a dense array must have equal sides; got {bounds}")
        index = torch.ones(shape, dtype=torch.bool, device=values.device).nonzero()
        return cls(
            points=index[:, 1:].to(torch.int32),
            values=values.reshape(-1),
            shape_index=index[:, 0].contiguous(),
            rounds=[values.numel()],
            resolution=shape[1] - 1,
            coarse_resolution=shape[1] - 1,
            bounds=bounds,
            level=level,
            num_shapes=shape[0],
        )

    @property
    def lattice(self) -> Lattice:
        """Converts lattice coordinates to world units."""
        return Lattice(self.resolution, self.bounds)

    def world_points(self) -> Tensor:
        """Positions (M, 3) float32 of the points in world units, as the field received them."""
        return self.lattice.to_world(self.points)
