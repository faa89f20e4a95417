"""The true surface of a stored shape, to be drawn."""

import numpy as np

from occvae.data.shards import Shard
from occvae.geometry.voxels_to_mesh import grid_mesh


def true_mesh(shard: Shard, local: int) -> tuple[np.ndarray, np.ndarray]:
    """The stored mesh, or else the surface of the coarsest voxels, or of what the points tell.

    Args:
        shard: of the dataset.
        local: shape within the shard.

    Returns:
        Vertices (V, 3) floating and faces (F, 3) int64.
    """
    return shard.mesh(local) or grid_mesh(_grid(shard, local), 0.5)


def _grid(shard: Shard, local: int) -> np.ndarray:
    """(R, R, R) the coarsest voxels, or the share of points inside each cell of 32^3."""
    if shard.voxel_resolutions:
        return shard.voxels(local)
    points, inside = shard.points(local, 0, shard.num_points)
    edges = [np.linspace(-0.5, 0.5, 33)] * 3
    counts, hits = (np.histogramdd(chosen, edges)[0] for chosen in (points, points[inside]))
    return hits / np.maximum(counts, 1)
