"""Finds the triangle that each ray of a camera hits first, where Embree is not installed.

Each triangle is tested only against the rays of the pixels in its bounding box. Rays share their
origin, so the test needs one dot product per edge: homogeneous rasterization (Olano and Greer,
Graphics Hardware 1997). Two triangles compute opposite values at a common edge, which leaves no gap
between them.
"""

from collections.abc import Iterator

import numpy as np

_PAIRS_PER_STEP = 2**18  # of a triangle and a pixel; one takes about 150 bytes


def first_hits(triangles: np.ndarray, rays: np.ndarray, intrinsic: np.ndarray) -> np.ndarray:
    """Returns the index of the first triangle that each ray hits, (size * size,) int64, or -1.

    Args:
        triangles: (F, 3, 3) float64, corners in camera coordinates.
        rays: (size * size, 3) float64, directions through the pixel centers, row by row.
        intrinsic: (3, 3) pinhole matrix in pixels.
    """
    size = round(len(rays) ** 0.5)
    lows, highs = _pixel_boxes(triangles, intrinsic, size)
    a, b, c = triangles.swapaxes(0, 1)
    edges = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
    volumes = np.einsum("ij,ij->i", a, edges[:, 0])
    edges *= np.sign(volumes)[:, None, None]  # then positive for rays through the triangle
    depth = np.full(len(rays), np.inf)
    first = np.full(len(rays), -1)
    for triangle, pixel in _pairs(lows, highs, size):
        sides = np.einsum("nij,nj->ni", edges[triangle], rays[pixel])
        total = sides.sum(axis=1)
        hit = (sides >= 0).all(axis=1) & (total > 0)
        triangle, pixel = triangle[hit], pixel[hit]
        distance = np.abs(volumes[triangle]) / total[hit]
        np.minimum.at(depth, pixel, distance)
        nearest = distance == depth[pixel]
        first[pixel[nearest]] = triangle[nearest]
    return first


def _pixel_boxes(
    triangles: np.ndarray, intrinsic: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 (column, row) of the pixels that triangles may cover, (F, 2) int64 each.

    A triangle with corners on both sides of the camera may cover every pixel.
    """
    projected = triangles @ intrinsic.T
    in_front = projected[..., 2] > 1e-6
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = projected[..., :2] / projected[..., 2:]
    pixels[~in_front] = 0.0  # not used
    # The center of pixel i is at i + 0.5. The margin allows for rounding.
    lows = np.ceil(pixels.min(axis=1) - 0.5 - 1e-6)
    highs = np.floor(pixels.max(axis=1) - 0.5 + 1e-6) + 1
    lows, highs = (np.clip(ends, 0, size).astype(np.int64) for ends in (lows, highs))
    lows[~in_front.all(axis=1)] = 0
    highs[~in_front.all(axis=1)] = size
    highs[~in_front.any(axis=1)] = 0
    return lows, highs


def _pairs(
    lows: np.ndarray, highs: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the pairs of a triangle and a pixel in its box, as indices (N,) of both."""
    widths, heights = np.maximum(highs - lows, 0).T
    counts = widths * heights
    steps = np.cumsum(counts) // _PAIRS_PER_STEP
    for triangles in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(steps)) + 1):
        triangle = np.repeat(triangles, counts[triangles])
        starts = np.cumsum(counts[triangles]) - counts[triangles]
        within = np.arange(len(triangle)) - np.repeat(starts, counts[triangles])
        rows, columns = np.divmod(within, widths[triangle])
        yield triangle, (lows[triangle, 1] + rows) * size + lows[triangle, 0] + columns
