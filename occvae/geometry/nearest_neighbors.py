"""Nearest neighbors: SciPy's k-d tree on CPU, all distances in blocks on a GPU."""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

# SciPy's defaults (16 points a leaf, balanced, boxes shrunk to their points) search surfaces of
# 100,000 points several times as long.
_TREE = {"leafsize": 64, "balanced_tree": False, "compact_nodes": False}
_BLOCK_ELEMENTS = 1 << 26  # of float32 distances: 256 MB, two at a time


def nearest_neighbors(
    queries: np.ndarray, references: np.ndarray, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of each query.

    Of equal references, the CPU names the first. A GPU searches in float32, so of references that
    are equally near up to its rounding it may name another; distances are measured in float64 on
    both. On the CPU, queries that thousands of references are almost equally far from, as from the
    center of a sphere, are compared with each of these: 100,000 such queries take minutes.

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
    return _search_tree(queries, references)


def _search_tree(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbors follow one another on both sides, so that the branch of one is the next one's."""
    kept = _first_of_equals(references)  # no branching tells equal ones apart
    query_order, reference_order = _along_curve(queries), kept[_along_curve(references[kept])]
    tree = cKDTree(references[reference_order], **_TREE)
    distances, indices = np.empty(len(queries)), np.empty(len(queries), np.int64)
    # The threads that PyTorch may use, so that one setting bounds all.
    found = tree.query(queries[query_order], workers=torch.get_num_threads())
    distances[query_order], indices[query_order] = found[0], reference_order[found[1]]
    return distances, indices


def _first_of_equals(points: np.ndarray) -> np.ndarray:
    """Ascending indices of the points (N, 3), of equal ones that of the first."""
    order = np.lexsort(points.T)
    ordered = points[order]
    new = np.ones(len(points), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.sort(order[new])


def _along_curve(points: np.ndarray) -> np.ndarray:
    """(N,) order of points on a Morton curve of 2^10 cells a side of their bounding box."""
    low = points.min(axis=0, initial=np.inf)
    extent = np.max(points - low, initial=0.0)
    cells = np.minimum((points - low) / (extent or 1.0) * 1024.0, 1023.0).astype(np.int64)
    code = np.zeros(len(points), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


def _search_blocks(
    queries: np.ndarray, references: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    center = references.mean(axis=0)  # float32 has more digits left around zero
    points = torch.from_numpy(references - center).to(device, torch.float32)
    rows = max(1, _BLOCK_ELEMENTS // len(references))
    blocks = torch.from_numpy(queries - center).to(device, torch.float32).split(rows)
    nearest = torch.cat([_squared_distances(block, points).argmin(dim=1) for block in blocks])
    indices = nearest.cpu().numpy()
    return np.linalg.norm(queries - references[indices], axis=1), indices


def _squared_distances(queries: Tensor, references: Tensor) -> Tensor:
    """(N, 3), (M, 3) -> (N, M), by differences: |q|^2 - 2 q.r + |r|^2 would lose near points."""
    total = (queries[:, None, 0] - references[:, 0]).square_()
    for axis in (1, 2):
        difference = queries[:, None, axis] - references[:, axis]
        total.addcmul_(difference, difference)
    return total
