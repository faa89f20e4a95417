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
from occvae.geometry.mesh_orientation import (
    STEP,
    edge_connected_parts,
    orient_consistently,
    orient_outwards,
)
from occvae.geometry.surface_sampling import sample_surface
from occvae.geometry.voxelize import (
    fill_voxels,
    occupancies_from_voxels,
    surface_voxels,
    voxels_inside,
)
from occvae.ops.inside_mesh import inside_mesh, winding_number, winding_sign

VOXEL_RESOLUTION = 128  # cells along each axis for the method "voxels"
_WELDED = 1e-6  # merging distance, about ten times the rounding of float32 coordinates
# Next to a face that bounds a solid, |winding| is about 1 on one side. Next to a sheet it is about
# 0.5 on both.
_CLEARLY_INSIDE = 0.75
# Share of the surface that must bound the solid.
_BOUNDING_SHARE = 0.9
_NUM_SAMPLES = 4096


@dataclass(frozen=True)
class MeshOccupancy:
    """A mesh in the unit cube with its inside. Implements the protocol `Shape`.

    Attributes:
        vertices: (V, 3) float64.
        faces: (F, 3) int64, oriented outwards where the mesh has an outside.
        method: "parity", "winding" or "voxels".
        verdict: faults of the mesh and how its inside was decided, in one line.
        cells: (R, R, R) bool, the cells that are inside, for "voxels". Otherwise None.
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
        if self.cells is not None:
            return occupancies_from_voxels(self.cells, points)
        return self.encloses(points)

    def voxelize(self, resolution: int) -> np.ndarray:
        """Cells whose center is inside, (R, R, R) bool.

        For the method "voxels", cells that the surface touches or encloses at this resolution.
        """
        if self.method == "voxels":
            return fill_voxels(surface_voxels(self.vertices, self.faces, resolution))
        return voxels_inside(self.contains, resolution)

    def encloses(self, points: np.ndarray, level: float = 0.5) -> np.ndarray:
        """Whether the absolute winding number is at least `level`, (N,) bool.

        Faster than computing the number.
        """
        return winding_sign(*self._tensors(points), level=level).numpy() != 0

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
        faces, turned = orient_outwards(vertices, faces, edge_connected_parts(faces))
        phrases += [f"{turned} parts oriented inwards, flipped"] * (turned > 0)
    solid = MeshOccupancy(vertices, faces, "parity", "")
    above, below = (solid.contains(points) for points in _beside_surface(vertices, faces))
    if (above | below).mean() < _BOUNDING_SHARE:
        return None
    if oriented and _overlaps(solid):
        phrases.append("overlaps itself; inside by winding number")
        return replace(solid, method="winding")
    phrases.append("inside by crossing parity" + ", overlaps not checked" * (not oriented))
    return solid


def _open_solid(vertices: np.ndarray, faces: np.ndarray, phrases: list[str]) -> MeshOccupancy:
    """Makes the solid of any mesh: by winding number, or by voxels.

    Voxels are used if too much of the surface would bound no volume. Arguments and result are as in
    `_closed_solid`, but there is always a solid.
    """
    oriented, parts, unorientable = orient_consistently(vertices, faces)
    if flipped := int((oriented != faces).any(1).sum()):
        phrases.append(f"{flipped} faces flipped to agree with their neighbors")
    if len(unorientable):
        phrases.append(f"{len(unorientable)} parts cannot be oriented")
    solid = MeshOccupancy(vertices, orient_outwards(vertices, oriented, parts)[0], "winding", "")
    above, below = (
        solid.encloses(points, _CLEARLY_INSIDE) for points in _beside_surface(vertices, faces)
    )
    bounding = (above | below).mean() if len(above) else 0.0
    if bounding >= _BOUNDING_SHARE:
        phrases.append("inside by winding number")
        return solid
    phrases.append(
        f"{1 - bounding:.0%} of the surface encloses no volume: inside are the voxels at "
        f"{VOXEL_RESOLUTION}^3 that the surface touches or encloses"
    )
    filled = fill_voxels(surface_voxels(vertices, faces, VOXEL_RESOLUTION))
    return replace(solid, method="voxels", cells=filled)


def _beside_surface(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random points of the surface, moved to just above it (N, 3) and to just below it (N, 3)."""
    surface = sample_surface(vertices, faces, _NUM_SAMPLES, seed=0)
    return surface.points + STEP * surface.normals, surface.points - STEP * surface.normals


def _overlaps(solid: MeshOccupancy) -> bool:
    """Whether parts overlap, so that parity excludes points with winding number 2, 4, and so on.

    Tests a random sample, both all over the bounding box and next to the surface, because overlaps
    may be small. With consistently oriented faces, only overlaps make the two methods differ.
    """
    low, high = solid.vertices.min(0), solid.vertices.max(0)
    anywhere = np.random.default_rng(0).uniform(low, high, (_NUM_SAMPLES, 3))
    points = np.concatenate([anywhere, *_beside_surface(solid.vertices, solid.faces)])
    return bool(((solid.encloses(points)) & ~solid.contains(points)).any())


def _without_duplicates(faces: np.ndarray) -> np.ndarray:
    """Returns the faces without duplicates: the first one of each set of three corners."""
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return faces[np.sort(first)]
