"""Packs meshes so small that they fit into a page: decimated, quantized and deflated.

Vertices are sorted by their first use in a face. The code of a corner is the next unused vertex
index minus its own index, so 0 introduces a new vertex. The code of a vertex is its difference from
the vertex before it, on a lattice of 2^16 steps along each axis of the bounding box. Most bytes are
then zero, so deflate compresses them well, and browsers can decode deflate. Colors follow, one
channel after the other. The decoder is mesh_data.js.
"""

import base64
import zlib
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

MAX_FACES = 50_000
_STEPS = (1 << 16) - 1


def pack_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray | None = None,
    *,
    max_faces: int = MAX_FACES,
) -> dict[str, Any] | None:
    """Packs a mesh into JSON values that mesh_data.js decodes.

    Args:
        vertices: (V, 3) floating. Faces with a vertex that is not finite are left out, and so are
            vertices without a face.
        faces: (F, 3) integer.
        colors: (V, 3) uint8 sRGB.
        max_faces: a mesh with more faces is decimated if fast_simplification is installed.

    Returns:
        A dict with the numbers of `vertices` and `faces`, `offset` and `step` (3,) of the lattice,
        `colored` (whether there are colors) and `data` in base64. None if no face is left.

    Raises:
        ValueError: an array has the wrong shape.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces)
    if vertices.ndim != 2 or faces.ndim != 2 or vertices.shape[1] != 3 or faces.shape[1] != 3:
        raise ValueError(f"expected (V, 3) and (F, 3), got {vertices.shape} and {faces.shape}")
    if colors is not None and np.shape(colors) != vertices.shape:
        raise ValueError(f"expected {len(vertices)} colors, got {np.shape(colors)}")
    faces = usable_faces(vertices, faces)
    if len(faces) > max_faces:
        vertices, faces, colors = _decimated(vertices, faces, colors, max_faces)
    if not len(faces):
        return None
    order, codes = _first_use_codes(faces)
    vertices = vertices[order]
    offset = vertices.min(axis=0)
    step = (vertices.max(axis=0) - offset) / _STEPS
    lattice = np.rint((vertices - offset) / np.where(step > 0, step, 1.0)).astype(np.int64)
    differences = np.diff(lattice, axis=0, prepend=0).astype(np.int16).astype(np.int32)
    # Differences 0, -1, 1, -2, ... become 0, 1, 2, 3, ..., so small ones have a high byte of 0.
    zigzag = ((differences << 1) ^ (differences >> 31)).astype("<u2")
    data = b"".join(_planes(axis) for axis in zigzag.T) + _planes(codes.astype("<u4"))
    if colors is not None:
        data += np.asarray(colors, np.uint8)[order].T.tobytes()
    return {
        "vertices": len(vertices),
        "faces": len(faces),
        "offset": offset.tolist(),
        "step": step.tolist(),
        "colored": colors is not None,
        "data": base64.b64encode(zlib.compress(data, 9)).decode(),
    }


def usable_faces(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Returns the faces whose three vertices exist, are finite and are distinct."""
    known = ((faces >= 0) & (faces < len(vertices))).all(axis=1)
    faces = faces[known].astype(np.int64)
    finite = np.isfinite(vertices).all(axis=1)[faces].all(axis=1)
    distinct = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    return faces[finite & distinct]


def _decimated(
    vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None, max_faces: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Decimates a mesh. A new vertex takes the color of the nearest old vertex."""
    try:
        import fast_simplification
    except ImportError:
        return vertices, faces, colors
    used, faces = np.unique(faces, return_inverse=True)  # drop vertices without a face
    old, faces = vertices[used], faces.reshape(-1, 3)
    new, faces = fast_simplification.simplify(
        np.ascontiguousarray(old, np.float32), faces.astype(np.int32), target_count=max_faces
    )
    new = np.asarray(new, np.float64)
    faces = usable_faces(new, np.asarray(faces))
    if colors is not None:
        colors = np.asarray(colors)[used][cKDTree(old).query(new)[1]]
    return new, faces, colors


def _first_use_codes(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the vertices in the order of their first use by the faces (F, 3).

    Returns:
        The old index of each vertex, and a code (3 F,) per corner. The code is the number of
        vertices used by earlier corners, minus the new index. It is 0 for a new vertex.
    """
    used, first, corners = np.unique(faces.ravel(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(used), np.int64)
    rank[order] = np.arange(len(used))
    corners = rank[corners.ravel()]
    following = np.maximum.accumulate(np.concatenate([[-1], corners[:-1]])) + 1
    return used[order], following - corners


def _planes(values: np.ndarray) -> bytes:
    """Returns the lowest bytes of all values, then their next bytes, and so on."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1).T.tobytes()
