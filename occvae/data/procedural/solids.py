"""Constructive solids built from convex polytopes.

A `Body` is a union of convex polytopes minus another union of convex polytopes. A `Solid` is a
union of bodies. Each polytope is given by its vertices, and its planes follow from them. The same
description therefore gives an exact inside test (half-spaces) and a watertight mesh (hulls and
booleans), which agree by construction.

Lengths have no unit. +y is up, and the front of an object faces +z.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import manifold3d
import numpy as np

from occvae.data.procedural.convex import Convex

# Vertices closer than this are merged. Slivers between them would become holes in programs that
# merge close vertices when they read a mesh.
_MESH_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Body:
    """The union of `parts` minus the union of `cuts`."""

    parts: tuple[Convex, ...]
    cuts: tuple[Convex, ...] = ()

    @classmethod
    def of(cls, parts: Iterable[Convex], cuts: Iterable[Convex] = ()) -> Body:
        """A body from any iterables of polytopes."""
        return cls(tuple(parts), tuple(cuts))

    def affine(self, matrix: np.ndarray, offset: np.ndarray) -> Body:
        """The image of the body under x -> matrix @ x + offset."""
        return Body.of(
            (part.affine(matrix, offset) for part in self.parts),
            (cut.affine(matrix, offset) for cut in self.cuts),
        )


@dataclass(frozen=True, eq=False)
class Solid:
    """The union of `bodies`. The cuts of a body do not affect the other bodies."""

    bodies: tuple[Body, ...]

    @classmethod
    def of(cls, *bodies: Body) -> Solid:
        """A solid from bodies given one by one."""
        return cls(bodies)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Whether each of the points (N, 3) is inside the solid, (N,) bool."""
        points = np.asarray(points, dtype=np.float64)
        # Sorted by x, so that each polytope tests only one contiguous range of points.
        order = np.argsort(points[:, 0])
        columns = np.ascontiguousarray(points[order].T)
        inside = np.zeros(len(points), dtype=bool)
        for body in self.bodies:
            # A body without cuts can write directly into the result.
            mask = np.zeros_like(inside) if body.cuts else inside
            for part in body.parts:
                _mark(columns, part, mask, True)
            for cut in body.cuts:
                _mark(columns, cut, mask, False)
            inside |= mask
        answer = np.empty_like(inside)
        answer[order] = inside
        return answer

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Watertight surface: vertices (V, 3) float64, and outward faces (F, 3) int64."""
        vertices, faces = self._mesh
        return vertices.copy(), faces.copy()

    @cached_property
    def _mesh(self) -> tuple[np.ndarray, np.ndarray]:
        joined = _join([_body_manifold(body) for body in self.bodies])
        raw = joined.simplify(_MESH_TOLERANCE).to_mesh64()
        vertices = np.array(raw.vert_properties[:, :3], dtype=np.float64)
        return vertices, np.array(raw.tri_verts, dtype=np.int64)

    def affine(self, matrix: np.ndarray, offset: np.ndarray) -> Solid:
        """The image of the solid under x -> matrix @ x + offset."""
        return Solid(tuple(body.affine(matrix, offset) for body in self.bodies))

    def separated(self, least: float = 3e-4, most: float = 1e-3) -> Solid:
        """The solid with each polytope grown by its own small share, from `least` to `most`.

        Polytopes that share a face touch only up to rounding errors, and booleans would leave
        slivers and empty pockets between them. After growing, they overlap.
        """
        # Multiples of the golden ratio modulo 1 are never nearly equal for neighbors.
        shares = (least + (most - least) * (k * 0.6180339887 % 1.0) for k in count())
        return Solid(
            tuple(
                Body.of(
                    [part.grown(next(shares)) for part in body.parts],
                    [cut.grown(next(shares)) for cut in body.cuts],
                )
                for body in self.bodies
            )
        )

    def volume(self) -> float:
        """Volume that the surface encloses."""
        vertices, faces = self._mesh
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)

    def normalized(self) -> Solid:
        """The solid with its bounding box centered on the origin and a longest edge of 1."""
        vertices, faces = self._mesh
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        scale = 1.0 / (high - low).max()
        offset = -scale * (low + high) / 2.0
        moved = self.affine(np.eye(3) * scale, offset)
        # The mesh is known, and moving it is much cheaper than repeating the booleans.
        moved.__dict__["_mesh"] = (vertices * scale + offset, faces)
        return moved


def _mark(columns: np.ndarray, convex: Convex, mask: np.ndarray, value: bool) -> None:
    """Sets `mask` to `value` at the points inside `convex`. `columns` (3, N) is sorted by x."""
    low, high = convex.bounds
    first = np.searchsorted(columns[0], low[0], side="left")
    last = np.searchsorted(columns[0], high[0], side="right")
    y, z = columns[1, first:last], columns[2, first:last]
    near = (y >= low[1]) & (y <= high[1]) & (z >= low[2]) & (z <= high[2])
    near &= mask[first:last] != value
    index = np.flatnonzero(near) + first
    planes = convex.planes
    signed = planes[:, :3] @ columns[:, index]
    mask[index[(signed <= -planes[:, 3:]).all(axis=0)]] = value


def _join(manifolds: list[manifold3d.Manifold]) -> manifold3d.Manifold:
    return manifold3d.Manifold.batch_boolean(manifolds, manifold3d.OpType.Add)


def _body_manifold(body: Body) -> manifold3d.Manifold:
    hull = manifold3d.Manifold.hull_points
    joined = _join([hull(part.vertices) for part in body.parts])
    if body.cuts:
        joined -= _join([hull(cut.vertices) for cut in body.cuts])
    return joined
