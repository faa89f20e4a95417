"""Adversarial tests of winding_sign: meshes with borders of all kinds, points at all distances.

The CPU kernel closes a mesh with triangles over its border, counts crossings of rays, and shares
answers among points. Every answer must be that of the winding number in float64.
"""

import math

import pytest
import torch

from occvae.ops.inside_mesh import winding_number, winding_sign
from tests.conftest import needs_kernels
from tests.mesh_builders import box, join, sphere

pytestmark = needs_kernels

LEVELS = (0.25, 0.5, 0.75, 1.5)
TIE = 1e-8  # far more than the rounding error of a winding number


def without(mesh, share, seed=0):
    """Removes a share of the faces at random."""
    vertices, faces = mesh
    kept = torch.rand(len(faces), generator=torch.Generator().manual_seed(seed)) >= share
    return vertices, faces[kept]


def bands(mesh, width=0.13):
    """Keeps every second slice, so that several long loops bound the mesh."""
    vertices, faces = mesh
    return vertices, faces[(vertices[faces].mean(1)[:, 2] / width).floor() % 2 == 0]


def sheet(steps=24, height=0.2, offset=0.0):
    """A wavy square whose border has many corners on straight lines."""
    line = torch.linspace(-0.5, 0.5, steps + 1, dtype=torch.float64)
    plane = torch.cartesian_prod(line, line)
    z = height * (7 * plane[:, 0]).sin() * (5 * plane[:, 1]).cos()
    corner = (torch.arange(steps)[:, None] * (steps + 1) + torch.arange(steps)).reshape(-1)
    below = torch.stack([corner, corner + steps + 1, corner + 1], 1)
    above = torch.stack([corner + 1, corner + steps + 1, corner + steps + 2], 1)
    return torch.cat([plane, z[:, None]], 1) + offset, torch.cat([below, above])


def open_box(steps=8):
    """A box of flat sheets without its top. The opening is a square at z = 0.5."""
    vertices, faces = sheet(steps, height=0.0)
    flat = torch.stack([vertices[:, 0], vertices[:, 1], vertices[:, 2] - 0.5], 1)
    down, sides = faces.flip(1), []
    for turn in range(4):  # a side at x = 0.5, turned around z
        side = torch.stack([-flat[:, 2], flat[:, 0], flat[:, 1]], 1)
        for _ in range(turn):
            side = torch.stack([-side[:, 1], side[:, 0], side[:, 2]], 1)
        sides.append((side, faces))
    return join((flat, down), *sides)


def fins():
    """Three half disks with a common edge, where six borders meet, and a closed box."""
    angle = torch.linspace(0, torch.pi, 40, dtype=torch.float64)
    corner = torch.arange(1, 39)
    faces = torch.stack([torch.zeros_like(corner), corner, corner + 1], 1)
    disks = []
    for turn in (0.0, 2.0, 4.5):
        x, y = math.cos(turn) * angle.sin(), math.sin(turn) * angle.sin()
        disks.append((0.4 * torch.stack([x, y, angle.cos()], 1), faces))
    return join(*disks, box([-0.2] * 3, [0.1] * 3))


def some_turned(mesh):
    vertices, faces = mesh
    turned = torch.rand(len(faces), generator=torch.Generator().manual_seed(1)) < 0.05
    return vertices, torch.where(turned[:, None], faces.flip(1), faces)


def seams(mesh):
    """Gives each face corners of its own at the same positions."""
    return mesh[0][mesh[1].reshape(-1)], torch.arange(3 * len(mesh[1])).view(-1, 3)


def scaled(mesh, scale, offset=0.0):
    return mesh[0] * scale + offset, mesh[1]


MESHES = {
    "one hole": lambda: (sphere(4)[0], sphere(4)[1][1:]),
    "many holes": lambda: without(sphere(3), 0.04),
    "half the faces": lambda: without(sphere(3), 0.5),
    "bands": lambda: bands(sphere(4)),
    "twice": lambda: join(bands(sphere(3)), bands(sphere(3)), bands(sphere(3, 0.4), 0.2)),
    "nested": lambda: join(without(sphere(3), 0.01), sphere(3, 0.3), without(sphere(3, 0.2), 0.1)),
    "sheet": sheet,
    "crossing sheets": lambda: join(sheet(), sheet(16, -0.1, 0.05), sheet(11, 0.3, -0.1)),
    "open box": open_box,
    "fins": fins,
    "some turned": lambda: some_turned(sphere(3)),
    "seams": lambda: seams(without(sphere(3), 0.05)),
    "closed": lambda: join(sphere(3), sphere(3, 0.4)),
    "huge": lambda: scaled(bands(sphere(4)), 1e6, 3e6),
    "tiny": lambda: scaled(without(sphere(3), 0.05), 1e-6),
    "no faces": lambda: (sphere(1)[0], sphere(1)[1][:0]),
}


