"""Renders point clouds as shaded discs, for previews and contact sheets."""

import numpy as np

from occvae.visualize.rendering import intrinsics

# Gray levels of the nearest and the farthest points.
_NEAR, _FAR = 40.0, 175.0


def render_points(points: np.ndarray, extrinsic: np.ndarray, image_size: int) -> np.ndarray:
    """Renders points on white. Nearer ones are darker and hide farther ones.

    Args:
        points: (N, 3) world coordinates. Those behind the camera are left out.
        extrinsic: (3, 4) world to camera, as in `occvae.visualize.rendering`.
        image_size: edge of the image in pixels.

    Returns:
        (image_size, image_size, 3) uint8 RGB.
    """
    image = np.full((image_size, image_size, 3), 255, np.uint8)
    seen = np.asarray(points, np.float64) @ extrinsic[:, :3].T + extrinsic[:, 3]
    seen = seen[seen[:, 2] > 1e-6]
    if len(seen) == 0:
        return image
    seen = seen[np.argsort(-seen[:, 2], kind="stable")]  # nearer points overwrite farther ones
    projected = seen @ intrinsics(image_size).T
    pixels = np.floor(projected[:, :2] / projected[:, 2:])
    depth = seen[:, 2]
    share = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-9)
    grays = (_NEAR + (_FAR - _NEAR) * share).astype(np.uint8)
    offsets = _disc(_radius(len(seen), image_size))
    columns, rows = np.moveaxis(pixels[:, None] + offsets[None], 2, 0).reshape(2, -1)
    inside = (columns >= 0) & (columns < image_size) & (rows >= 0) & (rows < image_size)
    shades = np.repeat(grays, len(offsets))[inside]
    image[rows[inside].astype(int), columns[inside].astype(int)] = shades[:, None]
    return image


def _radius(count: int, image_size: int) -> float:
    """Radius of the discs in pixels. Discs of few points are larger, so that they are visible."""
    return image_size / (80.0 if count <= 2000 else 160.0)


def _disc(radius: float) -> np.ndarray:
    """Offsets (K, 2) of the pixels of a disc, at least its center."""
    axis = np.arange(-int(radius), int(radius) + 1)
    offsets = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return offsets[(offsets**2).sum(axis=1) <= radius**2]
