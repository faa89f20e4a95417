"""Analytic fields: (points (N, 3) in world units, shape_index (N,)) -> (N,), positive inside."""

import math

import torch
from torch import Tensor

from occvae.ops.lattice import DEFAULT_BOUNDS
from occvae.ops.mise import Field


def world_to_lattice(positions: Tensor, resolution: int, bounds: tuple[float, float]) -> Tensor:
    """Returns fractional lattice coordinates of positions (..., 3): inverts `Lattice.to_world`."""
    lower, upper = bounds
    return ((positions - (lower + upper) / 2) / (upper - lower) + 0.5) * resolution


def sphere(radius: float = 0.35, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        return radius - (points - points.new_tensor(center)).norm(dim=1)

    return field


def torus(major: float = 0.3, minor: float = 0.11) -> Field:
    """A torus off the center, so that no symmetry hides swapped axes."""

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        x, y, z = (points - points.new_tensor((0.003, -0.011, 0.007))).unbind(1)
        return minor - torch.hypot(torch.hypot(x, y) - major, z)

    return field


def _box(points: Tensor, center: tuple[float, ...], half: tuple[float, ...]) -> Tensor:
    """Negated signed distance to an axis-aligned box."""
    distance = (points - points.new_tensor(center)).abs() - points.new_tensor(half)
    return -(distance.clamp(min=0).norm(dim=1) + distance.amax(1).clamp(max=0))


def thin_chair(points: Tensor, shape_index: Tensor) -> Tensor:
    """A chair whose seat, back and legs are thinner than a cell of a coarse lattice of 16.

    At coarse_resolution=16 most of the back contains no coarse lattice point. MISE finds it only by
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
    """A gyroid with four periods per unit. Its surface meets the bounds on all sides."""
    x, y, z = (points * 8 * math.pi).unbind(1)
    return x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()


def lattice_hash(seed: int, resolution: int, inside: float, tied: float = 0.0) -> Field:
    """A field with an independent random sign at each lattice point, so it is smooth nowhere.

    Args:
        inside: share of points with value 1. The others have value -1.
        tied: share of points with value exactly 0, chosen first.
    """

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        lattice = world_to_lattice(points.double(), resolution, DEFAULT_BOUNDS).round().long()
        key = torch.full_like(shape_index, seed * 2_654_435_761 + 97)
        for part in (*lattice.unbind(1), shape_index):
            key = (key ^ part) * 0x5851F42D4C957F2D  # the overflow is intended
            key = key ^ ((key >> 29) & 0x7FFFFFFFF)
        uniform = (key & 0xFFFFFF).float() / 2**24
        value = torch.where(uniform < tied + inside, 1.0, -1.0)
        return torch.where(uniform < tied, 0.0, value)

    return field


def slim_chair(points: Tensor, shape_index: Tensor) -> Tensor:
    """Logits of a chair with legs 0.026 thick that do not align with the lattice (benchmarks)."""
    parts = [
        _box(points, (0.001, 0.002, -0.02), (0.2, 0.2, 0.021)),
        _box(points, (0.001, -0.182, 0.2), (0.2, 0.017, 0.2)),
    ]
    for x in (-0.179, 0.181):
        for y in (-0.178, 0.182):
            parts.append(_box(points, (x, y, -0.23), (0.0131, 0.0131, 0.2)))
    return 20 * torch.stack(parts).amax(0)


def gyroid_shell(points: Tensor, shape_index: Tensor) -> Tensor:
    """Logits of a thick gyroid that is cut to a ball of radius 0.45 (benchmarks)."""
    x, y, z = (18.3 * points).unbind(1)
    value = x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()
    return 3 * torch.minimum(0.3 - value.abs(), 10 * (0.45 - points.norm(dim=1)))


def double_torus(points: Tensor, shape_index: Tensor) -> Tensor:
    """Two overlapping tori side by side, a surface of genus 2."""
    half = points.new_tensor([0.24, 0.0, 0.0])
    ring = torus(0.2, 0.07)
    return torch.maximum(ring(points - half, shape_index), ring(points + half, shape_index))


def waves(seed: int, frequency: float = 12.0, size: float = 0.5) -> Field:
    """A ball plus 24 random plane waves: smooth, with handles, cavities and islands.

    Args:
        frequency: frequency of the waves in radians per unit.
        size: amplitude of the waves. The field of the ball has a slope of 3 per unit.
    """
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(24, 4, generator=generator) * frequency  # the last column is the phase

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        x, y, z = points.unbind(1)
        # Not a matrix product, because the value of a point must not depend on the other points.
        total = sum((a * x + b * y + c * z + phase).sin() for a, b, c, phase in waves.tolist())
        return 3 * (0.35 - points.norm(dim=1)) + size * total / math.sqrt(12)

    return field
