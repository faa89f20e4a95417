"""Converts voxel grids to meshes: a smooth surface of the trilinear field, or cubes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.sparse_grid import SparseGrid

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress


def sample_volume(volume: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Interpolates a volume at points, trilinear between the cell centers and 0 outside.

    The result is differentiable with respect to `volume`, and in bilinear mode to `points`.

    Args:
        volume: (B, R, R, R), indexed [x, y, z], over the unit cube [-0.5, 0.5]^3.
        points: (B, N, 3) or (1, N, 3) world coordinates.
        mode: "bilinear", or "nearest" for the value of the cell that a point lies in.

    Returns:
        (B, N) float32.
    """
    # For grid_sample the last axis is x, and the faces of the cube are at -1 and 1.
    grid = 2.0 * points.flip(-1).expand(len(volume), -1, -1)
    values = F.grid_sample(
        volume[:, None].float(), grid[:, :, None, None], mode=mode, align_corners=False
    )
    return values[:, 0, :, 0, 0]


def march_padded(grid: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Extracts the surface of values (R, R, R) padded with zeros, which closes the surface.

    NaN counts as 0.

    Returns:
        Vertices (V, 3) float64 in units of cells, and faces (F, 3) int64. Value [i, j, k] lies at
        (i + 1, j + 1, k + 1).
    """
    padded = torch.from_numpy(np.pad(np.nan_to_num(grid.astype(np.float32)), 1))
    bounds = (0.0, float(len(padded) - 1))
    ((vertices, faces),) = marching_cubes(
        SparseGrid.from_dense(padded[None], bounds=bounds, level=level)
    )
    return vertices.numpy().astype(np.float64), faces.numpy()


def grid_mesh(grid: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Surface of values (R, R, R) at the cell centers of the unit cube, as vertices and faces."""
    vertices, faces = march_padded(grid, level)
    return (vertices - 0.5) / len(grid) - 0.5, faces


def smooth_meshes(
    volumes: Tensor,
    threshold: float,
    resolution: int,
    progress: Progress | None = None,
    *,
    refine_vertices: int = 0,
    normals: bool = False,
) -> list[trimesh.Trimesh]:
    """Extracts the surface of the trilinear field of each volume with `extract_mesh`.

    Args:
        volumes: (B, R, R, R) probabilities over the unit cube, indexed [x, y, z]; 0 outside.
        threshold: probability at the surface.
        resolution: cells along each axis of the padded cube.
        progress: as in `extract_mesh`.
        refine_vertices: as in `extract_mesh`.
        normals: as in `extract_mesh`.

    Returns:
        B meshes in world units.
    """
    from occvae.geometry.extract_mesh import extract_mesh

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        values = points.new_empty(len(points))
        for shape, volume in enumerate(volumes):
            mine = shape_index == shape
            values[mine] = sample_volume(volume[None], points[mine][None])[0]
        return values

    return extract_mesh(
        field,
        resolution=resolution,
        coarse_resolution=_coarse_resolution(resolution, volumes.shape[-1]),
        level=threshold,
        num_shapes=len(volumes),
        device=volumes.device,
        progress=progress,
        refine_vertices=refine_vertices,
        normals=normals,
    )


def _coarse_resolution(resolution: int, voxels: int) -> int:
    """Coarse resolution of about two lattice points per voxel, if the resolution has as many.

    A single voxel just above the threshold can still be missed between them.
    """
    coarse = resolution
    while coarse % 2 == 0 and coarse // 2 >= max(32, 2 * voxels):
        coarse //= 2
    return coarse


def block_mesh(occupied: np.ndarray) -> trimesh.Trimesh:
    """Makes a watertight mesh of the squares between occupied and empty voxels.

    Each square is cut into eight triangles around its center. Where two cubes touch in an edge
    only, four squares meet. Each cube then gets its own vertex at the middle of that edge, so every
    edge of the mesh has exactly two triangles.

    Args:
        occupied: (R, R, R) bool over the unit cube, indexed [x, y, z].

    Returns:
        The mesh in world units, with faces counter-clockwise seen from outside.
    """
    import trimesh

    corners, cubes = _boundary_squares(np.pad(occupied, 1))
    if len(corners) == 0:
        return trimesh.Trimesh()
    # On a lattice of half voxels, corners, middles and centers have integer coordinates.
    middles = (corners + np.roll(corners, -1, axis=1)) // 2
    centers = corners.sum(axis=1) // 4
    owners = np.where(_is_shared_by_four(middles), cubes[:, None] + 1, 0)
    rings = np.stack([_keys(corners, 0), _keys(middles, owners)], axis=2).reshape(-1, 8, 4)
    hubs = _keys(centers, 0)
    keys = np.concatenate([rings.reshape(-1, 4), hubs])
    unique, number = np.unique(keys, axis=0, return_inverse=True)
    around = number.reshape(-1)[: 8 * len(rings)].reshape(-1, 8)
    middle = number.reshape(-1)[8 * len(rings) :]
    triangles = np.stack(
        [around, np.roll(around, -1, axis=1), np.repeat(middle[:, None], 8, axis=1)], axis=-1
    )
    vertices = (unique[:, :3] / 2.0 - 1.0) / len(occupied) - 0.5
    return trimesh.Trimesh(vertices, triangles.reshape(-1, 3), process=False)


def _boundary_squares(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (N, 4, 3) of squares in half voxels, counter-clockwise, and the cube (N,) of each."""
    corners, cubes = [], []
    for axis in range(3):
        along, across = (axis + 1) % 3, (axis + 2) % 3
        for side in (0, 1):
            empty_beyond = ~np.roll(padded, 1 - 2 * side, axis=axis)
            cells = np.argwhere(padded & empty_beyond)
            square = np.zeros((4, 3), np.int64)
            square[:, axis] = 2 * side
            square[:, along] = [0, 2, 2, 0]
            square[:, across] = [0, 0, 2, 2]
            corners.append(2 * cells[:, None] + (square if side else square[::-1]))
            cubes.append(np.ravel_multi_index(tuple(cells.T), padded.shape))
    return np.concatenate(corners), np.concatenate(cubes)


def _is_shared_by_four(middles: np.ndarray) -> np.ndarray:
    """Whether four squares meet at the edges with these middles (N, 4, 3), (N, 4) bool."""
    _, number, count = np.unique(
        middles.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True
    )
    return (count == 4)[number.reshape(-1)].reshape(middles.shape[:2])


def _keys(positions: np.ndarray, owners: np.ndarray | int) -> np.ndarray:
    """Keys (..., 4) that identify vertices: position and owner."""
    owners = np.broadcast_to(owners, positions.shape[:-1])
    return np.concatenate([positions, owners[..., None]], axis=-1)
