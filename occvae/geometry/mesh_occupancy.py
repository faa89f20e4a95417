"""What is inside a mesh of any kind: the most exact way of telling that this mesh allows.

Three ways are tried in turn, and the first with a solid that has the mesh as its surface is taken:

    parity    crossings of a ray, exact, where each edge has an even number of faces
    winding   |generalized winding number| >= 0.5, for holes, and for overlaps of closed parts
    voxels    the cells that the surface touches and all they close off, for sheets that bound
              nothing

Nothing is repaired: the solid is defined for the mesh as it is, but for corners that rounding has
parted, as in files of triangles without shared corners.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from occvae.geometry.mesh_checks import MeshReport, check_mesh
from occvae.geometry.mesh_io import UnitMesh, weld
from occvae.geometry.surface_sampling import sample_surface
from occvae.geometry.voxelize import (
    cell_centers,
    fill_voxels,
    occupancies_from_voxels,
    surface_voxels,
    voxels_inside,
)
from occvae.ops.inside_mesh import inside_mesh, winding_number

VOXEL_RESOLUTION = 128  # of sheets
_WOUND_RESOLUTION = 64  # of the cells that share a winding number
_WELDED = 1e-6  # ten roundings of coordinates in single precision
# On either side of a face, a point this far away must tell inside from outside.
_STEP = 1e-5
# Next to a face that bounds a solid |winding| is about 1 on one side; next to a sheet, 0.5 on both.
_CLEARLY_INSIDE = 0.75
# The share of a mesh's surface that has to bound the solid.
_BOUNDING_SHARE = 0.9
_NUM_SAMPLES = 4096
_PROBES = 8  # faces of a part
_OUTSIDE, _INSIDE, _UNCLEAR = range(3)  # states of cells


@dataclass(frozen=True)
class MeshOccupancy:
    """A mesh and what is inside it, in the unit cube; a `Shape`."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64, outwards where the mesh has an outside
    method: str  # "parity", "winding" or "voxels"
    verdict: str  # what is wrong with the mesh and how its inside was told, in one line
    # (R, R, R) states of cells: all that there is of "voxels"; of "winding" those of a closed mesh,
    # whose winding number differs only within cells that the surface touches.
    cells: np.ndarray | None = None

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        return self.vertices, self.faces

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points to (N,) bool."""
        if self.method == "parity":
            return inside_mesh(*self._tensors(points)).numpy()
        if self.cells is None:
            return self.winding(points) >= 0.5
        inside = occupancies_from_voxels(self.cells == _INSIDE, points)
        unclear = occupancies_from_voxels(self.cells == _UNCLEAR, points)
        inside[unclear] = self.winding(points[unclear]) >= 0.5
        return inside

    def voxelize(self, resolution: int) -> np.ndarray:
        """(R, R, R) bool: cells whose center is inside; for sheets, cells that they touch."""
        if self.method == "voxels":
            return fill_voxels(surface_voxels(self.vertices, self.faces, resolution))
        return voxels_inside(self.contains, resolution)

    def winding(self, points: np.ndarray) -> np.ndarray:
        """(N,) magnitudes of the winding number: how faces are oriented as a whole is no matter."""
        return winding_number(*self._tensors(points)).abs().numpy()

    def _tensors(self, points: np.ndarray) -> tuple[torch.Tensor, ...]:
        arrays = self.vertices, self.faces, np.asarray(points, np.float64)
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def occupancy_of_mesh(mesh: UnitMesh) -> MeshOccupancy:
    """Chooses the way of telling inside from outside, and says why in the solid's verdict."""
    vertices, faces = mesh.vertices, mesh.faces
    report = check_mesh(vertices, faces)
    phrases = [str(report)]
    if report.open_edges and (welded := weld(vertices, faces, _WELDED)) is not None:
        welded_report = check_mesh(*welded)
        if welded_report.num_faces and not welded_report.open_edges:
            (vertices, faces), report = welded, welded_report
            phrases.append(f"with corners up to {_WELDED:g} apart made one {report}")
    solid = _closed_solid(vertices, faces, report, phrases)
    if solid is None and report.duplicate_faces:
        # Sheets with a face for either side: one of them may be the surface of a solid.
        phrases.append("duplicates left out")
        faces = _without_duplicates(faces)
        solid = _closed_solid(vertices, faces, check_mesh(vertices, faces), phrases)
    solid = solid or _open_solid(vertices, faces, phrases)
    return replace(solid, verdict="; ".join(phrases))


def _closed_solid(
    vertices: np.ndarray, faces: np.ndarray, report: MeshReport, phrases: list[str]
) -> MeshOccupancy | None:
    """By parity, or by winding where parts overlap; None if that gives no solid of this surface."""
    if not report.has_inside:
        return None
    oriented = report.inconsistent_edges == 0
    if oriented:
        faces, turned = _orient_parts(vertices, faces)
        phrases += [f"{turned} parts oriented inwards, turned"] * (turned > 0)
    solid = MeshOccupancy(vertices, faces, "parity", "")
    above, below = (solid.contains(points) for points in _beside_surface(vertices, faces))
    if (above | below).mean() < _BOUNDING_SHARE:
        return None
    if oriented and _overlaps(solid):
        phrases.append("overlaps itself; inside by winding number")
        return replace(solid, method="winding", cells=_wound_cells(solid))
    phrases.append("inside by crossing parity" + ", overlaps not looked for" * (not oriented))
    return solid


