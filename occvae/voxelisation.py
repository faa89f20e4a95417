"""Voxels of triangle meshes, solid and of the surface, and occupancies of points from voxels.

Grids are (R, R, R) bool over the cube [-0.5, 0.5]^3, indexed [x, y, z]; the centre of cell i is at
(i + 0.5) / R - 0.5.
"""

import numpy as np
import torch

from occvae.ops.inside_mesh import inside_mesh

_PAIRS = 1 << 20  # of faces and cells, tested at once


def cell_centres(resolution: int) -> np.ndarray:
    """(R^3, 3) float64, in C order of [x, y, z]."""
    line = (np.arange(resolution) + 0.5) / resolution - 0.5
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)


def solid_voxels(
    vertices: np.ndarray, faces: np.ndarray, resolution: int, *, method: str = "parity"
) -> np.ndarray:
    """(R, R, R) bool: cells whose centre is inside the mesh; arguments as in `inside_mesh`."""
    inside = inside_mesh(
        torch.from_numpy(np.ascontiguousarray(vertices)),
        torch.from_numpy(np.ascontiguousarray(faces)),
        torch.from_numpy(cell_centres(resolution)),
        method=method,
    )
    return inside.numpy().reshape((resolution,) * 3)


def surface_voxels(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> np.ndarray:
    """(R, R, R) bool: cells that a face touches, their boundary included.

    By separating axes (Akenine-Moller 2001), in float64; a cell within rounding error of a face is
    taken.

    Args:
        vertices: (V, 3) finite; parts outside the cube are ignored.
        faces: (F, 3) indices.
    """
    grid = np.zeros((resolution,) * 3, dtype=bool)
    triangles = (np.asarray(vertices, np.float64)[faces] + 0.5) * resolution  # in cells
    low = np.clip(np.ceil(triangles.min(1)) - 1, 0, resolution).astype(np.int64)
    high = np.clip(np.floor(triangles.max(1)), -1, resolution - 1).astype(np.int64)
    extents = np.maximum(high - low + 1, 0)
    sizes = extents.prod(1)
    ends = sizes.cumsum()
    start = 0
    while start < len(triangles):
        done = ends[start] - sizes[start]
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        face = np.repeat(np.arange(start, stop), sizes[start:stop])
        place = np.arange(len(face)) + done - (ends - sizes)[face]
        _, height, depth = extents[face].T
        offset = np.stack([place // (height * depth), place // depth % height, place % depth], 1)
        cell = low[face] + offset
        touched = cell[_touch(triangles[face], cell)]
        grid[tuple(touched.T)] = True
        start = stop
    return grid


def fill_voxels(surface: np.ndarray) -> np.ndarray:
    """(R, R, R) bool: the cells of a surface and all that it closes off from the outside.

    The inside of a mesh that is watertight only as far as cells are wide. Cells are connected
    through their faces; a surface that reaches the grid's sides is not closed there.
    """
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(np.asarray(surface, dtype=bool))


def occupancies_from_voxels(voxels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) bool: whether points (N, 3) are in an occupied cell, its lower sides included."""
    resolution = len(voxels)
    cell = np.floor((points + 0.5) * resolution)
    inside = np.all((cell >= 0) & (cell < resolution), axis=1)  # not for NaN
    result = np.zeros(len(points), dtype=bool)
    result[inside] = voxels[tuple(cell[inside].astype(np.int64).T)]
    return result


def _touch(triangles: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(M,) bool: whether closed triangles (M, 3, 3) and unit cells (M, 3) have a common point.

    The cells are among those that the triangle's bounding box touches.
    """
    corners = triangles - cells[:, None] - 0.5  # the cell is [-0.5, 0.5]^3
    sides = np.roll(corners, -1, axis=1) - corners
    normal = np.cross(sides[:, 0], sides[:, 1])
    touch = _overlap(normal, corners)
    for side in range(3):
        for axis in np.eye(3):
            touch &= _overlap(np.cross(axis, sides[:, side]), corners)
    return touch


def _overlap(axis: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether the projections of triangle and cell on `axis` (M, 3) meet."""
    tolerance = 1e-12 * np.abs(axis).sum(1) * (1 + np.abs(corners).max((1, 2)))
    reach = 0.5 * np.abs(axis).sum(1) + tolerance
    place = np.einsum("mi,mki->mk", axis, corners)
    return (place.min(1) <= reach) & (place.max(1) >= -reach)
