"""Fields of every kind for tests of extraction, each with the lattices to evaluate it on."""

from dataclasses import dataclass

import pytest
import torch

from occvae.ops.lattice import DEFAULT_BOUNDS
from occvae.ops.mise import Field
from tests.fields import (
    double_torus,
    gyroid,
    gyroid_shell,
    lattice_hash,
    slim_chair,
    sphere,
    thin_chair,
    torus,
    waves,
    world_to_lattice,
)


@dataclass(frozen=True)
class Exhibit:
    name: str
    field: Field
    coarse_resolution: int
    resolution: int
    level: float = 0.0


def lattice(function, resolution: int) -> Field:
    """Makes a field from a function of exact lattice coordinates (N, 3) int64."""

    def field(points, shape_index):
        return function(
            world_to_lattice(points.double(), resolution, DEFAULT_BOUNDS).round().long()
        )

    return field


def constant(value: float) -> Field:
    return lambda points, shape_index: torch.full((len(points),), value)


def rounded(field: Field, step: float) -> Field:
    """Rounds values to multiples of `step`: most values next to the surface are exactly 0."""
    return lambda points, shape_index: (field(points, shape_index) / step).round() * step


def infinite(field: Field) -> Field:
    return lambda points, shape: torch.where(field(points, shape) >= 0, torch.inf, -torch.inf)


def rod(points, shape_index):
    """A rod along a diagonal, thinner than a cell of most lattices."""
    direction = torch.tensor([1.0, 2.0, 3.0]) / 14**0.5
    along = (points * direction).sum(1)
    return 0.02 - (points - along[:, None] * direction).norm(dim=1).maximum(along.abs() - 0.4)


def hollow_ball(points, shape_index):
    """A thin shell that contains some points of a lattice of 8, so that MISE can find it."""
    return 0.012 - (points.norm(dim=1) - 0.41).abs()


def slab(points, shape_index):
    """A thin slab that crosses the domain and leaves it through four of its faces."""
    return 0.015 - (0.6 * points[:, 0] + 0.8 * points[:, 2] - 0.013).abs()


def half_space(points, shape_index):
    return 0.6 * points[:, 0] + 0.48 * points[:, 1] + 0.64 * points[:, 2] + 0.1


def one_plane(points):
    """One plane equals the level, and all other points are outside."""
    return torch.where(points[:, 0] == 8, 0.25, -1.0)


GALLERY = [
    # Smooth surfaces.
    Exhibit("sphere", sphere(), 8, 32),
    Exhibit("sphere off center", sphere(0.37, (0.013, 0.021, -0.007)), 4, 32),
    Exhibit("sphere without refinement", sphere(), 16, 16),
    Exhibit("torus", torus(), 6, 24),
    Exhibit("double torus", double_torus, 8, 64),
    Exhibit("waves", waves(0), 8, 32),
    Exhibit("short waves", waves(1, frequency=25.0), 4, 32),
    Exhibit("strong waves", waves(2, size=2.0), 16, 32),
    Exhibit("another level", sphere(), 4, 32, level=0.1),
    # Parts thinner than coarse cells.
    Exhibit("thin chair", thin_chair, 4, 32),
    Exhibit("thin chair from 10", thin_chair, 10, 40),
    Exhibit("thin chair from 64", thin_chair, 64, 128),
    Exhibit("slim chair", slim_chair, 16, 64),
    Exhibit("rod", rod, 8, 64),
    Exhibit("hollow ball", hollow_ball, 8, 32),
    Exhibit("gyroid shell", gyroid_shell, 8, 32),
    # Noise, where the result depends on hanging nodes.
    Exhibit("noise, 0.3% inside", lattice_hash(192, 16, 0.003), 4, 16),
    Exhibit("noise, 1% inside", lattice_hash(23, 16, 0.01), 4, 16),
    Exhibit("noise, 3% inside", lattice_hash(18, 16, 0.03), 4, 16),
    Exhibit("noise, 10% inside", lattice_hash(21, 16, 0.1), 4, 16),
    Exhibit("noise, half inside", lattice_hash(22, 16, 0.5), 4, 16),
    Exhibit("noise, 3% outside", lattice_hash(22, 16, 0.97), 4, 16),
    Exhibit("noise, 0.3% outside", lattice_hash(67, 16, 0.997), 4, 16),
    Exhibit("noise from 5", lattice_hash(40, 20, 0.02), 5, 20),
    # Values that equal the level.
    Exhibit("ties in noise", lattice_hash(50, 16, 0.02, tied=0.01), 4, 16),
    Exhibit("ties alone", lattice_hash(51, 16, 0.0, tied=0.01), 4, 16),
    Exhibit("ties, else inside", lattice_hash(52, 16, 0.98, tied=0.02), 4, 16),
    Exhibit("a plane of ties", lattice(one_plane, 16), 4, 16, level=0.25),
    Exhibit("octahedron", lattice(lambda p: 10.0 - (p - 16).abs().sum(1), 32), 8, 32),
    Exhibit("cube", lattice(lambda p: 9.0 - (p - 15).abs().amax(1), 32), 8, 32),
    Exhibit("plateaus", rounded(sphere(), 0.1), 4, 32),
    Exhibit("all ties", constant(0.25), 4, 8, level=0.25),
    # Surfaces that leave the domain.
    Exhibit("gyroid", gyroid, 8, 16),
    Exhibit("half space", half_space, 4, 32),
    Exhibit("slab", slab, 8, 32),
    Exhibit("ball in a corner", sphere(0.4, (0.55, 0.55, -0.55)), 4, 32),
    Exhibit("ties on a face", lattice(lambda p: -p[:, 2].double(), 16), 4, 16),
    # Empty, full and infinite fields.
    Exhibit("empty", constant(-1.0), 4, 16),
    Exhibit("full", constant(1.0), 8, 32),
    Exhibit("full of infinities", constant(torch.inf), 4, 16),
    Exhibit("infinite torus", infinite(torus()), 8, 32),
]


def each_exhibit(up_to: int = 128, slow_above: int = 64):
    """Parametrizes a test with each exhibit of resolution `up_to` or less.

    Exhibits of resolutions above `slow_above` are marked slow.
    """
    chosen = [exhibit for exhibit in GALLERY if exhibit.resolution <= up_to]
    ids = [
        f"{i} of {len(chosen)}, {exhibit.name}, {exhibit.coarse_resolution} to {exhibit.resolution}"
        for i, exhibit in enumerate(chosen, 1)
    ]
    parameters = [
        pytest.param(exhibit, id=name, marks=[pytest.mark.slow] * (exhibit.resolution > slow_above))
        for exhibit, name in zip(chosen, ids, strict=True)
    ]
    return pytest.mark.parametrize("exhibit", parameters)
