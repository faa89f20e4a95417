"""Nearest neighbors: SciPy's k-d tree on the CPU, all distances in blocks on a GPU."""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

# With SciPy's defaults (16 points per leaf, balanced, compact nodes), searches on surfaces of
# 100,000 points take several times as long.
_TREE = {"leafsize": 64, "balanced_tree": False, "compact_nodes": False}
_BLOCK_ELEMENTS = 1 << 26  # float32 distances per block: 256 MB, two blocks at a time


def nearest_neighbors(
    queries: np.ndarray, references: np.ndarray, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest reference point of each query point.

    Among references at equal positions, the CPU returns the first. A GPU searches in float32 and
    may return another reference that is equally near up to rounding. Distances are computed in
    float64 on both.

    On the CPU a query is slow if thousands of references are almost equally far away, as from the
    center of a sphere, because it is compared with each of them. 100,000 such queries take minutes.

    Args:
        queries: (N, 3) finite.
        references: (M, 3) finite, M at least 1.
        device: device to search on.

    Returns:
        Euclidean distances (N,) float64 and indices (N,) int64 into `references`.

    Example:
        >>> nearest_neighbors(np.zeros((1, 3)), np.array([[0.0, 0, 2], [0, 1, 0]]))
        (array([1.]), array([1]))
    """
    queries = np.ascontiguousarray(queries, np.float64)
    references = np.ascontiguousarray(references, np.float64)
    device = torch.device(device)
    if device.type != "cpu":
        return _search_blocks(queries, references, device)
    return _search_tree(queries, references)


def _search_tree(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Searches on the CPU. Arguments and result are as in `nearest_neighbors`.

    Points are sorted along a curve through space, so consecutive queries use the same branches of
    the tree.
    """
    kept = _first_of_equals(references)  # the tree cannot divide equal points
    query_order, reference_order = _along_curve(queries), kept[_along_curve(references[kept])]
    tree = cKDTree(references[reference_order], **_TREE)
    distances, indices = np.empty(len(queries)), np.empty(len(queries), np.int64)
    # As many threads as PyTorch uses, so that one setting limits both.
    found = tree.query(queries[query_order], workers=torch.get_num_threads())
    distances[query_order], indices[query_order] = found[0], reference_order[found[1]]
    return distances, indices


def _first_of_equals(points: np.ndarray) -> np.ndarray:
    """Ascending indices of the distinct points of (N, 3), the first of each group of equals."""
    order = np.lexsort(points.T)
    ordered = points[order]
    new = np.ones(len(points), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.sort(order[new])


def _along_curve(points: np.ndarray) -> np.ndarray:
    """Order (N,) of points along a Morton curve of 2^10 cells per side of their bounding box."""
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
    center = references.mean(axis=0)  # float32 is more precise around zero
    points = torch.from_numpy(references - center).to(device, torch.float32)
    rows = max(1, _BLOCK_ELEMENTS // len(references))
    blocks = torch.from_numpy(queries - center).to(device, torch.float32).split(rows)
    nearest = torch.cat([_squared_distances(block, points).argmin(dim=1) for block in blocks])
    indices = nearest.cpu().numpy()
    return np.linalg.norm(queries - references[indices], axis=1), indices


def _squared_distances(queries: Tensor, references: Tensor) -> Tensor:
    """Squared distances (N, M) between (N, 3) and (M, 3), from differences of coordinates.

    The expansion |q|^2 - 2 q.r + |r|^2 would lose the digits of small distances.
    """
    total = (queries[:, None, 0] - references[:, 0]).square_()
    for axis in (1, 2):
        difference = queries[:, None, axis] - references[:, axis]
        total.addcmul_(difference, difference)
    return total
