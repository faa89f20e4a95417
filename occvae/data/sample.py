"""One shape with its images, cameras, points and voxels, before storage."""

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from occvae.errors import UserError

_POINT_DTYPES = (np.uint16, np.float16)


@dataclass
class Sample:
    """One shape, ready to be written to a shard.

    A field is None or empty if the source does not provide it. Points are uint16 from
    `quantize_points`, or float16. Images are encoded files of any size. Cameras follow
    `occvae.visualize.rendering`.
    """

    id: str
    category: str
    images: list[bytes] = field(default_factory=list)  # V
    extrinsics: np.ndarray | None = None  # (V, 3, 4)
    intrinsics: np.ndarray | None = None  # (V, 3, 3)
    points: np.ndarray | None = None  # (N, 3), uniform in [-0.55, 0.55]^3, in random order
    occupancies: np.ndarray | None = None  # (N,) bool
    near_points: np.ndarray | None = None  # (M, 3), near the surface, in random order
    near_occupancies: np.ndarray | None = None  # (M,) bool
    surface_points: np.ndarray | None = None  # (P, 3), uniform over the surface
    surface_normals: np.ndarray | None = None  # (P, 3) float16
    # The surface to draw, quantized like the points. Shapes from voxels have none.
    mesh_vertices: np.ndarray | None = None  # (V, 3) uint16
    mesh_faces: np.ndarray | None = None  # (F, 3) uint16, numbers of vertices
    voxels: dict[int, np.ndarray] = field(default_factory=dict)  # (R, R, R) bool, by resolution R
    location: np.ndarray = field(default_factory=lambda: np.zeros(3))  # (3,)
    scale: float = 1.0  # original coordinates = unit coordinates * scale + location
    note: str | None = None  # remark for the user, such as how the inside was decided

    def layout(self) -> dict[str, Any]:
        """Which fields the shape has, and their sizes, as JSON values.

        All shapes of a split have the same layout. The mesh is not part of it, because shapes of a
        split may have meshes of different sizes or none.
        """
        return {
            "views": len(self.images),
            "cameras": self.extrinsics is not None,
            "points": _describe_points(self.points),
            "near_points": _describe_points(self.near_points),
            "surface_points": _describe_points(self.surface_points),
            "voxels": sorted(self.voxels),
        }

    def check(self) -> None:
        """Checks that the fields are usable and fit together.

        Raises:
            UserError: they do not, or an image cannot be decoded.
        """
        if not self.images:
            raise UserError("has no images")
        self._check_points("points", self.points, self.occupancies)
        self._check_points("near_points", self.near_points, self.near_occupancies)
        self._check_surface()
        self._check_mesh()
        self._check_cameras()
        for resolution, grid in self.voxels.items():
            if grid.shape != (resolution,) * 3 or grid.dtype != bool:
                raise UserError(
                    f"voxels of {resolution}^3 are {grid.dtype} {grid.shape}; expected bool"
                )
        if self.voxels and not any(grid.any() for grid in self.voxels.values()):
            raise UserError("shape is empty")
        if self.points is None and not self.voxels:
            raise UserError("has neither points nor voxels")
        for view, image in enumerate(self.images):
            _check_image(view, image)

    def _check_points(
        self, name: str, points: np.ndarray | None, occupancies: np.ndarray | None
    ) -> None:
        if points is None:
            return
        _check_coordinates(name, points)
        if len(points) % 8 or not len(points):
            raise UserError(
                f"the number of {name} must be a positive multiple of 8, got {len(points)}"
            )
        if occupancies is None or occupancies.shape != points.shape[:1]:
            raise UserError(f"{len(points)} {name} have another number of occupancies")

    def _check_surface(self) -> None:
        if self.surface_points is None:
            return
        _check_coordinates("surface_points", self.surface_points)
        normals = self.surface_normals
        if normals is None or normals.shape != self.surface_points.shape:
            raise UserError(
                f"{len(self.surface_points)} surface_points need as many surface_normals, (P, 3)"
            )
        if not np.isfinite(normals).all():
            raise UserError("surface_normals are not all finite")

    def _check_mesh(self) -> None:
        vertices, faces = self.mesh_vertices, self.mesh_faces
        if vertices is None and faces is None:
            return
        if faces is None:
            raise UserError("mesh_vertices need mesh_faces")
        if vertices is None:
            raise UserError("mesh_faces need mesh_vertices")
        for name, array in (("mesh_vertices", vertices), ("mesh_faces", faces)):
            if array.dtype != np.uint16 or array.shape != (len(array), 3):
                raise UserError(f"{name} must be uint16 (N, 3), got {array.dtype} {array.shape}")
        if not len(faces):
            raise UserError("mesh_faces are empty")
        if faces.max() >= len(vertices):
            raise UserError(
                f"mesh_faces refer to vertex {faces.max()}, but there are only {len(vertices)} "
                "mesh_vertices"
            )

    def _check_cameras(self) -> None:
        views = len(self.images)
        for name, cameras, shape in (
            ("extrinsics", self.extrinsics, (views, 3, 4)),
            ("intrinsics", self.intrinsics, (views, 3, 3)),
        ):
            if cameras is not None and (cameras.shape != shape or not np.isfinite(cameras).all()):
                raise UserError(f"{name} must be finite and of shape {shape}, got {cameras.shape}")


def _describe_points(points: np.ndarray | None) -> list[Any] | None:
    return None if points is None else [len(points), points.dtype.name]


def _check_coordinates(name: str, points: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype not in _POINT_DTYPES:
        raise UserError(
            f"{name} must be uint16 or float16 (N, 3), got {points.dtype} {points.shape}"
        )
    if points.dtype == np.float16 and not np.isfinite(points).all():
        raise UserError(f"{name} are not all finite")


def _check_image(view: int, image: bytes) -> None:
    try:
        with Image.open(io.BytesIO(image)) as decoded:
            decoded.load()
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise UserError(f"view {view} cannot be decoded ({error})") from None
