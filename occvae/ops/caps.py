"""Caps: the parts of a mesh that close it where the inside reaches the bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from occvae.ops.lattice import Lattice
from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.validation import MIN_EDGE_FRACTION


def count_cap_points(grid: SparseGrid, level: float) -> int:
    """Upper limit for the number of inside lattice points on the domain's faces, over all shapes.

    A cap has one vertex per such point, whether the point is known or not. An unknown point is on
    the same side of the surface as a known point of a coarser lattice. That point accounts for at
    most step^2 points of the face, where step is the spacing of its lattice.
    """
    step = grid.resolution // grid.coarse_resolution
    coordinates = grid.points.reshape(-1)
    on_faces = (coordinates == 0).logical_or_(coordinates == grid.resolution)
    # A point on several faces occurs once per face, because each face has its own cap.
    points = on_faces.nonzero()[:, 0] // 3
    points = points[grid.values[points].to(torch.float64) >= level]
    x, y, z = grid.points[points].long().unbind(1)
    bits = x | y | z | step
    coarsest = bits & -bits
    return int((coarsest**2).sum())


def cap_normals(vertices: Tensor, lattice: Lattice) -> Tensor:
    """Normals of the bounds at vertices of caps, and 0 at all other vertices, (V, 3) float64.

    Vertices of caps lie a thousandth of a cell beyond the bounds. All others lie within them.
    """
    margin = MIN_EDGE_FRACTION / 2 * lattice.cell
    wide = vertices.to(torch.float64)
    lower, upper = wide.new_tensor(lattice.lower), wide.new_tensor(lattice.upper)
    return (wide > upper + margin).to(torch.float64) - (wide < lower - margin).to(torch.float64)
