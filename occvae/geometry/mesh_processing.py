"""Cleans extracted meshes: keeps the largest component, smooths, and reduces faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from occvae.errors import UserError
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

LEAST_FACES = 4  # a closed mesh has at least four
# Factors of the inward and the outward step. The pass-band frequency 1 / 0.5 - 1 / 0.525 = 0.095 is
# within the range 0.01 to 0.1 that Taubin (1995) recommends.
_SHRINK, _GROW = 0.5, 0.525


def process_mesh(
    mesh: trimesh.Trimesh, *, largest: bool = False, smooth: int = 0, decimate: int | None = None
) -> trimesh.Trimesh:
    """Applies `largest_component`, `smooth_mesh` and `decimate_mesh` as requested, in this order.

    Args:
        mesh: input, not modified.
        largest: keep only the largest component.
        smooth: rounds of smoothing; 0 for none.
        decimate: number of faces to reduce the mesh to; None for no reduction.

    Returns:
        The processed mesh, or `mesh` itself if nothing was requested.

    Raises:
        ValueError: `smooth` is negative or `decimate` is less than 4.
        UserError: `decimate` needs fast-simplification, which is not installed.
    """
    if largest:
        mesh = largest_component(mesh)
    if smooth:
        mesh = smooth_mesh(mesh, smooth)
    if decimate is not None:
        mesh = decimate_mesh(mesh, decimate)
    return mesh


def largest_component(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Returns the component with the largest area. Components share no vertices.

    The surface of a cavity is a component of its own and is removed. Vertex normals that were set
    on the mesh are kept.
    """
    import trimesh
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if len(mesh.faces) == 0:
        return mesh.copy()
    starts, ends = mesh.faces[:, [0, 1]].reshape(-1), mesh.faces[:, [1, 2]].reshape(-1)
    size = len(mesh.vertices)
    links = coo_array((np.ones(len(starts), bool), (starts, ends)), shape=(size, size))
    _, component = connected_components(links, directed=False)
    of_face = component[mesh.faces[:, 0]]
    largest = np.bincount(of_face, weights=mesh.area_faces).argmax()
    kept = component == largest
    faces = (np.cumsum(kept) - 1)[mesh.faces[of_face == largest]]
    # The cache has them only if they were set or read. Others are computed again on request.
    normals = mesh.vertex_normals[kept] if "vertex_normals" in mesh._cache else None
    return trimesh.Trimesh(mesh.vertices[kept], faces, vertex_normals=normals, process=False)


def smooth_mesh(mesh: trimesh.Trimesh, rounds: int) -> trimesh.Trimesh:
    """Smooths a mesh without shrinking it (Taubin, SIGGRAPH 1995).

    Each round is one step inwards and one outwards. Only vertices move, so a closed mesh stays
    closed.

    Args:
        mesh: input, not modified.
        rounds: number of rounds, at least 0.

    Raises:
        ValueError: `rounds` is negative.
    """
    from trimesh.smoothing import filter_taubin

    check_count("rounds", rounds, least=0)
    result = mesh.copy()
    if rounds and len(mesh.faces):
        filter_taubin(result, lamb=_SHRINK, nu=_GROW, iterations=2 * rounds)
    return result


def decimate_mesh(mesh: trimesh.Trimesh, num_faces: int) -> trimesh.Trimesh:
    """Reduces a mesh to about `num_faces` faces.

    Collapses edges in the order of their quadric error (Garland and Heckbert, SIGGRAPH 1997).
    Closed meshes usually stay closed, which `occvae.geometry.mesh_checks.check_mesh` can verify.

    Args:
        mesh: input, not modified.
        num_faces: target number of faces, at least 4.

    Returns:
        The reduced mesh, or a copy of `mesh` if it has no more faces than that.

    Raises:
        ValueError: `num_faces` is less than 4.
        UserError: fast-simplification is not installed.
    """
    import trimesh

    check_count("num_faces", num_faces, least=LEAST_FACES)
    if len(mesh.faces) <= num_faces:
        return mesh.copy()
    simplify = import_simplify()
    vertices, faces = simplify(
        np.asarray(mesh.vertices, np.float64),
        np.asarray(mesh.faces, np.int32),
        target_count=num_faces,
    )
    return trimesh.Trimesh(vertices.astype(np.float64), faces.astype(np.int64), process=False)


def import_simplify() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Imports fast_simplification.simplify. Raises UserError if it is not installed."""
    try:
        from fast_simplification import simplify
    except ImportError:
        raise UserError(
            "decimation needs fast-simplification: pip install fast-simplification"
        ) from None
    return simplify
