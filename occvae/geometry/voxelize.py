"""Converts meshes to voxels that the surface touches or encloses, and voxels to occupancies.

Grids are (R, R, R) bool over the cube [-0.5, 0.5]^3, indexed [x, y, z]. The center of cell i is at
(i + 0.5) / R - 0.5.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

_PAIRS = 1 << 17  # pairs of a face and a block of cells tested at once, about 100 MB
_BLOCKS = 4  # blocks along the longest edge of a face's bounding box, before any is divided
_OCTANTS = np.indices((2, 2, 2)).reshape(3, 8).T


def cell_centers(
    resolution: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Centers (R^3, 3) of the cells, in C order of [x, y, z]."""
    line = (torch.arange(resolution, device=device, dtype=dtype) + 0.5) / resolution - 0.5
    return torch.cartesian_prod(line, line, line)


def voxels_inside(contains: Callable[[np.ndarray], np.ndarray], resolution: int) -> np.ndarray:
    """Returns the cells whose center is inside, (R, R, R) bool.

    Args:
        contains: maps points (N, 3) float64 to (N,) bool.
        resolution: R, cells along each axis.
    """
    centers = cell_centers(resolution, dtype=torch.float64).numpy()
    return contains(centers).reshape((resolution,) * 3)


def surface_voxels(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> np.ndarray:
    """Returns the closed cells that a face touches, (R, R, R) bool.

    Tests separating axes (Akenine-Moller 2001) in float64. A cell within rounding error of a face
    counts as touched.

    Args:
        vertices: (V, 3) finite. Parts outside the cube are ignored.
        faces: (F, 3) indices of vertices.
        resolution: R, cells along each axis.
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
    """Cuts the bounding box of each face into blocks of size^3 cells.

    Yields:
        (M,) faces and (M, 3) lowest cells of their blocks, about _PAIRS at a time.
    """
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
    """Sets the cells of blocks that their faces touch.

    Touched blocks are cut into eight until they are single cells. This is fast because most of a
    large bounding box is far from its face.

    Args:
        grid: (R, R, R) bool, modified.
        triangles: (F, 3, 3) in cells.
        high: (F, 3) highest cell of each face's bounding box.
        face: (M,) face of each block.
        cell: (M, 3) lowest cell of each block.
        size: cells along an edge of a block.
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
    """Fills the cells that a surface encloses, (R, R, R) bool.

    This gives an inside to meshes with gaps narrower than a cell. Cells are connected through their
    faces. A surface that reaches the sides of the grid is not closed there.

    Args:
        surface: (R, R, R) bool, cells that the surface touches.
    """
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(np.asarray(surface, dtype=bool))


def occupancies_from_voxels(voxels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points (N, 3) are in an occupied cell, (N,) bool. Cells include their lower sides."""
    resolution = len(voxels)
    cell = np.floor((points + 0.5) * resolution)
    inside = np.all((cell >= 0) & (cell < resolution), axis=1)  # False for NaN
    result = np.zeros(len(points), dtype=bool)
    result[inside] = voxels[tuple(cell[inside].astype(np.int64).T)]
    return result


def _touch(triangles: np.ndarray, cells: np.ndarray, size: int) -> np.ndarray:
    """Whether closed triangles (M, 3, 3) and their blocks have a common point, (M,) bool.

    A block has size^3 cells, the lowest at `cells` (M, 3). It must touch the bounding box of its
    triangle, because the axes of the box are not tested.
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
    """Whether the projections of triangle and block on `axis` (M, 3) overlap, (M,) bool."""
    length = np.abs(axis).sum(1)
    # A block has more tolerance than any cell in it, so no touched cell is lost with its block.
    tolerance = 1e-12 * size * length * (size + np.abs(corners).max((1, 2)))
    reach = 0.5 * size * length + tolerance
    place = np.einsum("mi,mki->mk", axis, corners)
    return (place.min(1) <= reach) & (place.max(1) >= -reach)
