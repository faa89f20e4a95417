"""Which points of a surface a camera sees, from the points and their normals alone."""

import numpy as np

# Edge of a cell of the depth buffer at the distance of the object, in edges of the unit cube. With
# 16,384 points on a surface of area 3, a cell that the surface fills holds about five of them.
_CELL = 0.03
# A point is hidden if its cell has a point that is nearer by more than this.
_TOLERANCE = 0.06


def visible_points(points: np.ndarray, normals: np.ndarray, extrinsic: np.ndarray) -> np.ndarray:
    """Returns which points of a closed surface a camera sees, (N,) bool.

    A point is seen if its normal turns to the camera, and if the depth buffer of all points has no
    nearer point in its cell. The cells are squares of the image plane, of width 0.03 at the
    distance of the world's origin. Nearer means by more than 0.06, because the depth of a slanted
    surface varies within a cell. Surfaces that are closer to each other do not hide each other.

    Args:
        points: (N, 3) world coordinates in front of the camera. They must be dense: about 10,000
            for the unit cube.
        normals: (N, 3) outward normals, of any length.
        extrinsic: (3, 4) world to camera.
    """
    seen = np.asarray(points, np.float64) @ extrinsic[:, :3].T + extrinsic[:, 3]
    facing = np.einsum("ni,ni->n", np.asarray(normals) @ extrinsic[:, :3].T, seen) < 0
    depth = seen[:, 2]
    distance = np.linalg.norm(extrinsic[:, 3])
    cells = np.floor(seen[:, :2] / depth[:, None] * (distance / _CELL)).astype(np.int64)
    columns, rows = (cells - cells.min(axis=0)).T
    place = rows * (columns.max() + 1) + columns
    nearest = np.full(place.max() + 1, np.inf)
    np.minimum.at(nearest, place, depth)
    return facing & (depth <= nearest[place] + _TOLERANCE)
