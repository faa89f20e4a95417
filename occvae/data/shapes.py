"""Makes points, voxels, surface points and images of anything that has an inside."""

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from occvae.data.points import HALF_EXTENT, dequantize_points, quantize_points
from occvae.data.sample import Sample
from occvae.errors import UserError
from occvae.geometry.surface_sampling import Surface, sample_surface
from occvae.images.io import encode_png
from occvae.visualize import rendering

# Standard deviation of points near the surface in longest edges, as in the ablation of Occupancy
# Networks.
NEAR_STD = 0.01
# Meshes with more faces are not stored. A closed mesh with 20,000 faces takes 180 kB, which is a
# fifth of a shape. Vertex numbers of such meshes fit into uint16.
MAX_MESH_FACES = 20_000


class Shape(Protocol):
    """A solid in the unit cube, with a surface to render and an inside to learn."""

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) and faces (F, 3) of the surface."""

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Whether each of the points (N, 3) float64 is inside, (N,) bool."""


@dataclass(frozen=True)
class ShapeSettings:
    """What to make and store per shape.

    Args:
        num_points: points uniform in the cube [-0.55, 0.55]^3, with occupancies. A multiple of 8.
        num_near_points: points normally distributed around the surface, with occupancies. A
            multiple of 8.
        num_surface_points: points on the surface, with normals. Evaluation measures distances to
            them.
        training_surface: whether training shapes have surface points too. Only models of point
            clouds read them in training, and only if no mesh is stored.
        voxel_resolutions: resolutions of the voxel grids.
        num_views: number of images.
        image_size: edge of the images in pixels.
        seed: seed of points, cameras and colors.

    Raises:
        UserError: a number is out of range.
    """

    num_points: int = 100_000
    num_near_points: int = 0
    num_surface_points: int = 100_000
    training_surface: bool = False
    voxel_resolutions: tuple[int, ...] = (32,)
    num_views: int = 24
    image_size: int = 137
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"num_points": 8, "num_views": 1, "image_size": 1}
        for name, value in asdict(self).items():
            if name != "voxel_resolutions" and value < least.get(name, 0):
                raise UserError(f"{name} must be at least {least.get(name, 0)}, got {value}")
        for name in ("num_points", "num_near_points"):
            if getattr(self, name) % 8:
                raise UserError(f"{name} must be a multiple of 8, got {getattr(self, name)}")
        resolutions = self.voxel_resolutions
        if not resolutions or min(resolutions) < 1 or len(set(resolutions)) < len(resolutions):
            raise UserError(f"voxel_resolutions must be positive and distinct, got {resolutions}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {**asdict(self), "voxel_resolutions": list(self.voxel_resolutions)}


def make_sample(
    id: str,
    category: str,
    split: str,
    shape: Shape,
    settings: ShapeSettings,
    voxelize: Callable[[int], np.ndarray] | None = None,
    *,
    keep_mesh: bool = True,
) -> Sample:
    """Makes the sample of a solid. The result is the same for the same id and seed.

    Args:
        id: id of the shape.
        category: category of the shape.
        split: "train", "val" or "test".
        shape: the solid.
        settings: what to make.
        voxelize: maps a resolution R to a grid (R, R, R) bool. By default, a cell is occupied if
            its center is inside.
        keep_mesh: whether to store the mesh. A mesh with more than `MAX_MESH_FACES` faces is never
            stored.

    Raises:
        UserError: no cell of the coarsest grid is occupied, or the surface has no area.
    """
    from occvae.geometry.voxelize import voxels_inside

    rng = np.random.default_rng([settings.seed, zlib.crc32(id.encode())])
    voxelize = voxelize or (lambda resolution: voxels_inside(shape.contains, resolution))
    voxels = {resolution: voxelize(resolution) for resolution in sorted(settings.voxel_resolutions)}
    if not next(iter(voxels.values())).any():
        raise UserError("shape is empty")
    points = quantize_points(rng.uniform(-HALF_EXTENT, HALF_EXTENT, (settings.num_points, 3)))
    extrinsics = rendering.random_extrinsics(rng, settings.num_views)
    vertices, faces = shape.mesh()
    images = rendering.render_views(
        vertices, faces, extrinsics, settings.image_size, rendering.random_albedo(rng)
    )
    intrinsics = rendering.intrinsics(settings.image_size)
    return Sample(
        id=id,
        category=category,
        images=[encode_png(image) for image in images],
        extrinsics=extrinsics,
        intrinsics=np.repeat(intrinsics[None], settings.num_views, axis=0),
        points=points,
        occupancies=_contains(shape, points),
        voxels=voxels,
        **(_stored_mesh(vertices, faces) if keep_mesh else {}),
        **_near_surface(shape, vertices, faces, settings, rng),
        **_on_surface(vertices, faces, split, settings, rng),
    )


def _contains(shape: Shape, points: np.ndarray) -> np.ndarray:
    """Occupancies (N,) bool of quantized points (N, 3) uint16, at their stored positions.

    Quantization may move a point across the surface, so the original positions are not used.
    """
    return shape.contains(dequantize_points(points).astype(np.float64))


def _stored_mesh(vertices: np.ndarray, faces: np.ndarray) -> dict[str, Any]:
    """Fields of the mesh, without unused vertices. Empty if there is no mesh or it is too large."""
    if not 0 < len(faces) <= MAX_MESH_FACES:
        return {}
    used, corners = np.unique(faces, return_inverse=True)
    return {
        "mesh_vertices": quantize_points(vertices[used]),
        "mesh_faces": corners.reshape(faces.shape).astype(np.uint16),
    }


def _near_surface(
    shape: Shape,
    vertices: np.ndarray,
    faces: np.ndarray,
    settings: ShapeSettings,
    rng: np.random.Generator,
) -> dict[str, Any]:
    if settings.num_near_points == 0:
        return {}
    surface = _sample(vertices, faces, settings.num_near_points, rng)
    noise = rng.normal(0.0, NEAR_STD, surface.points.shape)
    points = quantize_points(surface.points + noise)
    return {"near_points": points, "near_occupancies": _contains(shape, points)}


def _on_surface(
    vertices: np.ndarray,
    faces: np.ndarray,
    split: str,
    settings: ShapeSettings,
    rng: np.random.Generator,
) -> dict[str, Any]:
    if settings.num_surface_points == 0 or (split == "train" and not settings.training_surface):
        return {}
    surface = _sample(vertices, faces, settings.num_surface_points, rng)
    return {
        "surface_points": quantize_points(surface.points),
        "surface_normals": surface.normals.astype(np.float16),
    }


def _sample(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> Surface:
    surface = sample_surface(vertices, faces, count, int(rng.integers(2**63)))
    if len(surface) < count:
        raise UserError("the surface has no area")
    return surface
