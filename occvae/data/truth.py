"""Surfaces of stored shapes for contact sheets."""

import numpy as np

from occvae.data.shards import Shard
from occvae.geometry.voxels_to_mesh import grid_mesh


def true_mesh(shard: Shard, local: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the true surface of a shape.

    It is the stored mesh, or else the surface of the coarsest voxels. Without voxels, it is the
    surface of a grid of 32^3 that is computed from the points.

    Args:
        shard: shard of the shape.
        local: number of the shape within the shard.

    Returns:
        Vertices (V, 3) float and faces (F, 3) int64.
    """
    return shard.mesh(local) or grid_mesh(_grid(shard, local), 0.5)


def _grid(shard: Shard, local: int) -> np.ndarray:
    """The coarsest voxels (R, R, R), or the share of points inside each of 32^3 cells."""
    if shard.voxel_resolutions:
        return shard.voxels(local)
    points, inside = shard.points(local, 0, shard.num_points)
    edges = [np.linspace(-0.5, 0.5, 33)] * 3
    counts, hits = (np.histogramdd(chosen, edges)[0] for chosen in (points, points[inside]))
    return hits / np.maximum(counts, 1)
