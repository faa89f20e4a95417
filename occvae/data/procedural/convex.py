"""Convex polytopes: their planes, constructors for common pieces, and affine maps.

Lengths have no unit. +y is up, and the front of an object faces +z.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import ConvexHull

Point = Sequence[float] | np.ndarray
"""Three coordinates."""

_AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True, eq=False)
class Convex:
    """A convex polytope: the hull of `vertices` (V, 3) float64."""

    vertices: np.ndarray

    @cached_property
    def planes(self) -> np.ndarray:
        """Outward planes (F, 4). A point x is inside if n @ x + d <= 0 for every row (n, d)."""
        equations = ConvexHull(self.vertices).equations
        # Qhull triangulates facets with many corners, and repeats their plane per triangle.
        _, first = np.unique(np.round(equations, 9), axis=0, return_index=True)
        return np.ascontiguousarray(equations[first])

    @cached_property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner, (2, 3)."""
        return np.stack([self.vertices.min(axis=0), self.vertices.max(axis=0)])

    def affine(self, matrix: np.ndarray, offset: np.ndarray) -> Convex:
        """The image under x -> matrix @ x + offset, where `matrix` (3, 3) must be invertible."""
        return Convex(self.vertices @ np.asarray(matrix).T + offset)

    def grown(self, share: float) -> Convex:
        """The polytope scaled by 1 + `share` about the mean of its vertices."""
        center = self.vertices.mean(axis=0)
        return Convex(self.vertices + share * (self.vertices - center))


# Transforms of lists of polytopes.


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Rotation matrix (3, 3) about axis "x", "y" or "z", counterclockwise seen from its tip."""
    first, second = [(1, 2), (2, 0), (0, 1)][_AXES[axis]]
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def moved(parts: Iterable[Convex], offset: Point) -> list[Convex]:
    """The parts shifted by `offset` (3,)."""
    return [part.affine(np.eye(3), np.asarray(offset)) for part in parts]


def turned(
    parts: Iterable[Convex], axis: str, degrees: float, about: Point = (0.0, 0.0, 0.0)
) -> list[Convex]:
    """The parts rotated by `degrees` around the line along `axis` through `about` (3,)."""
    matrix, pivot = rotation(axis, degrees), np.asarray(about)
    return [part.affine(matrix, pivot - matrix @ pivot) for part in parts]


def scaled(parts: Iterable[Convex], factors: Point) -> list[Convex]:
    """The parts scaled about the origin by `factors` (3,). A factor of -1 mirrors."""
    return [part.affine(np.diag(factors), np.zeros(3)) for part in parts]


# Constructors.


def box(low: Point, high: Point) -> Convex:
    """Axis-aligned box between two corners (3,)."""
    corners = np.array([low, high], dtype=np.float64)
    pick = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
    return Convex(corners[pick, [0, 1, 2]])


def bevelled_box(low: Point, high: Point, bevel: float) -> Convex:
    """Box between two corners (3,) with edges bevelled by `bevel`."""
    inset = np.full(3, bevel)
    clouds = []
    for axis in range(3):
        kept = np.where(np.arange(3) == axis, 0.0, inset)
        clouds.append(box(np.asarray(low) + kept, np.asarray(high) - kept).vertices)
    return Convex(np.concatenate(clouds))


def polygon(sides: int, rx: float, ry: float | None = None, power: float = 2.0) -> np.ndarray:
    """Convex outline (sides, 2) of an ellipse or, with power > 2, of a rounded rectangle.

    The first edge is centered on the first axis, so that four sides make an upright square.
    """
    angle = (np.arange(sides) + 0.5) * (2.0 * np.pi / sides)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    curve = np.sign(unit) * np.abs(unit) ** (2.0 / power)
    return curve * [rx, rx if ry is None else ry]


def prism(
    outline: np.ndarray, low: float, high: float, axis: str = "y", taper: float = 1.0
) -> Convex:
    """Extrudes a convex outline (K, 2) along `axis` from `low` to `high`.

    The coordinates of the outline are the other two axes, in the order x, y, z. The outline at
    `high` is scaled by `taper`.
    """
    ends = [np.insert(outline, _AXES[axis], low, axis=1)]
    ends.append(np.insert(outline * taper, _AXES[axis], high, axis=1))
    return Convex(np.concatenate(ends))


def _frame(direction: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors (3,) normal to `direction` and to each other, the first close to `side`."""
    along = direction / np.linalg.norm(direction)
    first = side - along * (side @ along)
    first /= np.linalg.norm(first)
    return first, np.cross(along, first)


