"""What is done to a mesh after it was extracted: the largest part, smoothing, fewer faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from occvae.errors import UserError
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

LEAST_FACES = 4  # of a closed mesh
# Factors of shrinking and growing: 1 / 0.5 - 1 / 0.525 = 0.095 is the pass-band frequency, which
# Taubin 1995 wants to be between 0.01 and 0.1.
_SHRINK, _GROW = 0.5, 0.525


def process_mesh(
    mesh: trimesh.Trimesh, *, largest: bool = False, smooth: int = 0, decimate: int | None = None
) -> trimesh.Trimesh:
    """`largest_component`, `smooth_mesh` and `decimate_mesh`, in this order, as far as asked for.

    Args:
        mesh: left as it is.
        largest: drops all other components.
        smooth: rounds of smoothing.
        decimate: faces to keep.
    """
    if largest:
        mesh = largest_component(mesh)
    if smooth:
        mesh = smooth_mesh(mesh, smooth)
    if decimate is not None:
        mesh = decimate_mesh(mesh, decimate)
    return mesh


def largest_component(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The component with the most area, of those that share no vertex; set normals are kept.

    The surface of a cavity inside is a component of its own, and goes.
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
    # Only there if somebody set them: what trimesh would calculate, it will for the result too.
    normals = mesh.vertex_normals[kept] if "vertex_normals" in mesh._cache else None
    return trimesh.Trimesh(mesh.vertices[kept], faces, vertex_normals=normals, process=False)


def smooth_mesh(mesh: trimesh.Trimesh, rounds: int) -> trimesh.Trimesh:
    """Smooths without shrinking (Taubin 1995): each round is a step inwards and one outwards.

    Vertices move and faces stay, so a closed mesh stays closed.
    """
    from trimesh.smoothing import filter_taubin

    check_count("rounds", rounds, least=0)
    result = mesh.copy()
    if rounds and len(mesh.faces):
        filter_taubin(result, lamb=_SHRINK, nu=_GROW, iterations=2 * rounds)
    return result


def decimate_mesh(mesh: trimesh.Trimesh, num_faces: int) -> trimesh.Trimesh:
    """About `num_faces` faces by collapsing edges of least quadric error (Garland, Heckbert 1997).

    A mesh that has no more than that comes back as it is. Closed meshes mostly stay closed, but
    `occvae.geometry.mesh_checks.check_mesh` has to say so.

    Args:
        num_faces: at least 4.

    Raises:
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
    """UserError where fast-simplification is not installed."""
    try:
        from fast_simplification import simplify
    except ImportError:
        raise UserError(
            "decimation needs fast-simplification: pip install fast-simplification"
        ) from None
    return simplify
