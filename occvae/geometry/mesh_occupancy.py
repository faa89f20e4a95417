"""Decides which points are inside a mesh, by the most exact method that the mesh allows.

Three methods are tried in turn. The first one whose solid has the mesh as its surface is taken:

    parity    crossings of a ray, exact, for meshes with an even number of faces at each edge
    winding   |generalized winding number| >= 0.5, for holes and for closed parts that overlap
    voxels    cells that the surface touches or encloses, for sheets that enclose no volume

The mesh is not repaired, with one exception: corners that differ only by rounding are merged, as
in files that store each triangle separately.
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

VOXEL_RESOLUTION = 128  # cells along each axis for the method "voxels"
_WOUND_RESOLUTION = 64  # cells along each axis that look up a shared winding number
_WELDED = 1e-6  # merging distance, about ten times the rounding of float32 coordinates
# Distance from the surface of the points that test both sides of a face.
_STEP = 1e-5
# Next to a face that bounds a solid, |winding| is about 1 on one side. Next to a sheet it is about
# 0.5 on both.
_CLEARLY_INSIDE = 0.75
# Share of the surface that must bound the solid.
_BOUNDING_SHARE = 0.9
_NUM_SAMPLES = 4096
_PROBES = 8  # about this many faces of a part are tested
_OUTSIDE, _INSIDE, _UNCLEAR = range(3)  # states of cells


@dataclass(frozen=True)
class MeshOccupancy:
    """A mesh in the unit cube with its inside. Implements the protocol `Shape`.

    Attributes:
        vertices: (V, 3) float64.
        faces: (F, 3) int64, oriented outwards where the mesh has an outside.
        method: "parity", "winding" or "voxels".
        verdict: faults of the mesh and how its inside was decided, in one line.
        cells: (R, R, R) states of cells, or None. For "voxels" they define the inside. For
            "winding" they exist for closed meshes: the winding number is constant within a cell
            that the surface does not touch.
    """

    vertices: np.ndarray
    faces: np.ndarray
    method: str
    verdict: str
    cells: np.ndarray | None = None

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        return self.vertices, self.faces

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Whether points (N, 3) are inside, (N,) bool."""
        if self.method == "parity":
            return inside_mesh(*self._tensors(points)).numpy()
        if self.cells is None:
            return self.winding(points) >= 0.5
        inside = occupancies_from_voxels(self.cells == _INSIDE, points)
        unclear = occupancies_from_voxels(self.cells == _UNCLEAR, points)
        inside[unclear] = self.winding(points[unclear]) >= 0.5
        return inside

    def voxelize(self, resolution: int) -> np.ndarray:
        """Cells whose center is inside, (R, R, R) bool.

        For the method "voxels", cells that the surface touches or encloses at this resolution.
        """
        if self.method == "voxels":
            return fill_voxels(surface_voxels(self.vertices, self.faces, resolution))
        return voxels_inside(self.contains, resolution)

    def winding(self, points: np.ndarray) -> np.ndarray:
        """Magnitudes (N,) of the winding number, equal for inward and outward faces."""
        return winding_number(*self._tensors(points)).abs().numpy()

    def _tensors(self, points: np.ndarray) -> tuple[torch.Tensor, ...]:
        arrays = self.vertices, self.faces, np.asarray(points, np.float64)
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def occupancy_of_mesh(mesh: UnitMesh) -> MeshOccupancy:
    """Chooses the method that decides what is inside a mesh, and explains it in the verdict."""
    vertices, faces = mesh.vertices, mesh.faces
    report = check_mesh(vertices, faces)
    phrases = [str(report)]
    if report.open_edges and (welded := weld(vertices, faces, _WELDED)) is not None:
        welded_report = check_mesh(*welded)
        if welded_report.num_faces and not welded_report.open_edges:
            (vertices, faces), report = welded, welded_report
            phrases.append(f"after merging corners up to {_WELDED:g} apart {report}")
    solid = _closed_solid(vertices, faces, report, phrases)
    if solid is None and report.duplicate_faces:
        # A sheet may have a face for either side. One of the two may bound a solid.
        phrases.append("duplicates ignored")
        faces = _without_duplicates(faces)
        solid = _closed_solid(vertices, faces, check_mesh(vertices, faces), phrases)
    solid = solid or _open_solid(vertices, faces, phrases)
    return replace(solid, verdict="; ".join(phrases))


