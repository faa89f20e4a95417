"""Cuts polygons and strips into triangles."""

from __future__ import annotations

import numpy as np

from occvae.errors import UserError

# A triangle of a fan with less than this part of the polygon's area counts as degenerate.
_LEAST_PART = 1e-12


def check_range(indices: np.ndarray, count: int) -> None:
    """Raises an error if a face has an index outside of 0 ... count - 1."""
    outside = (indices < 0) | (indices >= count)
    if outside.any():
        index = int(indices.reshape(-1)[int(outside.reshape(-1).argmax())])
        raise UserError(f"a face has index {index}, but there are {count} vertices")


def triangulate(vertices: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Cuts polygons into triangles, which keep the area of planar polygons, also of concave ones.

    Convex polygons become fans around their first corner. Polygons of fewer than three corners
    have no area and are left out.

    Args:
        vertices: (V, 3) float64.
        corners: int64 indices of vertices, all polygons one after the other.
        sizes: number of corners per polygon.

    Returns:
        Faces (F, 3) int64.
    """
    check_range(corners, len(vertices))
    if (sizes == 3).all():
        return corners.reshape(-1, 3)
    starts = np.cumsum(sizes) - sizes
    faces = [np.empty((0, 3), np.int64)]
    for size in np.unique(sizes):
        if size >= 3:
            places = starts[sizes == size][:, None] + np.arange(size)
            faces.append(_triangulate_alike(vertices, corners[places]))
    return np.concatenate(faces)


def _triangulate_alike(vertices: np.ndarray, polygons: np.ndarray) -> np.ndarray:
    """Triangulates polygons with the same number of corners."""
    size = polygons.shape[1]
    if size == 3:
        return polygons
    fan = _fan(size)
    chosen = polygons[:, fan]
    bad = ~_keep_orientation(vertices, polygons, fan)
    if size == 4 and bad.any():
        other = np.roll(polygons[bad], -1, axis=1)
        chosen[bad] = other[:, fan]
        bad[bad] = ~_keep_orientation(vertices, other, fan)
    pieces = [_cut(vertices, polygon) for polygon in polygons[bad]]
    return np.concatenate([chosen[~bad].reshape(-1, 3), *pieces])


def _fan(size: int) -> np.ndarray:
    second = np.arange(1, size - 1)
    return np.stack([np.zeros_like(second), second, second + 1], axis=1)


def _keep_orientation(vertices: np.ndarray, polygons: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """Tells whether all triangles of a fan face the same way. Then the fan does not overlap."""
    origin = vertices[polygons[:, 0]]
    edges = vertices[polygons[:, 1:]] - origin[:, None]
    normals = np.cross(edges[:, fan[:, 1] - 1], edges[:, fan[:, 2] - 1])
    total = normals.sum(1)
    part = np.einsum("pti,pi->pt", normals, total)
    return (part > _LEAST_PART * (total**2).sum(1)[:, None]).all(1)


def _cut(vertices: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Triangulates one polygon by clipping ears in its plane."""
    import manifold3d

    polygon = polygon[polygon != np.roll(polygon, 1)]  # equal neighbors are one corner
    if len(polygon) < 3:
        return np.empty((0, 3), np.int64)
    points = vertices[polygon] - vertices[polygon[0]]
    points = points / np.abs(points).max()
    normal = np.cross(points, np.roll(points, -1, axis=0)).sum(0)
    length = np.linalg.norm(normal)
    if len(polygon) == 3 or not length > _LEAST_PART:  # also if it is NaN
        return polygon[_fan(len(polygon))]
    normal = normal / length
    across = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    across = across / np.linalg.norm(across)
    plane = np.stack([points @ across, points @ np.cross(normal, across)], axis=1)
    return polygon[manifold3d.triangulate([plane], allow_convex=False)]


def strip_faces(indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns the triangles of triangle strips, where every second one is turned around.

    Args:
        indices: int64 indices of vertices, all rows one after the other. -1 ends a strip.
        sizes: number of indices per row. A row holds one or more strips.

    Returns:
        Faces (F, 3) int64 without those that have a corner twice, which only connect strips.
    """
    if len(indices) < 3:
        return np.empty((0, 3), np.int64)
    begins = np.concatenate([[True], indices[:-1] == -1])
    begins[(np.cumsum(sizes) - sizes)[sizes > 0]] = True
    strip = np.cumsum(begins)
    place = np.arange(len(indices)) - np.flatnonzero(begins)[strip - 1]
    faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], axis=1)
    odd = place[:-2] % 2 == 1
    faces[odd] = faces[odd][:, [1, 0, 2]]
    whole = (strip[:-2] == strip[2:]) & (faces != -1).all(1)
    distinct = (faces != np.roll(faces, 1, axis=1)).all(1)
    return faces[whole & distinct]
