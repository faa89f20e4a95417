"""Analytic fields: (points (N, 3) in world units, shape_index (N,)) -> (N,), inside positive."""

import math

import torch
from torch import Tensor

from occvae.ops.mise import Field
from occvae.sparse_grid import DEFAULT_BOUNDS, world_to_lattice


def sphere(radius: float = 0.35, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        return radius - (points - points.new_tensor(centre)).norm(dim=1)

    return field


def torus(major: float = 0.3, minor: float = 0.11) -> Field:
    """Off the centre, so that no symmetry hides a mixed-up axis."""

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        x, y, z = (points - points.new_tensor((0.003, -0.011, 0.007))).unbind(1)
        return minor - torch.hypot(torch.hypot(x, y) - major, z)

    return field


def _box(points: Tensor, centre: tuple[float, ...], half: tuple[float, ...]) -> Tensor:
    """Negated signed distance to an axis-aligned box."""
    distance = (points - points.new_tensor(centre)).abs() - points.new_tensor(half)
    return -(distance.clamp(min=0).norm(dim=1) + distance.amax(1).clamp(max=0))


def thin_chair(points: Tensor, shape_index: Tensor) -> Tensor:
    """A seat, a back and four legs, thinner than a cell of a coarse lattice of 16.

    At coarse_resolution=16 most of the back touches no coarse lattice point: it is found only by
    following the surface from cell to cell.
    """
    parts = [
        _box(points, (0.0, 0.0, 0.0), (0.25, 0.25, 0.02)),
        _box(points, (0.0, -0.23, 0.25), (0.25, 0.02, 0.25)),
    ]
    for x in (-0.22, 0.22):
        for y in (-0.22, 0.22):
            parts.append(_box(points, (x, y, -0.25), (0.02, 0.02, 0.25)))
    return torch.stack(parts).amax(0)


def gyroid(points: Tensor, shape_index: Tensor) -> Tensor:
    """Four periods a unit; the surface leaves the domain on all sides."""
    x, y, z = (points * 8 * math.pi).unbind(1)
    return x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()


def lattice_hash(seed: int, resolution: int, inside: float, tied: float = 0.0) -> Field:
    """Independent random signs at each lattice point: nothing smooth that refinement could rely on.

    Args:
        inside: share of points with value 1; the others get -1.
        tied: share of points with value exactly 0, drawn first.
    """

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        lattice = world_to_lattice(points.double(), resolution, DEFAULT_BOUNDS).round().long()
        key = torch.full_like(shape_index, seed * 2_654_435_761 + 97)
        for part in (*lattice.unbind(1), shape_index):
            key = (key ^ part) * 0x5851F42D4C957F2D  # wraps around, as a hash should
            key = key ^ ((key >> 29) & 0x7FFFFFFFF)
        uniform = (key & 0xFFFFFF).float() / 2**24
        value = torch.where(uniform < tied + inside, 1.0, -1.0)
        return torch.where(uniform < tied, 0.0, value)

    return field
