"""Samples points and normals on the surface of a mesh."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Surface:
    """Points on a surface with their normals.

    Args:
        points: (N, 3), in units of the object's longest bounding-box edge.
        normals: (N, 3), of any length. They are scaled to length 1. A zero normal stays zero, and
            metrics count it as agreeing with no direction.

    Raises:
        ValueError: a wrong shape, or values that are not finite.
    """

    points: np.ndarray
    normals: np.ndarray

    def __post_init__(self) -> None:
        points = np.asarray(self.points, np.float64)
        normals = np.asarray(self.normals, np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or normals.shape != points.shape:
            raise ValueError(
                f"points and normals must be (N, 3); got {points.shape} and {normals.shape}"
            )
        if not (np.isfinite(points).all() and np.isfinite(normals).all()):
            raise ValueError("points and normals must be finite")
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "normals", normals / np.where(lengths > 0, lengths, 1.0))

    def __len__(self) -> int:
        return len(self.points)


def sample_surface(
    vertices: np.ndarray,
    faces: np.ndarray,
    count: int,
    seed: int | Sequence[int] | np.random.SeedSequence,
) -> Surface:
    """Draws points independently and uniformly by area, with the normals of their faces.

    The distribution does not depend on how the surface is triangulated, nor on the order of
    vertices and faces. The same input and seed give the same points, bit for bit.

    Args:
        vertices: (V, 3) finite.
        faces: (F, 3) indices of vertices.
        count: number of points. A surface without area gives no points.
        seed: seed of numpy's default generator. [seed, number of the shape] makes shapes
            independent of one another and of their order.

    Returns:
        `count` points with unit normals.

    Raises:
        ValueError: a wrong shape, a vertex that is not finite, or an index out of range.
    """
    triangles = _triangles(vertices, faces)
    crosses = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    areas = 0.5 * np.linalg.norm(crosses, axis=1)
    cumulative = np.cumsum(areas)
    if count == 0 or len(areas) == 0 or cumulative[-1] == 0.0:
        return Surface(np.empty((0, 3)), np.empty((0, 3)))
    along, first, second = np.random.default_rng(seed).random((3, count))
    # Takes the first face with a larger cumulative area, which never has zero area. The product can
    # round up to the total, hence the minimum.
    chosen = np.searchsorted(cumulative, along * cumulative[-1], side="right")
    chosen = np.minimum(chosen, np.flatnonzero(areas)[-1])
    root = np.sqrt(first)
    weights = np.stack([1.0 - root, root * (1.0 - second), root * second], axis=1)
    points = np.einsum("nk,nkd->nd", weights, triangles[chosen])
    return Surface(points, crosses[chosen])


def _triangles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Corners (F, 3, 3) float64 of the faces, after checking them."""
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces)
    if len(vertices) == 0 or len(faces) == 0:
        return np.empty((0, 3, 3))
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(
            f"vertices must be (V, 3) and faces (F, 3); got {vertices.shape} and {faces.shape}"
        )
    if not np.isfinite(vertices).all():
        raise ValueError("vertices must be finite")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(
            f"faces must have indices from 0 to {len(vertices) - 1}; "
            f"got {faces.min()} to {faces.max()}"
        )
    return vertices[faces]