def _closed_solid(
    vertices: np.ndarray, faces: np.ndarray, report: MeshReport, phrases: list[str]
) -> MeshOccupancy | None:
    """Makes the solid of a closed mesh: by parity, or by winding number if parts overlap.

    Args:
        vertices: (V, 3) float64.
        faces: (F, 3) int64.
        report: faults of this mesh.
        phrases: receives what the verdict should report.

    Returns:
        The solid, without its verdict. None if crossing parity defines no inside, or if too much of
        the surface bounds no volume.
    """
    if not report.has_inside:
        return None
    oriented = report.inconsistent_edges == 0
    if oriented:
        faces, turned = _orient_parts(vertices, faces)
        phrases += [f"{turned} parts oriented inwards, flipped"] * (turned > 0)
    solid = MeshOccupancy(vertices, faces, "parity", "")
    above, below = (solid.contains(points) for points in _beside_surface(vertices, faces))
    if (above | below).mean() < _BOUNDING_SHARE:
        return None
    if oriented and _overlaps(solid):
        phrases.append("overlaps itself; inside by winding number")
        return replace(solid, method="winding", cells=_wound_cells(solid))
    phrases.append("inside by crossing parity" + ", overlaps not checked" * (not oriented))
    return solid


def _open_solid(vertices: np.ndarray, faces: np.ndarray, phrases: list[str]) -> MeshOccupancy:
    """Makes the solid of any mesh: by winding number, or by voxels.

    Voxels are used if too much of the surface would bound no volume. Arguments and result are as in
    `_closed_solid`, but there is always a solid.
    """
    solid = MeshOccupancy(vertices, _orient_parts(vertices, faces)[0], "winding", "")
    sides = [solid.winding(points) for points in _beside_surface(vertices, faces)]
    bounding = (np.maximum(*sides) > _CLEARLY_INSIDE).mean() if len(sides[0]) else 0.0
    if bounding >= _BOUNDING_SHARE:
        phrases.append("inside by winding number")
        return solid
    phrases.append(
        f"{1 - bounding:.0%} of the surface encloses no volume: inside are the voxels at "
        f"{VOXEL_RESOLUTION}^3 that the surface touches or encloses"
    )
    filled = fill_voxels(surface_voxels(vertices, faces, VOXEL_RESOLUTION))
    return replace(solid, method="voxels", cells=filled.astype(np.uint8))


def _beside_surface(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random points of the surface, moved to just above it (N, 3) and to just below it (N, 3)."""
    surface = sample_surface(vertices, faces, _NUM_SAMPLES, seed=0)
    return surface.points + _STEP * surface.normals, surface.points - _STEP * surface.normals


def _overlaps(solid: MeshOccupancy) -> bool:
    """Whether parts overlap, so that parity excludes points with winding number 2, 4, and so on.

    Tests a random sample, both all over the bounding box and next to the surface, because overlaps
    may be small. With consistently oriented faces, only overlaps make the two methods differ.
    """
    low, high = solid.vertices.min(0), solid.vertices.max(0)
    anywhere = np.random.default_rng(0).uniform(low, high, (_NUM_SAMPLES, 3))
    points = np.concatenate([anywhere, *_beside_surface(solid.vertices, solid.faces)])
    return bool(((solid.winding(points) >= 0.5) & ~solid.contains(points)).any())


def _wound_cells(solid: MeshOccupancy) -> np.ndarray:
    """Finds which cells are inside, so that most points need no winding number of their own.

    The winding number of a closed mesh is constant in a connected region of cells that the surface
    does not touch. It is computed once per region.

    Returns:
        States (R, R, R) uint8 of the cells: `_INSIDE`, `_OUTSIDE`, or `_UNCLEAR` if the surface
        touches the cell.
    """
    from scipy.ndimage import label

    surface = surface_voxels(solid.vertices, solid.faces, _WOUND_RESOLUTION)
    regions, _ = label(~surface)
    _, first = np.unique(regions, return_index=True)  # region 0 is the surface and always exists
    centers = cell_centers(_WOUND_RESOLUTION, dtype=torch.float64).numpy()[first]
    states = np.where(solid.winding(centers) >= 0.5, _INSIDE, _OUTSIDE).astype(np.uint8)
    states[0] = _UNCLEAR
    return states[regions]


def _orient_parts(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, int]:
    """Orients the parts of a mesh outwards, and returns the faces and the number of flipped parts.

    A part is a set of faces connected by edges. If the volume of the whole mesh is negative, all
    faces are reversed first, and this is not counted as flipping. Then parts with negative volume
    are flipped, except those within other parts: they are cavities.
    """
    triangles = vertices[faces]
    parts = _parts(faces)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
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
    outside = torch.from_numpy(centers[chosen] - _STEP * normals[chosen] / lengths)
    tensors = torch.from_numpy(vertices), torch.from_numpy(np.ascontiguousarray(faces))
    exposed = winding_number(*tensors, outside).numpy() < 0.5
    turned = np.unique(parts[chosen[exposed]])
    turn = np.isin(parts, turned)
    return np.where(turn[:, None], faces[:, ::-1], faces), len(turned)


def _parts(faces: np.ndarray) -> np.ndarray:
    """Number of the part that each face belongs to, (F,)."""
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
    """Returns the faces without duplicates: the first one of each set of three corners."""
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return faces[np.sort(first)]
