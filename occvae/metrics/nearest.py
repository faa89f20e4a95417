"""Nearest neighbours: SciPy's k-d tree on CPU, all distances in blocks on a GPU."""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

# Larger than SciPy's default: as fast where surfaces are near one another, and up to three times as
# fast where they are far apart and most of the tree has to be searched.
_LEAF_SIZE = 64
_BLOCK_ELEMENTS = 1 << 26  # of float32 distances: 256 MB, two at a time


def nearest_neighbours(
    queries: np.ndarray, references: np.ndarray, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of each query.

    A GPU searches in float32, so of references that are equally near up to its rounding it may
    name another than the CPU; distances are measured in float64 on both.

    Args:
        queries: (N, 3) finite.
        references: (M, 3) finite, M at least 1.
        device: to search on.

    Returns:
        Euclidean distances (N,) float64 and indices (N,) int64.
    """
    queries = np.ascontiguousarray(queries, np.float64)
    references = np.ascontiguousarray(references, np.float64)
    device = torch.device(device)
    if device.type != "cpu":
        return _search_blocks(queries, references, device)
    # The threads that PyTorch may use, so that one setting bounds all.
    tree = cKDTree(references, _LEAF_SIZE)
    distances, indices = tree.query(queries, workers=torch.get_num_threads())
    return distances, indices.astype(np.int64)


def _search_blocks(
    queries: np.ndarray, references: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    centre = references.mean(axis=0)  # float32 has more digits left around zero
    points = torch.from_numpy(references - centre).to(device, torch.float32)
    rows = max(1, _BLOCK_ELEMENTS // len(references))
    blocks = torch.from_numpy(queries - centre).to(device, torch.float32).split(rows)
    indices = torch.cat([_squared_distances(block, points).argmin(dim=1) for block in blocks])
    indices = indices.cpu().numpy()
    return np.linalg.norm(queries - references[indices], axis=1), indices


def _squared_distances(queries: Tensor, references: Tensor) -> Tensor:
    """(N, 3), (M, 3) -> (N, M), by differences: |q|^2 - 2 q.r + |r|^2 would lose near points."""
    total = (queries[:, None, 0] - references[:, 0]).square_()
    for axis in (1, 2):
        difference = queries[:, None, axis] - references[:, axis]
        total.addcmul_(difference, difference)
    return total
