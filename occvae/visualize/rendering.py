"""Renders meshes by ray casting, for training views, previews and contact sheets.

Embree casts the rays. Where it is not installed, a slower rasterizer in NumPy finds the same hits.
Cameras follow the OpenCV convention: x to the right, y down, z forward. An extrinsic matrix maps
world to camera coordinates. An intrinsic matrix maps camera coordinates to pixels.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from occvae.visualize.rasterization import first_hits

# Maps a camera (3, 4) and its rays (P, 3), in camera coordinates, to the indices (K,) of the rays
# that hit the mesh, to the faces (K,) there, and to their normals (K, 3) in camera coordinates, of
# any length and sign.
_Caster = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

# Focal length over sensor width of the renderings of Choy et al. 2016 (3D-R2N2): 35 mm / 32 mm.
FOCAL_RATIO = 35.0 / 32.0
# Their elevations. The distances frame an object of longest edge 1 as their renderings do.
ELEVATION_DEGREES = (25.0, 30.0)
DISTANCE = (1.6, 2.0)

# Predictions are blue and the ground truth is gray.
PREDICTION_ALBEDO = (0.45, 0.62, 0.80)

_AMBIENT, _KEY, _HEAD = 0.30, 0.50, 0.25
_KEY_DIRECTION = np.array([-0.5, -0.7, -0.5]) / np.linalg.norm([-0.5, -0.7, -0.5])


def orbit_extrinsics(azimuth: ArrayLike, elevation: ArrayLike, distance: ArrayLike) -> np.ndarray:
    """Returns world-to-camera matrices of cameras that look at the origin with +y up.

    Args:
        azimuth: (V,) degrees around +y. At 0 the camera sees the object's front (+z).
        elevation: (V,) degrees above the horizon, below 90.
        distance: (V,) in units of the object's longest edge.

    Returns:
        (V, 3, 4) float64.
    """
    azimuth, elevation = np.radians(azimuth), np.radians(elevation)
    outward = np.stack(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        axis=-1,
    )
    forward = -outward
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    rotation = np.stack([right, down, forward], axis=1)
    translation = -rotation @ (outward * np.asarray(distance)[:, None])[..., None]
    return np.concatenate([rotation, translation], axis=-1)


def random_extrinsics(rng: np.random.Generator, num_views: int) -> np.ndarray:
    """Draws (V, 3, 4) cameras distributed as in the renderings of Choy et al. 2016."""
    return orbit_extrinsics(
        rng.uniform(0.0, 360.0, num_views),
        rng.uniform(*ELEVATION_DEGREES, num_views),
        rng.uniform(*DISTANCE, num_views),
    )


def intrinsics(image_size: int, focal_ratio: float = FOCAL_RATIO) -> np.ndarray:
    """Returns the (3, 3) pinhole matrix, in pixels, of a square image.

    The principal point is the center of the image.
    """
    focal = focal_ratio * image_size
    center = image_size / 2.0
    return np.array([[focal, 0.0, center], [0.0, focal, center], [0.0, 0.0, 1.0]])


def random_albedo(rng: np.random.Generator) -> np.ndarray:
    """Draws a muted surface color (3,), so that a model cannot rely on one shade of gray."""
    return rng.uniform(0.45, 0.85) * (1.0 + 0.25 * rng.uniform(-1.0, 1.0, 3))


def render_views(
    vertices: np.ndarray,
    faces: np.ndarray,
    extrinsics: np.ndarray,
    image_size: int,
    albedo: np.ndarray | Sequence[float] = (0.65, 0.67, 0.72),
    supersample: int = 2,
) -> np.ndarray:
    """Renders shaded images of a mesh on white, one per camera.

    Args:
        vertices: (N, 3) world coordinates.
        faces: (F, 3) vertex indices. Without faces the images are white.
        extrinsics: (V, 3, 4) world to camera.
        image_size: edge of the images in pixels.
        albedo: surface color in [0, 1], (3,) or one per face (F, 3).
        supersample: rays per pixel along each axis.

    Returns:
        (V, image_size, image_size, 3) uint8 RGB.
    """
    if len(faces) == 0:
        return np.full((len(extrinsics), image_size, image_size, 3), 255, np.uint8)
    cast = _make_caster(np.asarray(vertices)[faces], FOCAL_RATIO)
    directions = _camera_rays(image_size * supersample, FOCAL_RATIO)
    images = [
        _render_view(cast, directions, extrinsic, np.asarray(albedo))[0] for extrinsic in extrinsics
    ]
    return np.stack([_to_bytes(_downsample(image, supersample)) for image in images])


def render_cutout(
    vertices: np.ndarray,
    faces: np.ndarray,
    extrinsic: np.ndarray,
    image_size: int,
    albedo: np.ndarray | Sequence[float],
    focal_ratio: float,
) -> np.ndarray:
    """Renders a shaded image of a mesh on a transparent background.

    Args:
        vertices: (N, 3) world coordinates.
        faces: (F, 3) vertex indices, at least one.
        extrinsic: (3, 4) world to camera.
        image_size: edge of the image in pixels.
        albedo: surface color in [0, 1], (3,) or one per face (F, 3).
        focal_ratio: focal length over sensor width.

    Returns:
        (image_size, image_size, 4) uint8 RGBA.
    """
    supersample = 2
    cast = _make_caster(np.asarray(vertices)[faces], focal_ratio)
    directions = _camera_rays(image_size * supersample, focal_ratio)
    colors, seen = _render_view(cast, directions, extrinsic, np.asarray(albedo))
    cover = np.zeros((len(colors), 1), np.float32)
    cover[seen] = 1.0
    share, total = _downsample(cover, supersample), _downsample(colors * cover, supersample)
    return _to_bytes(np.concatenate([total / np.maximum(share, 1e-6), share], axis=-1))


def _make_caster(triangles: np.ndarray, focal_ratio: float) -> _Caster:
    """Returns a function that casts rays at triangles (F, 3, 3) in world coordinates."""
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError:  # it has no wheels for Linux on ARM
        return _rasterizer(triangles.astype(np.float64), focal_ratio)
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(triangles, np.float32))

    def cast(
        extrinsic: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rotation, translation = extrinsic[:, :3], extrinsic[:, 3]
        rays = np.ascontiguousarray(directions @ rotation, np.float32)
        origin = np.broadcast_to(-translation @ rotation, rays.shape)
        hit = scene.run(np.ascontiguousarray(origin, np.float32), rays, output=True)
        seen = np.flatnonzero(hit["primID"] >= 0)
        return seen, hit["primID"][seen], hit["Ng"][seen] @ rotation.T

    return cast


def _rasterizer(triangles: np.ndarray, focal_ratio: float) -> _Caster:
    def cast(
        extrinsic: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        corners = triangles @ extrinsic[:, :3].T + extrinsic[:, 3]
        size = round(len(directions) ** 0.5)
        hit = first_hits(corners, directions, intrinsics(size, focal_ratio))
        seen = np.flatnonzero(hit >= 0)
        a, b, c = corners[hit[seen]].swapaxes(0, 1)
        return seen, hit[seen], np.cross(b - a, c - a)

    return cast


def _camera_rays(image_size: int, focal_ratio: float) -> np.ndarray:
    """Returns (image_size^2, 3) unit ray directions through the pixel centers, camera space."""
    pixel = (np.arange(image_size) + 0.5 - image_size / 2.0) / (focal_ratio * image_size)
    x, y = np.meshgrid(pixel, pixel)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def _render_view(
    cast: _Caster, directions: np.ndarray, extrinsic: np.ndarray, albedo: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colors of the rays, (P, 3) float32 in [0, 1], and which rays (K,) hit."""
    seen, hit, normal = cast(extrinsic, directions)
    surface = albedo if albedo.ndim == 1 else albedo[hit]
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    towards_head = -np.einsum("ij,ij->i", normal, directions[seen])
    # Both sides are lit, so a hole in a mesh shows the inside instead of black.
    normal *= np.where(towards_head < 0, -1.0, 1.0)[:, None]
    brightness = _AMBIENT + _KEY * np.maximum(normal @ _KEY_DIRECTION, 0.0)
    brightness += _HEAD * np.abs(towards_head)
    colors = np.ones((len(directions), 3), np.float32)
    colors[seen] = np.clip(brightness[:, None] * surface, 0.0, 1.0)
    return colors, seen


def _downsample(values: np.ndarray, supersample: int) -> np.ndarray:
    """Averages values (P, C) of the rays of a square image over its pixels, (S, S, C)."""
    size = round(len(values) ** 0.5)
    fine = values.reshape(size, size, -1)
    offsets = itertools.product(range(supersample), repeat=2)
    parts = [fine[row::supersample, column::supersample] for row, column in offsets]
    return np.mean(parts, axis=0)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.round(values * 255.0).astype(np.uint8)