def frustum(start: Point, end: Point, r0: float, r1: float, sides: int = 12) -> Convex:
    """Frustum of a cone between two points (3,), with radius `r0` at start and `r1` at end."""
    near, far = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    direction = far - near
    # The coordinate axis farthest from the direction is never parallel to it.
    first, second = _frame(direction, np.eye(3)[np.argmin(np.abs(direction))])
    ring = polygon(sides, 1.0) @ np.stack([first, second])
    return Convex(np.concatenate([near + ring * r0, far + ring * r1]))


def ellipsoid(center: Point, radii: Point, sides: int = 12, rings: int = 6) -> Convex:
    """Polyhedron with vertices on an ellipsoid and poles on the y axis."""
    latitude = np.linspace(-np.pi / 2.0, np.pi / 2.0, rings + 1)[1:-1]
    circle = polygon(sides, 1.0)
    layers = [np.insert(circle * np.cos(a), 1, np.sin(a), axis=1) for a in latitude]
    unit = np.concatenate([*layers, [[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]])
    return Convex(unit * radii + np.asarray(center))


def loft(sections: Sequence[np.ndarray], closed: bool = False) -> list[Convex]:
    """Hulls of consecutive sections (K, 3) each. `closed` also joins the last to the first."""
    pairs = list(zip(sections[:-1], sections[1:], strict=True))
    if closed:
        pairs.append((sections[-1], sections[0]))
    return [Convex(np.concatenate(pair)) for pair in pairs]


def revolve(profile: np.ndarray, sides: int = 16) -> list[Convex]:
    """Stack of frusta around the y axis. `profile` (K, 2) holds (radius, y), with y ascending."""
    circle = polygon(sides, 1.0)
    return loft([np.insert(circle * radius, 1, y, axis=1) for radius, y in profile])


def sweep(
    path: np.ndarray,
    outline: np.ndarray,
    side: Point,
    closed: bool = False,
    scales: np.ndarray | None = None,
) -> list[Convex]:
    """Chain of hulls that sweeps an outline (K, 2) along `path` (P, 3).

    The first axis of the outline points along `side` (3,). The path must never be parallel to it.
    `scales` (P,) scales the outline at each node.
    """
    path = np.asarray(path, dtype=np.float64)
    if closed:
        tangents = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    else:
        tangents = np.gradient(path, axis=0)
    scales = np.ones(len(path)) if scales is None else scales
    sections = []
    for node, tangent, scale in zip(path, tangents, scales, strict=True):
        frame = np.stack(_frame(tangent, np.asarray(side, dtype=np.float64)))
        sections.append(node + scale * outline @ frame)
    return loft(sections, closed)


def arc(
    center: Point,
    radii: tuple[float, float],
    degrees: tuple[float, float],
    nodes: int,
    plane: str = "xy",
) -> np.ndarray:
    """Nodes (nodes, 3) on an elliptic arc in `plane` ("xy", "zy" or "xz") around `center` (3,)."""
    angle = np.radians(np.linspace(degrees[0], degrees[1], nodes))
    path = np.tile(np.asarray(center, dtype=np.float64), (nodes, 1))
    path[:, _AXES[plane[0]]] += radii[0] * np.cos(angle)
    path[:, _AXES[plane[1]]] += radii[1] * np.sin(angle)
    return path
