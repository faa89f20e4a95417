"""Orients the faces of a mesh: consistently within each part, and each part outwards."""

import numpy as np
import torch

from occvae.geometry.mesh_checks import merge_equal
from occvae.ops.inside_mesh import winding_sign

# Distance from the surface of the points that test both sides of a face.
STEP = 1e-5
_PROBES = 8  # about this many faces of a part are tested


def orient_consistently(
    vertices: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flips faces so that neighbors agree. Neighbors are faces that share an edge with no other.

    The orientation that more of a part's area has is kept. Vertices at equal positions count as
    one.

    Args:
        vertices: (V, 3) float64.
        faces: (F, 3) int64.

    Returns:
        The faces, the number (F,) of the part of each face, and the numbers (N,) of parts that
        cannot be oriented, such as a Moebius strip. Their faces are unchanged.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second, same_way = _neighbors(vertices, faces)
    count = len(faces)
    # Each face is two nodes: as it is (f) and flipped (f + count). An edge links the nodes that
    # agree. A part is two components, one for either orientation, unless it cannot be oriented.
    starts = np.concatenate([first, first + count])
    ends = np.concatenate([second + count * same_way, second + count * ~same_way])
    links = coo_array((np.ones(len(starts), bool), (starts, ends)), (2 * count, 2 * count))
    _, labels = connected_components(links, directed=False)
    kept, flipped = labels[:count], labels[count:]
    names, parts = np.unique(np.minimum(kept, flipped), return_inverse=True)
    unorientable = np.unique(parts[kept == flipped])
    areas = np.linalg.norm(_normals(vertices[faces]), axis=1)
    is_first = kept == names[parts]
    balance = np.bincount(parts, np.where(is_first, areas, -areas), minlength=len(names))
    flip = (kept != flipped) & (is_first != (balance >= 0)[parts])
    return np.where(flip[:, None], faces[:, ::-1], faces), parts, unorientable


def _neighbors(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pairs of faces (P,) and (P,) at an edge, and whether both run along it the same way (P,)."""
    corners = merge_equal(vertices + 0.0)[faces]  # turns -0 into 0
    starts, ends = corners.reshape(-1), np.roll(corners, -1, axis=1).reshape(-1)
    edges = np.minimum(starts, ends) * len(vertices) + np.maximum(starts, ends)
    distinct = (corners != np.roll(corners, 1, axis=1)).all(1)
    sides = np.flatnonzero(np.repeat(distinct, 3))
    sides = sides[np.argsort(edges[sides], kind="stable")]
    _, place, count = np.unique(edges[sides], return_index=True, return_counts=True)
    pairs = place[count == 2]
    one, other = sides[pairs], sides[pairs + 1]
    return one // 3, other // 3, starts[one] == starts[other]


def _normals(triangles: np.ndarray) -> np.ndarray:
    """Normals (F, 3) of triangles (F, 3, 3), of length twice the area."""
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


def orient_outwards(
    vertices: np.ndarray, faces: np.ndarray, parts: np.ndarray
) -> tuple[np.ndarray, int]:
    """Orients the parts of a mesh outwards, and returns the faces and the number of flipped parts.

    If the volume of the whole mesh is negative, all
    faces are reversed first, and this is not counted as flipping. Then parts with negative volume
    are flipped, except those within other parts: they are cavities.

    Args:
        vertices: (V, 3) float64.
        faces: (F, 3) int64.
        parts: (F,) numbers from 0 of the parts, without gaps.
    """
    triangles = vertices[faces]
    normals = _normals(triangles)
    centers = triangles.mean(1)
    # Measured from the middle of each part, because the volume of an open part depends on the
    # reference point.
    sizes = np.bincount(parts)
    middles = np.stack([np.bincount(parts, x) for x in centers.T], axis=1) / sizes[:, None]
    volumes = np.bincount(parts, np.einsum("fi,fi->f", centers - middles[parts], normals))
    if volumes.sum() < 0:
        faces, normals, volumes = faces[:, ::-1], -normals, -volumes
    inverted = np.flatnonzero(volumes < 0)
    if len(inverted) == 0:
        return faces, 0
    # Test points on the side of some faces that is outside once the part is flipped.
    chosen = np.flatnonzero(np.isin(parts, inverted) & (normals != 0).any(1))
    chosen = chosen[np.argsort(parts[chosen], kind="stable")]
    _, first, count = np.unique(parts[chosen], return_index=True, return_counts=True)
    rank = np.arange(len(chosen)) - np.repeat(first, count)
    chosen = chosen[rank % np.maximum(1, np.repeat(count, count) // _PROBES) == 0]
    lengths = np.linalg.norm(normals[chosen], axis=1, keepdims=True)
    outside = torch.from_numpy(centers[chosen] - STEP * normals[chosen] / lengths)
    tensors = torch.from_numpy(vertices), torch.from_numpy(np.ascontiguousarray(faces))
    exposed = winding_sign(*tensors, outside).numpy() < 1
    turned = np.unique(parts[chosen[exposed]])
    turn = np.isin(parts, turned)
    return np.where(turn[:, None], faces[:, ::-1], faces), len(turned)


def edge_connected_parts(faces: np.ndarray) -> np.ndarray:
    """Number (F,) of the part of each face. Faces with a common edge belong to one part."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1), axis=-1)
    keys = ends[..., 0] * (int(faces.max()) + 1) + ends[..., 1]
    _, edges = np.unique(keys, return_inverse=True)
    edges = edges.reshape(-1)
    owners = np.repeat(np.arange(len(faces)), 3)
    size = len(faces) + int(edges.max()) + 1
    links = coo_array((np.ones(len(edges), bool), (owners, len(faces) + edges)), (size, size))
    _, labels = connected_components(links, directed=False)
    return np.unique(labels[: len(faces)], return_inverse=True)[1]