def points_around(vertices, seed=0):
    """A grid, points far away, and clusters of all sizes near vertices, in random order."""
    generator = torch.Generator().manual_seed(seed)
    low, high = vertices.min(0).values, vertices.max(0).values
    extent = (high - low).max()
    line = torch.linspace(-0.63, 0.65, 12, dtype=torch.float64)
    grid = (low + high) / 2 + extent * torch.cartesian_prod(line, line, line)
    parts = [grid, (low + high) / 2 + 50 * extent * (torch.rand(99, 3, generator=generator) - 0.5)]
    for size in (1e-1, 1e-2, 1e-4, 1e-7):
        at_vertices, anywhere = vertices[torch.randint(len(vertices), (2, 12), generator=generator)]
        between = (at_vertices + anywhere.flip(0)) / 2  # often near triangles that close the mesh
        centers = torch.cat([at_vertices, between])[:, None]
        noise = torch.randn(24, 27, 3, generator=generator)
        parts.append((centers + size * extent * noise).flatten(0, 1))
    points = torch.cat([part.double() for part in parts])
    return points[torch.randperm(len(points), generator=generator)]


def assert_signs(vertices, faces, points, winding, level, decided=slice(None)):
    sign = winding_sign(vertices, faces, points, level=level)
    expected = (winding >= level).to(torch.int8) - (winding <= -level).to(torch.int8)
    assert torch.equal(sign[decided], expected[decided])


@pytest.mark.parametrize("name", MESHES)
def test_signs_are_those_of_the_reference(name):
    vertices, faces = MESHES[name]()
    points = points_around(vertices)
    winding = winding_number(vertices, faces, points, backend="reference")
    for level in LEVELS:
        decided = ((winding.abs() - level).abs() > TIE).nonzero()[:, 0]
        assert len(decided) > 0.9 * len(points)
        assert_signs(vertices, faces, points, winding, level, decided)
        assert_signs(vertices, faces, points, winding_number(vertices, faces, points), level)


@pytest.mark.parametrize("name", ["many holes", "bands", "sheet", "half the faces"])
def test_float32_has_the_signs_of_the_same_numbers_in_float64(name):
    vertices, faces = MESHES[name]()
    vertices = vertices.float()
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(2)) * 1.2 - 0.6
    sign = winding_sign(vertices, faces, points)
    assert torch.equal(sign, winding_sign(vertices.double(), faces, points.double()))
    winding = winding_number(vertices, faces, points)
    assert torch.equal(sign == 1, winding >= 0.5)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 511, 513])
def test_answers_do_not_depend_on_the_other_points(count):
    """Points are answered in groups, which differ with the number of points."""
    vertices, faces = MESHES["bands"]()
    points = points_around(vertices, seed=1)
    sign = winding_sign(vertices, faces, points)
    start = torch.arange(0, len(points) - count, len(points) // 9)
    for first in start.tolist():
        part = slice(first, first + count)
        assert torch.equal(winding_sign(vertices, faces, points[part]), sign[part])


def test_the_plane_of_an_opening_has_half_a_turn():
    """All rays through the opening are in one plane with the triangles that close it."""
    vertices, faces = open_box()
    line = torch.linspace(-0.47, 0.47, 21, dtype=torch.float64)
    points = torch.cartesian_prod(line, line, torch.tensor([0.5], dtype=torch.float64))
    assert (winding_sign(vertices, faces, points, level=0.49) == 1).all()
    assert (winding_sign(vertices, faces, points, level=0.51) == 0).all()
    assert (winding_sign(vertices, faces.flip(1), points, level=0.49) == -1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_on_a_closed_surface_are_on_its_upper_side(dtype):
    """As for inside_mesh: a box contains its lower faces, but not its upper faces."""
    vertices, faces = (x.to(dtype) if x.is_floating_point() else x for x in box([0] * 3, [1] * 3))
    points = torch.tensor([[0.3, 0.4, 0.0], [0.3, 0.4, 1.0], [0.0, 0.3, 0.4], [1.0, 0.3, 0.4]])
    sign = winding_sign(vertices, faces, points.to(dtype))
    assert sign.tolist() == [1, 0, 1, 0]
