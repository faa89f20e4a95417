"""check_mesh(): what is wrong with a triangle mesh, and which questions it can still answer."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MeshReport:
    """Counts of what check_mesh looks for; all are 0 for a mesh without fault.

    Edges are those of faces with three distinct corners; corners at equal positions are one.
    """

    num_vertices: int
    num_faces: int
    non_finite_vertices: int = 0
    indices_out_of_range: int = 0
    degenerate_faces: int = 0  # without area
    duplicate_faces: int = 0  # beyond the first with these three corners, in any order
    cancelling_faces: int = 0  # pairs of such faces, of no account to crossing parity
    open_edges: int = 0  # with one face
    crowded_edges: int = 0  # with more than two faces
    odd_edges: int = 0  # with an odd number of faces, the open ones among them
    inconsistent_edges: int = 0  # two faces that traverse it in the same direction
    volume: float = 0.0  # signed; positive when faces are counter-clockwise seen from outside

    @property
    def is_usable(self) -> bool:
        """Whether there are faces, and coordinates to calculate with."""
        damage = self.non_finite_vertices + self.indices_out_of_range
        return self.num_faces > 0 and damage == 0

    @property
    def has_inside(self) -> bool:
        """Whether crossing parity is defined, and not empty because each face is there twice.

        It is defined where each edge has an even number of faces.
        """
        return self.is_usable and self.odd_edges == 0 and self.cancelling_faces < self.num_faces

    @property
    def is_watertight(self) -> bool:
        """Whether each edge has two faces."""
        return self.has_inside and self.crowded_edges == 0

    @property
    def is_inverted(self) -> bool:
        """Whether faces of a mesh with an inside are, by its volume, oriented inwards."""
        return self.has_inside and self.inconsistent_edges == 0 and self.volume < 0

    def problems(self) -> list[str]:
        """A phrase for each fault, the gravest first."""
        if self.num_faces == 0:
            return ["no faces"]
        faults = [
            (self.non_finite_vertices, "vertices that are not finite"),
            (self.indices_out_of_range, "faces with indices out of range"),
            (self.open_edges, "open edges"),
            (self.crowded_edges, "edges of more than two faces"),
            (self.inconsistent_edges, "edges between faces of opposite orientation"),
            (self.degenerate_faces, "faces without area"),
            (self.duplicate_faces, "duplicate faces"),
        ]
        phrases = [f"{count} {fault}" for count, fault in faults if count]
        return phrases + ["oriented inwards"] * self.is_inverted

    def __str__(self) -> str:
        """One line: the verdict and what it rests on."""
        verdict = "watertight" if self.is_watertight else "not watertight"
        if self.has_inside and not self.is_watertight:
            verdict = "closed"
        if not self.is_usable:
            verdict = "unusable"
        return ": ".join([verdict, ", ".join(self.problems())] if self.problems() else [verdict])


def check_mesh(vertices: np.ndarray, faces: np.ndarray) -> MeshReport:
    """Looks for holes, edges of many faces, inconsistent or inverted orientation, and damage.

    Vertices at exactly equal positions count as one, as texture seams and unindexed files have
    several where the surface is whole. Intersections of faces, and vertices that lie on the edge of
    another face without being corners of it, are not looked for.

    Args:
        vertices: (V, 3) floating.
        faces: (F, 3) integer.

    Raises:
        ValueError: other shapes or dtypes.
    """
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    for name, array, kinds in (("vertices", vertices, "f"), ("faces", faces, "iu")):
        if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in kinds:
            wanted = "floating" if kinds == "f" else "integer"
            raise ValueError(f"{name} must be {wanted} (count, 3); got {array.dtype} {array.shape}")
    sizes = dict(num_vertices=len(vertices), num_faces=len(faces))
    lost = ((faces < 0) | (faces >= len(vertices))).any(1).sum()
    broken = (~np.isfinite(vertices)).any(1).sum()
    if lost or broken or not len(faces):
        return MeshReport(**sizes, non_finite_vertices=int(broken), indices_out_of_range=int(lost))
    positions = vertices.astype(np.float64) + 0.0  # -0 is 0
    _, merged = np.unique(positions, axis=0, return_inverse=True)
    corners = merged.reshape(-1)[faces]
    distinct = (corners != np.roll(corners, 1, axis=1)).all(1)
    normals, volume = _normals_and_volume(positions[faces])
    degenerate = ~distinct | (normals == 0).all(1)
    _, copies = np.unique(np.sort(corners, axis=1), axis=0, return_counts=True)
    return MeshReport(
        **sizes,
        degenerate_faces=int(degenerate.sum()),
        duplicate_faces=len(faces) - len(copies),
        cancelling_faces=int((copies // 2 * 2).sum()),
        volume=volume,
        **_count_edges(corners[distinct]),
    )


def _normals_and_volume(triangles: np.ndarray) -> tuple[np.ndarray, float]:
    """(F, 3) normals, of length twice the area, and the signed volume, of triangles (F, 3, 3)."""
    a, b, c = np.moveaxis(triangles, 1, 0)
    normals = np.cross(b - a, c - a)
    centered = a - triangles.reshape(-1, 3).mean(0)
    return normals, float((centered * normals).sum() / 6)


def _count_edges(corners: np.ndarray) -> dict[str, int]:
    starts, ends = corners.reshape(-1), np.roll(corners, -1, axis=1).reshape(-1)
    edges = np.sort(np.stack([starts, ends], axis=1), axis=1)
    _, place, count = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    forwards = np.bincount(place.reshape(-1), weights=starts < ends, minlength=len(count))
    return dict(
        open_edges=int((count == 1).sum()),
        crowded_edges=int((count > 2).sum()),
        odd_edges=int((count % 2 == 1).sum()),
        inconsistent_edges=int(((count % 2 == 0) & (2 * forwards != count)).sum()),
    )
