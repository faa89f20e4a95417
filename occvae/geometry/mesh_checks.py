"""check_mesh(): finds faults of a triangle mesh, and tells whether it still has an inside."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MeshReport:
    """Counts of the faults that `check_mesh` finds. All are 0 for a mesh without faults.

    Corners at equal positions count as one. Edges are those of faces with three distinct corners.

    Attributes:
        num_vertices: vertices of the mesh.
        num_faces: faces of the mesh.
        non_finite_vertices: vertices with a coordinate that is NaN or infinite.
        indices_out_of_range: faces with an index that no vertex has.
        degenerate_faces: faces without area.
        duplicate_faces: faces with the corners of an earlier face, in any order.
        cancelling_faces: faces in pairs of duplicates, which cancel in crossing parity.
        open_edges: edges with one face.
        crowded_edges: edges with more than two faces.
        odd_edges: edges with an odd number of faces, open edges included.
        inconsistent_edges: edges with an even number of faces, more of them in one direction.
        volume: signed volume, positive if faces are counter-clockwise seen from outside.
    """

    num_vertices: int
    num_faces: int
    non_finite_vertices: int = 0
    indices_out_of_range: int = 0
    degenerate_faces: int = 0
    duplicate_faces: int = 0
    cancelling_faces: int = 0
    open_edges: int = 0
    crowded_edges: int = 0
    odd_edges: int = 0
    inconsistent_edges: int = 0
    volume: float = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether there are faces, all indices are in range and all coordinates are finite."""
        damage = self.non_finite_vertices + self.indices_out_of_range
        return self.num_faces > 0 and damage == 0

    @property
    def has_inside(self) -> bool:
        """Whether crossing parity defines an inside.

        It does if each edge has an even number of faces, unless all faces cancel in pairs.
        """
        return self.is_usable and self.odd_edges == 0 and self.cancelling_faces < self.num_faces

    @property
    def is_watertight(self) -> bool:
        """Whether each edge has exactly two faces."""
        return self.has_inside and self.crowded_edges == 0

    @property
    def is_inverted(self) -> bool:
        """Whether the mesh has an inside and consistent faces with a negative volume."""
        return self.has_inside and self.inconsistent_edges == 0 and self.volume < 0

    def problems(self) -> list[str]:
        """One phrase per kind of fault, the most serious first."""
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
        """The verdict and the faults in one line."""
        verdict = "watertight" if self.is_watertight else "not watertight"
        if self.has_inside and not self.is_watertight:
            verdict = "closed"
        if not self.is_usable:
            verdict = "unusable"
        return ": ".join([verdict, ", ".join(self.problems())] if self.problems() else [verdict])


def check_mesh(vertices: np.ndarray, faces: np.ndarray) -> MeshReport:
    """Finds holes, edges with too many faces, wrong orientation and damage of a mesh.

    Vertices at exactly equal positions count as one: texture seams and files without indices repeat
    vertices where the surface is closed. Two faults are not searched for: faces that intersect, and
    vertices that lie on an edge of another face without being its corners.

    Args:
        vertices: (V, 3) floating.
        faces: (F, 3) integer indices of vertices.

    Returns:
        The counts of all faults.

    Raises:
        ValueError: a wrong shape or dtype.

    Example:
        >>> vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        >>> check_mesh(vertices, faces).is_watertight
        True
        >>> print(check_mesh(vertices, faces[:3]))
        not watertight: 3 open edges
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
    positions = vertices.astype(np.float64) + 0.0  # turns -0 into 0
    corners = merge_equal(positions)[faces]
    distinct = (corners != np.roll(corners, 1, axis=1)).all(1)
    normals, volume = _normals_and_volume(positions[faces])
    degenerate = ~distinct | (normals == 0).all(1)
    low, middle, high = np.sort(corners, axis=1).T
    _, sides = np.unique(low * len(vertices) + middle, return_inverse=True)
    _, copies = np.unique(sides * len(vertices) + high, return_counts=True)
    return MeshReport(
        **sizes,
        degenerate_faces=int(degenerate.sum()),
        duplicate_faces=len(faces) - len(copies),
        cancelling_faces=int((copies // 2 * 2).sum()),
        volume=volume,
        **_count_edges(corners[distinct], len(vertices)),
    )


def merge_equal(rows: np.ndarray) -> np.ndarray:
    """Numbers (N,) int64 from 0 of rows (N, K). Equal rows have equal numbers.

    Sorting columns is several times as fast as `numpy.unique` of rows.
    """
    numbers = np.zeros(len(rows), np.int64)
    for column in rows.T:
        values, codes = np.unique(column, return_inverse=True)
        _, numbers = np.unique(numbers * len(values) + codes, return_inverse=True)
    return numbers


def _normals_and_volume(triangles: np.ndarray) -> tuple[np.ndarray, float]:
    """Normals (F, 3), of length twice the area, and the signed volume of triangles (F, 3, 3)."""
    a, b, c = np.moveaxis(triangles, 1, 0)
    normals = np.cross(b - a, c - a)
    centered = a - triangles.reshape(-1, 3).mean(0)
    return normals, float((centered * normals).sum() / 6)


def _count_edges(corners: np.ndarray, num_vertices: int) -> dict[str, int]:
    starts, ends = corners.reshape(-1), np.roll(corners, -1, axis=1).reshape(-1)
    edges = np.minimum(starts, ends) * num_vertices + np.maximum(starts, ends)
    _, place, count = np.unique(edges, return_inverse=True, return_counts=True)
    forwards = np.bincount(place, weights=starts < ends, minlength=len(count))
    return dict(
        open_edges=int((count == 1).sum()),
        crowded_edges=int((count > 2).sum()),
        odd_edges=int((count % 2 == 1).sum()),
        inconsistent_edges=int(((count % 2 == 0) & (2 * forwards != count)).sum()),
    )