def _open_solid(vertices: np.ndarray, faces: np.ndarray, phrases: list[str]) -> MeshOccupancy:
    """By winding, or by voxels if not enough of the surface would bound the solid."""
    solid = MeshOccupancy(vertices, _orient_parts(vertices, faces)[0], "winding", "")
    sides = [solid.winding(points) for points in _beside_surface(vertices, faces)]
    bounding = (np.maximum(*sides) > _CLEARLY_INSIDE).mean() if len(sides[0]) else 0.0
    if bounding >= _BOUNDING_SHARE:
        phrases.append("inside by winding number")
        return solid
    phrases.append(
        f"{1 - bounding:.0%} of the surface bounds nothing: the inside is the surface's voxels at "
        f"{VOXEL_RESOLUTION}^3 and what they close off"
    )
    filled = fill_voxels(surface_voxels(vertices, faces, VOXEL_RESOLUTION))
    return replace(solid, method="voxels", cells=filled.astype(np.uint8))


def _beside_surface(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points just above and just below the surface."""
    surface = sample_surface(vertices, faces, _NUM_SAMPLES, seed=0)
    return surface.points + _STEP * surface.normals, surface.points - _STEP * surface.normals


def _overlaps(solid: MeshOccupancy) -> bool:
    """Whether parity leaves out points that the mesh winds around: twice, then, or more often.

    Looked for on a sample, next to the surface as well as all over, as overlaps may be small. Where
    faces are oriented consistently nothing else makes the two differ.
    """
    low, high = solid.vertices.min(0), solid.vertices.max(0)
    anywhere = np.random.default_rng(0).uniform(low, high, (_NUM_SAMPLES, 3))
    points = np.concatenate([anywhere, *_beside_surface(solid.vertices, solid.faces)])
    return bool(((solid.winding(points) >= 0.5) & ~solid.contains(points)).any())


def _wound_cells(solid: MeshOccupancy) -> np.ndarray:
    """(R, R, R) uint8: one winding number for all cells that a closed surface does not part."""
    from scipy.ndimage import label

    surface = surface_voxels(solid.vertices, solid.faces, _WOUND_RESOLUTION)
    regions, _ = label(~surface)
    _, first = np.unique(regions, return_index=True)  # region 0, of the surface, is there always
    centers = cell_centers(_WOUND_RESOLUTION, dtype=torch.float64).numpy()[first]
    states = np.where(solid.winding(centers) >= 0.5, _INSIDE, _OUTSIDE).astype(np.uint8)
    states[0] = _UNCLEAR
    return states[regions]


def _orient_parts(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, int]:
    """Faces with parts turned whose volume is negative, and how many; none if all of them are so.

    A part is what edges connect. One that lies within others is a cavity and left alone.
    """
    triangles = vertices[faces]
    parts = _parts(faces)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    centers = triangles.mean(1)
    # From the middle of each part: the volume of an open one depends on where from.
    sizes = np.bincount(parts)
    middles = np.stack([np.bincount(parts, x) for x in centers.T], axis=1) / sizes[:, None]
    volumes = np.bincount(parts, np.einsum("fi,fi->f", centers - middles[parts], normals))
    if volumes.sum() < 0:
        faces, normals, volumes = faces[:, ::-1], -normals, -volumes
    inverted = np.flatnonzero(volumes < 0)
    if len(inverted) == 0:
        return faces, 0
    # Next to the outer side of some faces of each, no matter which.
    chosen = np.flatnonzero(np.isin(parts, inverted) & (normals != 0).any(1))
    chosen = chosen[np.argsort(parts[chosen], kind="stable")]
    _, first, count = np.unique(parts[chosen], return_index=True, return_counts=True)
    rank = np.arange(len(chosen)) - np.repeat(first, count)
    chosen = chosen[rank % np.maximum(1, np.repeat(count, count) // _PROBES) == 0]
    lengths = np.linalg.norm(normals[chosen], axis=1, keepdims=True)
    outside = torch.from_numpy(centers[chosen] - _STEP * normals[chosen] / lengths)
    tensors = torch.from_numpy(vertices), torch.from_numpy(np.ascontiguousarray(faces))
    exposed = winding_number(*tensors, outside).numpy() < 0.5
    turned = np.unique(parts[chosen[exposed]])
    turn = np.isin(parts, turned)
    return np.where(turn[:, None], faces[:, ::-1], faces), len(turned)


def _parts(faces: np.ndarray) -> np.ndarray:
    """(F,) number of the part that each face belongs to."""
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


def _without_duplicates(faces: np.ndarray) -> np.ndarray:
    """The first face of each three corners, whatever their order."""
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return faces[np.sort(first)]
