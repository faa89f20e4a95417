"""Voxels that the surface of a mesh touches or encloses, and occupancies of points from voxels.

Grids are (R, R, R) bool over the cube [-0.5, 0.5]^3, indexed [x, y, z]; the center of cell i is at
(i + 0.5) / R - 0.5.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

_PAIRS = 1 << 17  # of faces and blocks of cells, tested at once: 100 MB
_BLOCKS = 4  # along the longest edge of a face's bounding box, at first
_OCTANTS = np.indices((2, 2, 2)).reshape(3, 8).T


def cell_centers(
    resolution: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(R^3, 3) centers of the cells, in C order of [x, y, z]."""
    line = (torch.arange(resolution, device=device, dtype=dtype) + 0.5) / resolution - 0.5
    return torch.cartesian_prod(line, line, line)


def voxels_inside(contains: Callable[[np.ndarray], np.ndarray], resolution: int) -> np.ndarray:
    """(R, R, R) bool: cells whose center is inside.

    Args:
        contains: (N, 3) float64 points to (N,) bool.
        resolution: R.
    """
    centers = cell_centers(resolution, dtype=torch.float64).numpy()
    return contains(centers).reshape((resolution,) * 3)


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
    levels = np.ceil(np.log2(np.maximum(extents.max(1, initial=1) / _BLOCKS, 1))).astype(np.int64)
    for level in np.unique(levels):
        chosen = np.flatnonzero(levels == level)
        for face, cell in _blocks(chosen, low, extents, 1 << level):
            _mark(grid, triangles, high, face, cell, 1 << level)
    return grid


def _blocks(
    faces: np.ndarray, low: np.ndarray, extents: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each face the blocks of size^3 cells that its bounding box is cut into: some faces and the
    lowest cells of their blocks at a time."""
    counts = -(-extents[faces] // size)
    ends = counts.prod(1).cumsum()
    start = done = 0
    while start < len(faces):
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        numbers = np.diff(ends[start:stop], prepend=done)
        which = np.repeat(np.arange(start, stop), numbers)
        place = np.arange(done, ends[stop - 1]) - np.repeat(ends[start:stop] - numbers, numbers)
        _, height, depth = counts[which].T
        offset = np.stack([place // (height * depth), place // depth % height, place % depth], 1)
        yield faces[which], low[faces[which]] + size * offset
        start, done = stop, ends[stop - 1]


def _mark(
    grid: np.ndarray,
    triangles: np.ndarray,
    high: np.ndarray,
    face: np.ndarray,
    cell: np.ndarray,
    size: int,
) -> None:
    """Sets the cells that faces touch, of blocks of size^3 cells from `cell` (M, 3) to `high`.

    Blocks are cut in eight as long as they are touched: most of a large box is far from its face.
    """
    pending = [(face, cell, size)]
    while pending:
        face, cell, size = pending.pop()
        if len(face) > _PAIRS:
            pending += [(face[_PAIRS:], cell[_PAIRS:], size)]
            face, cell = face[:_PAIRS], cell[:_PAIRS]
        touched = _touch(triangles[face], cell, size)
        face, cell = face[touched], cell[touched]
        if size == 1:
            grid[tuple(cell.T)] = True
            continue
        parts = (cell[:, None] + size // 2 * _OCTANTS).reshape(-1, 3)
        owners = np.repeat(face, len(_OCTANTS))
        within = (parts <= high[owners]).all(1)
        if within.any():
            pending.append((owners[within], parts[within], size // 2))


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


def _touch(triangles: np.ndarray, cells: np.ndarray, size: int) -> np.ndarray:
    """(M,) bool: whether closed triangles (M, 3, 3) and blocks have a common point.

    Blocks are of size^3 cells, the lowest of them `cells` (M, 3), and among those that the
    triangle's bounding box touches.
    """
    corners = triangles - cells[:, None] - 0.5 * size  # the block is [-size / 2, size / 2]^3
    sides = np.roll(corners, -1, axis=1) - corners
    normal = np.cross(sides[:, 0], sides[:, 1])
    touch = _overlap(normal, corners, size)
    for side in range(3):
        for axis in np.eye(3):
            touch &= _overlap(np.cross(axis, sides[:, side]), corners, size)
    return touch


def _overlap(axis: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """Whether the projections of triangle and block on `axis` (M, 3) meet."""
    length = np.abs(axis).sum(1)
    # That of a block is more than that of any cell in it: none may be lost with its block.
    tolerance = 1e-12 * size * length * (size + np.abs(corners).max((1, 2)))
    reach = 0.5 * size * length + tolerance
    place = np.einsum("mi,mki->mk", axis, corners)
    return (place.min(1) <= reach) & (place.max(1) >= -reach)
