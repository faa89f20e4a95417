"""Analytic fields: (points (N, 3) in world units, shape_index (N,)) -> (N,), inside positive."""

import math

import torch
from torch import Tensor

from occvae.ops.mise import Field
from occvae.ops.sparse_grid import DEFAULT_BOUNDS


def world_to_lattice(positions: Tensor, resolution: int, bounds: tuple[float, float]) -> Tensor:
    """Fractional lattice coordinates of world positions (..., 3): lattice_to_world inverted."""
    lower, upper = bounds
    return ((positions - (lower + upper) / 2) / (upper - lower) + 0.5) * resolution


def sphere(radius: float = 0.35, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        return radius - (points - points.new_tensor(center)).norm(dim=1)

    return field


def torus(major: float = 0.3, minor: float = 0.11) -> Field:
    """Off the center, so that no symmetry hides a mixed-up axis."""

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        x, y, z = (points - points.new_tensor((0.003, -0.011, 0.007))).unbind(1)
        return minor - torch.hypot(torch.hypot(x, y) - major, z)

    return field


def _box(points: Tensor, center: tuple[float, ...], half: tuple[float, ...]) -> Tensor:
    """Negated signed distance to an axis-aligned box."""
    distance = (points - points.new_tensor(center)).abs() - points.new_tensor(half)
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


def slim_chair(points: Tensor, shape_index: Tensor) -> Tensor:
    """Logits of a chair off the lattice whose legs are 0.026 thick: of the benchmarks."""
    parts = [
        _box(points, (0.001, 0.002, -0.02), (0.2, 0.2, 0.021)),
        _box(points, (0.001, -0.182, 0.2), (0.2, 0.017, 0.2)),
    ]
    for x in (-0.179, 0.181):
        for y in (-0.178, 0.182):
            parts.append(_box(points, (x, y, -0.23), (0.0131, 0.0131, 0.2)))
    return 20 * torch.stack(parts).amax(0)


def gyroid_shell(points: Tensor, shape_index: Tensor) -> Tensor:
    """Logits of a thick gyroid cut to a ball of radius 0.45: of the benchmarks."""
    x, y, z = (18.3 * points).unbind(1)
    value = x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()
    return 3 * torch.minimum(0.3 - value.abs(), 10 * (0.45 - points.norm(dim=1)))


def double_torus(points: Tensor, shape_index: Tensor) -> Tensor:
    """Two rings side by side that have grown together: genus 2."""
    half = points.new_tensor([0.24, 0.0, 0.0])
    ring = torus(0.2, 0.07)
    return torch.maximum(ring(points - half, shape_index), ring(points + half, shape_index))


def waves(seed: int, frequency: float = 12.0, size: float = 0.5) -> Field:
    """A ball disturbed by 24 random plane waves: smooth, with handles, hollows and islands.

    Args:
        frequency: of the waves, in radians a unit.
        size: of the disturbance, against a slope of the ball of 3 a unit.
    """
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(24, 4, generator=generator) * frequency  # the last number is a phase

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        x, y, z = points.unbind(1)
        # No matrix product: the value of a point must not depend on the points beside it.
        total = sum((a * x + b * y + c * z + phase).sin() for a, b, c, phase in waves.tolist())
        return 3 * (0.35 - points.norm(dim=1)) + size * total / math.sqrt(12)

    return field
