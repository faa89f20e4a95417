"""Caps: the parts of a mesh that close it where the inside reaches a face of the domain."""

from __future__ import annotations

import torch
from torch import Tensor

from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.validation import MIN_EDGE_FRACTION


def count_cap_points(grid: SparseGrid, level: float) -> int:
    """At most so many lattice points of the domain's faces are inside, all shapes together.

    Caps have a vertex over each, known or not. An unknown point has the side of a known one on a
    coarser lattice, which so stands for step^2 points at most.
    """
    step = grid.resolution // grid.coarse_resolution
    coordinates = grid.points.reshape(-1)
    on_faces = (coordinates == 0).logical_or_(coordinates == grid.resolution)
    points = on_faces.nonzero()[:, 0] // 3  # once for each face that a point is on
    points = points[grid.values[points].to(torch.float64) >= level]
    x, y, z = grid.points[points].long().unbind(1)
    bits = x | y | z | step
    coarsest = bits & -bits
    return int((coarsest**2).sum())


def cap_normals(vertices: Tensor, resolution: int, bounds: tuple[float, float]) -> Tensor:
    """(V, 3) float64: the domain's outward normal for vertices (V, 3) of caps, 0 for the others.

    Caps lie a thousandth of a cell beyond the bounds, and nothing else lies beyond them.
    """
    lower, upper = bounds
    margin = MIN_EDGE_FRACTION / 2 * (upper - lower) / resolution
    wide = vertices.to(torch.float64)
    return (wide > upper + margin).to(torch.float64) - (wide < lower - margin).to(torch.float64)
