"""SparseGrid: values of a field on some points of a regular lattice, for one or several shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from occvae.ops.validation import check_bounds, check_count, check_level, check_resolutions

DEFAULT_BOUNDS = (-0.55, 0.55)


def lattice_to_world(coordinates: Tensor, resolution: int, bounds: tuple[float, float]) -> Tensor:
    """World position of lattice coordinates: `size * (i / resolution - 0.5) + center` on each axis.

    The order of operations is that of the 2019 occupancy network code, so that the same lattice
    point reaches the network with the same bits.

    Args:
        coordinates: (..., 3), integer or floating; 0 is the lower bound, `resolution` the upper.
        resolution: number of cells along an edge of the cube.
        bounds: lower and upper world coordinate, the same on the three axes.

    Returns:
        (..., 3) in world units; float32 for integer input, else the dtype of the input.
    """
    lower, upper = bounds
    if not coordinates.is_floating_point():
        coordinates = coordinates.to(torch.float32)
    # A tensor, because CUDA divides by a number as it multiplies by the rounded inverse.
    divisor = coordinates.new_full((), resolution)
    return (upper - lower) * (coordinates / divisor - 0.5) + (lower + upper) / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseGrid:
    """Known values of a field on the lattice {0, ..., resolution}^3 of each shape of a batch.

    Every point of the coarse lattice (coordinates divisible by resolution / coarse_resolution) is
    known; finer ones only near the surface `field == level`. No point occurs twice. The order of
    points is not part of the contract.

    Raises:
        ValueError, TypeError: tensors or numbers that are not as below.
    """

    points: Tensor
    """(M, 3) int32 lattice coordinates x, y, z."""
    values: Tensor
    """(M,) floating: the field at each point, in the dtype that the field returned."""
    shape_index: Tensor
    """(M,) int64: the shape of the batch that each point belongs to."""
    rounds: list[int]
    """Points queried in each pass of the field; the split into rounds depends on the backend."""
    resolution: int
    """Cells along an edge of the finest lattice."""
    coarse_resolution: int
    """Cells along an edge of the coarsest lattice; equal to `resolution` when all is known."""
    bounds: tuple[float, float] = DEFAULT_BOUNDS
    """World coordinates of lattice coordinates 0 and `resolution`, near enough to 0 for float32."""
    level: float = 0.0
    """The value that separates inside (>= level) from outside; refinement followed it."""
    num_shapes: int = 1

    def __post_init__(self) -> None:
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
        check_resolutions(self.resolution, self.coarse_resolution)
        check_bounds(self.bounds, self.resolution)
        check_level(self.level)
        check_count("num_shapes", self.num_shapes)

    @classmethod
    def from_dense(
        cls,
        values: Tensor,
        *,
        bounds: tuple[float, float] = DEFAULT_BOUNDS,
        level: float = 0.0,
    ) -> SparseGrid:
        """A grid in which every lattice point is known.

        Args:
            values: (B, R + 1, R + 1, R + 1) floating, indexed [shape, x, y, z].
            bounds: world coordinates of the first and the last lattice point of an axis. For voxels
                with centers at (i + 0.5) / N - 0.5 these are -0.5 + 0.5 / N and 0.5 - 0.5 / N.
            level: the value that separates inside (>= level) from outside.

        Raises:
            ValueError: values that are not a batch of cubes with at least two points an edge.
        """
        shape = tuple(values.shape)
        if values.ndim != 4 or len(set(shape[1:])) != 1 or shape[1] < 2:
            raise ValueError(f"values must be (B, R + 1, R + 1, R + 1) with R >= 1; got {shape}")
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

    def world_points(self) -> Tensor:
        """(M, 3) float32 positions of the points in world units, as the field received them."""
        return lattice_to_world(self.points, self.resolution, self.bounds)
