"""Converts the cameras of published datasets to this package's convention.

`occvae.visualize.rendering` describes the convention.
"""

import numpy as np

from occvae.errors import UserError
from occvae.visualize.rendering import orbit_extrinsics

# Largest camera distance of Choy et al. 2016, in units of ShapeNet's meshes. Their files store
# distances as fractions of it.
MAX_DISTANCE = 1.75


def choy_extrinsics(
    azimuth: np.ndarray, elevation: np.ndarray, in_plane: np.ndarray, distance: np.ndarray
) -> np.ndarray:
    """Extrinsics of the cameras in a `rendering_metadata.txt` of 3D-R2N2 (Choy et al. 2016).

    The cameras look at the origin of the mesh, with the mesh's y axis up. A camera at azimuth 0 is
    on the mesh's +x axis, and a camera at azimuth 90 is on its +z axis.

    Args:
        azimuth: (V,) degrees, the first column of the file.
        elevation: (V,) degrees, the second column.
        in_plane: (V,) degrees of rotation about the viewing axis, the third column.
        distance: (V,) in (0, 1], the fourth column.

    Returns:
        (V, 3, 4) float64, mesh coordinates to camera coordinates.
    """
    orbit = orbit_extrinsics(90.0 - azimuth, elevation, MAX_DISTANCE * distance)
    roll = np.radians(in_plane)
    cos, sin, zero, one = np.cos(roll), np.sin(roll), np.zeros_like(roll), np.ones_like(roll)
    rotation = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, one], axis=-1)
    return rotation.reshape(-1, 3, 3) @ orbit


def unit_cube_extrinsics(extrinsics: np.ndarray, location: np.ndarray, scale: float) -> np.ndarray:
    """Extrinsics for points of the unit cube, from extrinsics for original coordinates.

    The images stay the same. Camera distances are then in units of the shape's longest edge.

    Args:
        extrinsics: (V, 3, 4) original coordinates to camera coordinates.
        location: (3,) where original = unit * scale + location.
        scale: see `location`.

    Returns:
        (V, 3, 4) coordinates of the unit cube to camera coordinates.
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
    """Checks that every camera sees the shape. Cameras of another convention usually do not.

    Args:
        points: (N, 3) points of the shape, in the unit cube.
        extrinsics: (V, 3, 4) unit cube to camera coordinates.
        intrinsics: (V, 3, 3) camera coordinates to pixels.
        sizes: width and height of each of the V images.
        least: smallest share of the points that each image must show.

    Raises:
        UserError: a camera shows less than that, or a matrix is not finite.
    """
    if not (np.isfinite(extrinsics).all() and np.isfinite(intrinsics).all()):
        raise UserError("a camera matrix has a value that is not finite")
    for view, (width, height) in enumerate(sizes):
        seen = extrinsics[view, :, :3] @ points.T + extrinsics[view, :, 3:]
        in_front = seen[2] > 0
        u, v, w = intrinsics[view] @ seen[:, in_front]
        inside = (u >= 0) & (u <= width * w) & (v >= 0) & (v <= height * w)
        share = inside.sum() / len(points)
        if share < least or not in_front.any():
            raise UserError(
                f"camera {view} shows {share:.0%} of the shape; expected at least {least:.0%}"
            )
