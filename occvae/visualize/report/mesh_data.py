"""Meshes small enough to be part of a page: decimated, quantized, and coded for deflate.

Vertices are in the order of their first use by a face. A corner is then coded as its distance below
the next vertex that is not used yet (0 introduces it), and a vertex as its difference from the one
before, on a lattice of 2^16 steps along each axis of the bounding box. Most bytes are then zero,
which is what deflate is good at; browsers have it built in. The decoder is mesh_data.js.
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
    intensities: np.ndarray | None = None,
    *,
    max_faces: int = MAX_FACES,
) -> dict[str, Any] | None:
    """JSON values that mesh_data.js decodes.

    Args:
        vertices: (V, 3) floating. Those that are not finite, and no face's, are left out.
        faces: (F, 3) integer.
        intensities: (V,) in [0, 1], for color; kept in 255 steps.
        max_faces: more are decimated where fast_simplification is installed.

    Returns:
        `vertices` and `faces` counted, `offset` and `step` (3,) of the lattice, `data` in base64,
        and whether `colored`; None where no face is left.

    Raises:
        ValueError: wrong shapes.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces)
    if vertices.ndim != 2 or faces.ndim != 2 or vertices.shape[1] != 3 or faces.shape[1] != 3:
        raise ValueError(f"expected (V, 3) and (F, 3), got {vertices.shape} and {faces.shape}")
    if intensities is not None and np.shape(intensities) != (len(vertices),):
        raise ValueError(f"expected {len(vertices)} intensities, got {np.shape(intensities)}")
    faces = _usable(vertices, faces)
    if len(faces) > max_faces:
        vertices, faces, intensities = _decimated(vertices, faces, intensities, max_faces)
    if not len(faces):
        return None
    order, codes = _first_use_codes(faces)
    vertices = vertices[order]
    offset = vertices.min(axis=0)
    step = (vertices.max(axis=0) - offset) / _STEPS
    lattice = np.rint((vertices - offset) / np.where(step > 0, step, 1.0)).astype(np.int64)
    differences = np.diff(lattice, axis=0, prepend=0).astype(np.int16).astype(np.int32)
    zigzag = ((differences << 1) ^ (differences >> 31)).astype("<u2")  # small ones stay small
    data = b"".join(_planes(axis) for axis in zigzag.T) + _planes(codes.astype("<u4"))
    if intensities is not None:
        shades = np.nan_to_num(np.asarray(intensities, np.float64)[order], nan=1.0)
        data += np.rint(255 * shades.clip(0, 1)).astype(np.uint8).tobytes()
    return {
        "vertices": len(vertices),
        "faces": len(faces),
        "offset": offset.tolist(),
        "step": step.tolist(),
        "colored": intensities is not None,
        "data": base64.b64encode(zlib.compress(data, 9)).decode(),
    }


def _usable(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces of three distinct vertices that exist and are finite."""
    known = ((faces >= 0) & (faces < len(vertices))).all(axis=1)
    faces = faces[known].astype(np.int64)
    finite = np.isfinite(vertices).all(axis=1)[faces].all(axis=1)
    distinct = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    return faces[finite & distinct]


def _decimated(
    vertices: np.ndarray, faces: np.ndarray, intensities: np.ndarray | None, max_faces: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Fewer faces; a vertex that remains has the intensity of the nearest old one."""
    try:
        import fast_simplification
    except ImportError:
        return vertices, faces, intensities
    used, faces = np.unique(faces, return_inverse=True)  # not all that came with the mesh
    old, faces = vertices[used], faces.reshape(-1, 3)
    new, faces = fast_simplification.simplify(
        np.ascontiguousarray(old, np.float32), faces.astype(np.int32), target_count=max_faces
    )
    new = np.asarray(new, np.float64)
    faces = _usable(new, np.asarray(faces))
    if intensities is not None:
        intensities = np.asarray(intensities)[used][cKDTree(old).query(new)[1]]
    return new, faces, intensities


def _first_use_codes(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Old indices of the vertices in order of first use, and the (3 F,) codes of the corners."""
    used, first, corners = np.unique(faces.ravel(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(used), np.int64)
    rank[order] = np.arange(len(used))
    corners = rank[corners.ravel()]
    following = np.maximum.accumulate(np.concatenate([[-1], corners[:-1]])) + 1
    return used[order], following - corners


def _planes(values: np.ndarray) -> bytes:
    """All lowest bytes, then all next ones, ..."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1).T.tobytes()
