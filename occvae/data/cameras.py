"""Converts cameras of published datasets to the convention of `occvae.visualize.rendering`."""

import numpy as np

from occvae.errors import UserError
from occvae.visualize.rendering import orbit_extrinsics

# The distances of Choy et al. 2016 are given in parts of this, in the units of ShapeNet's meshes.
MAX_DISTANCE = 1.75


def choy_extrinsics(
    azimuth: np.ndarray, elevation: np.ndarray, in_plane: np.ndarray, distance: np.ndarray
) -> np.ndarray:
    """The cameras of `rendering_metadata.txt` (3D-R2N2), looking at the origin of the mesh.

    Blender had the mesh's y upwards, and its camera on the mesh's +x at azimuth 0 and on its +z at
    azimuth 90.

    Args:
        azimuth, elevation, in_plane: (V,) degrees, the first three columns.
        distance: (V,) the fourth column, in (0, 1].

    Returns:
        (V, 3, 4) mesh coordinates to camera.
    """
    orbit = orbit_extrinsics(90.0 - azimuth, elevation, MAX_DISTANCE * distance)
    roll = np.radians(in_plane)
    cos, sin, zero, one = np.cos(roll), np.sin(roll), np.zeros_like(roll), np.ones_like(roll)
    rotation = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, one], axis=-1)
    return rotation.reshape(-1, 3, 3) @ orbit


def unit_cube_extrinsics(extrinsics: np.ndarray, location: np.ndarray, scale: float) -> np.ndarray:
    """(V, 3, 4) of original coordinates, unit * scale + location, to the same of the unit cube.

    Distances are then in edges of the shape, like all of this package's; images are the same.
    """
    rotation, translation = extrinsics[:, :, :3], extrinsics[:, :, 3:]
    moved = (rotation @ np.asarray(location, float)[:, None] + translation) / scale
    return np.concatenate([rotation, moved], axis=-1)


def check_views(
    points: np.ndarray,
    extrinsics: np.ndarray,
    intrinsics: np.ndarray,
    sizes: list[tuple[int, int]],
    least: float,
) -> None:
    """Refuses cameras of another convention: they would look past the shape.

    Args:
        points: (N, 3) of the shape, in the unit cube.
        extrinsics, intrinsics: (V, 3, 4) and (V, 3, 3).
        sizes: V widths and heights of the images.
        least: share of the points that every image must show.
    """
    if not (np.isfinite(extrinsics).all() and np.isfinite(intrinsics).all()):
        raise UserError("its cameras are not all finite")
    for view, (width, height) in enumerate(sizes):
        seen = extrinsics[view, :, :3] @ points.T + extrinsics[view, :, 3:]
        in_front = seen[2] > 0
        u, v, w = intrinsics[view] @ seen[:, in_front]
        inside = (u >= 0) & (u <= width * w) & (v >= 0) & (v <= height * w)
        share = inside.sum() / len(points)
        if share < least or not in_front.any():
            raise UserError(f"camera {view} has {share:.0%} of the shape in its image")
