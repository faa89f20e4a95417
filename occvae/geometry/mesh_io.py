"""Reads mesh files and normalizes meshes to the unit cube. Every error is one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from occvae.errors import UserError
from occvae.geometry.mesh_files.gltf import read_gltf
from occvae.geometry.mesh_files.obj import read_obj
from occvae.geometry.mesh_files.off import read_off
from occvae.geometry.mesh_files.ply import read_ply
from occvae.geometry.mesh_files.stl import read_stl
from occvae.ops.inside_mesh import GREATEST_COORDINATE

if TYPE_CHECKING:
    import trimesh

_READERS: dict[str, Callable[[Path], tuple[np.ndarray, np.ndarray]]] = {
    ".obj": lambda path: read_obj(path.read_bytes()),
    ".off": lambda path: read_off(path.read_bytes()),
    ".ply": lambda path: read_ply(path.read_bytes()),
    ".stl": lambda path: read_stl(path.read_bytes()),
    ".stl_ascii": lambda path: read_stl(path.read_bytes()),
    ".glb": lambda path: read_gltf(path.read_bytes(), path.parent),
    ".gltf": lambda path: read_gltf(path.read_bytes(), path.parent),
}
# Packages of the extra `formats` that trimesh needs.
_PACKAGES = {
    ".3mf": "lxml",
    ".3dxml": "lxml",
    ".xaml": "lxml",
    ".dae": "pycollada",
    ".zae": "pycollada",
}
# Average copies per vertex up to which `weld` merges. More are distinct vertices, and their pairs
# would fill the memory.
_MOST_COPIES = 64


@dataclass(frozen=True)
class UnitMesh:
    """A mesh in the unit cube: its bounding box is centered at 0 and has a longest edge of 1.

    Original coordinates are vertices * scale + location.

    Attributes:
        vertices: (V, 3) float64, at distinct positions, each used by a face.
        faces: (F, 3) int64.
        location: (3,) float64, center of the original bounding box.
        scale: longest edge of the original bounding box.
    """

    vertices: np.ndarray
    faces: np.ndarray
    location: np.ndarray
    scale: float


def mesh_endings() -> set[str]:
    """File endings that `read_mesh` can read, in lower case with their dot.

    Those that trimesh reads depend on the installed packages: lxml adds .3mf, for example.
    """
    from trimesh.exchange.load import mesh_formats

    point_clouds = {"xyz"}
    return _READERS.keys() | {f".{ending}" for ending in set(mesh_formats()) - point_clouds}


def missing_packages() -> dict[str, str]:
    """Maps file endings that need packages which are not installed to the command or the reason."""
    from trimesh.exceptions import ExceptionWrapper
    from trimesh.exchange.load import mesh_loaders

    missing = {}
    for name, loader in mesh_loaders.items():
        ending = f".{name}"
        if isinstance(loader, ExceptionWrapper):
            try:
                loader()
            except ImportError as error:
                package = _PACKAGES.get(ending)
                missing[ending] = f"pip install {package}" if package else str(error)
    return missing


def read_mesh(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the triangles of a mesh file, all parts together in scene coordinates.

    A file is read as a whole or refused. Only positions, faces and placements matter. Polygons are
    cut into triangles, which keep the area of concave ones. Nothing is fetched from a network.
    OBJ, OFF, PLY, STL and glTF are read by `occvae.geometry.mesh_files`, others by trimesh.

    Args:
        path: a file with one of `mesh_endings`.

    Returns:
        Vertices (V, 3) float64 and faces (F, 3) int64.

    Raises:
        UserError: the file does not exist, is cut or damaged, uses something that is not read, or
            has no faces.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.stat().st_size == 0:
            raise UserError("the file is empty")
        reader = _READERS.get(path.suffix.lower(), _read_with_trimesh)
        with np.errstate(all="ignore"):  # `normalize_mesh` refuses what is not finite
            vertices, faces = reader(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except MemoryError:
        raise UserError(f"{path}: too large for the memory") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    if not len(faces):
        found = "a point cloud" if len(vertices) else "no mesh"
        raise UserError(f"{path}: no faces ({found} in it)")
    return vertices, faces


def _read_with_trimesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    ending = path.suffix.lower()
    if ending in (missing := missing_packages()):
        raise UserError(f"{ending} files need a package that is missing: {missing[ending]}")
    try:
        scene = load_scene(path)
        clouds = [part for part in scene.geometry.values() if type(part).__name__ == "PointCloud"]
        mesh = scene.to_mesh()
        vertices = np.asarray(mesh.vertices, np.float64).reshape(-1, 3)
        faces = np.asarray(mesh.faces, np.int64).reshape(-1, 3)
    except Exception as error:  # trimesh's loaders do not check files and raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"not a mesh that trimesh can read ({reason[:200]})") from None
    return (vertices, faces) if len(faces) or not clouds else (clouds[0].vertices, faces)


def load_scene(path: Path) -> trimesh.Scene:
    """Reads a file with trimesh as it is, without textures. May raise any exception."""
    import trimesh
    from trimesh.resolvers import FilePathResolver

    options: dict[str, Any] = {
        "file_type": path.suffix[1:].lower(),
        "resolver": FilePathResolver(str(path)),
        "process": False,
        "skip_materials": True,
    }
    with path.open("rb") as file:  # trimesh cannot open file names that are not UTF-8
        return trimesh.load_scene(file, **options)


def normalize_mesh(vertices: np.ndarray, faces: np.ndarray) -> UnitMesh:
    """Moves and scales a mesh to the unit cube, merges equal vertices and drops unused ones.

    Args:
        vertices: (V, 3) floating.
        faces: (F, 3) integer indices of vertices.

    Returns:
        The normalized mesh, with the scale and location that map it back.

    Raises:
        UserError: there are no faces, an index is out of range, a vertex is not finite or too
            large, or all vertices are at one point.
    """
    if not len(faces):
        raise UserError("the mesh has no faces")
    outside = ((faces < 0) | (faces >= len(vertices))).any(1).sum()
    if outside:
        raise UserError(f"{outside} of {len(faces)} faces have indices out of range")
    used, faces = np.unique(faces, return_inverse=True)
    vertices = np.asarray(vertices, np.float64)[used]
    broken = (~(np.abs(vertices) <= GREATEST_COORDINATE)).any(1).sum()
    if broken:
        raise UserError(
            f"{broken} of {len(vertices)} vertices are not finite (NaN, infinite or above "
            f"{GREATEST_COORDINATE:g})"
        )
    low, high = vertices.min(0), vertices.max(0)
    scale = float((high - low).max())
    if scale < np.finfo(np.float64).tiny:
        raise UserError("the mesh has no extent: all vertices are at one point")
    location = low + (high - low) / 2
    positions, merged = np.unique(
        (vertices - location) / scale + 0.0, axis=0, return_inverse=True
    )  # adding 0 turns -0 into 0
    return UnitMesh(positions, merged.reshape(-1)[faces.reshape(-1, 3)], location, scale)


def weld(
    vertices: np.ndarray, faces: np.ndarray, distance: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Merges vertices that are close together and drops faces that become degenerate.

    Args:
        vertices: (V, 3) float64, as in `UnitMesh`.
        faces: (F, 3) int64.
        distance: vertices at most this far apart are merged, also in chains.

    Returns:
        Vertices and faces of the merged mesh. None if vertices have so many others within the
        distance that they cannot be copies of one another.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    tree = KDTree(vertices)
    if tree.count_neighbors(tree, distance) > _MOST_COPIES * len(vertices):
        return None
    pairs = tree.query_pairs(distance, output_type="ndarray")
    links = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), (len(vertices),) * 2)
    _, labels = connected_components(links, directed=False)
    _, first, merged = np.unique(labels, return_index=True, return_inverse=True)
    corners = merged.reshape(-1)[faces]
    distinct = (corners != np.roll(corners, 1, axis=1)).all(1)
    used, corners = np.unique(corners[distinct], return_inverse=True)
    return vertices[first[used]], corners.reshape(-1, 3)
