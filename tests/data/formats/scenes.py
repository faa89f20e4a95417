"""A chair without symmetry: its grid, its exact mesh, and silhouettes of its voxels."""

import itertools
from collections.abc import Callable

import numpy as np
import trimesh
from scipy.ndimage import binary_erosion

from occvae.visualize.rendering import render_views

SIZE = 137
# Cells (x, y, z) of a 32^3 grid: seat, back, four legs and one arm. The longest edge is 32 cells,
# and the bounding box is centered in the cube.
BOXES = (
    ((6, 12, 4), (26, 16, 28)),
    ((6, 16, 4), (26, 32, 8)),
    *(((x, 0, z), (x + 3, 12, z + 3)) for x in (6, 23) for z in (4, 25)),
    ((6, 16, 8), (9, 22, 22)),
)
EXTENTS = np.array([20, 32, 24]) / 32


def chair_grid(factor: int = 1) -> np.ndarray:
    grid = np.zeros((32 * factor,) * 3, bool)
    for low, high in BOXES:
        grid[tuple(slice(a * factor, b * factor) for a, b in zip(low, high, strict=True))] = True
    return grid


def chair_mesh() -> tuple[np.ndarray, np.ndarray]:
    """The mesh of the chair in the unit cube."""
    boxes = [trimesh.creation.box(bounds=np.array(box) / 32 - 0.5) for box in BOXES]
    mesh = trimesh.util.concatenate(boxes)
    return mesh.vertices, mesh.faces


def inside_chair(points: np.ndarray) -> np.ndarray:
    """Whether each point is inside any of the boxes, (N,) bool."""
    cells = (points.astype(np.float64) + 0.5) * 32
    return np.any([np.all((cells > low) & (cells < high), axis=1) for low, high in BOXES], axis=0)


def ball(center: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return mesh.vertices + center, mesh.faces


def render(
    mesh: tuple[np.ndarray, np.ndarray],
    place: Callable[[np.ndarray], np.ndarray],
    cameras: np.ndarray,
    size: int = SIZE,
) -> np.ndarray:
    """Images (V, size, size, 3) of a mesh moved from the unit cube to its original frame."""
    return render_views(place(np.asarray(mesh[0])), mesh[1], cameras, size)


def mask_of(image: np.ndarray, white: int = 255) -> np.ndarray:
    return (image < white).any(axis=-1)


def silhouette(
    grid: np.ndarray, extrinsic: np.ndarray, intrinsic: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Pixels (H, W) bool that at least one of 5^3 points of an occupied cell projects to."""
    grid = grid & ~binary_erosion(grid)  # inner cells are hidden by others
    offsets = np.array(list(itertools.product((np.arange(5) + 0.5) / 5, repeat=3)))
    points = (np.argwhere(grid)[:, None] + offsets).reshape(-1, 3) / len(grid) - 0.5
    columns, rows = np.floor(project(points, extrinsic, intrinsic)).astype(int)
    seen = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    pixels = np.zeros(shape, bool)
    pixels[rows[seen], columns[seen]] = True
    return pixels


def project(points: np.ndarray, extrinsic: np.ndarray, intrinsic: np.ndarray) -> np.ndarray:
    """Columns and rows (2, N) of points in the image. Pixel (0, 0) spans 0 to 1."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    u, v, w = intrinsic @ extrinsic @ homogeneous.T
    return np.stack([u, v]) / w


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def centroid(image: np.ndarray) -> np.ndarray:
    """Mean column and row of the pixels that are not white."""
    darkness = 255.0 - image.astype(float).mean(axis=-1)
    rows, columns = np.indices(darkness.shape) + 0.5
    return np.array([(columns * darkness).sum(), (rows * darkness).sum()]) / darkness.sum()


def blender_camera(azimuth: float, elevation: float, in_plane: float, distance: float):
    """Extrinsics (3, 4) of 3D-R2N2's renderer, constructed step by step as in Blender.

    An empty object at the origin is rotated by Euler angles. The camera is its child at
    (1.75 * distance, 0, 0), and looks along its own -z axis. The mesh is loaded with y up.
    """

    def about(axis: int, degrees: float) -> np.ndarray:
        matrix, angle = np.eye(3), np.radians(degrees)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix[i, i] = matrix[j, j] = np.cos(angle)
        matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
        return matrix

    parent = about(2, -azimuth) @ about(1, -elevation) @ about(0, -in_plane)
    child = about(2, 90) @ about(
        0, 90
    )  # its z axis is the parent's x axis, its y axis the parent's z axis
    position = parent @ [1.75 * distance, 0, 0]
    world_to_camera = (parent @ child).T
    mesh_to_world = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    opencv = np.diag([1, -1, -1])
    rotation = opencv @ world_to_camera @ mesh_to_world
    translation = -opencv @ world_to_camera @ position
    return np.concatenate([rotation, translation[:, None]], axis=1)


def choy_intrinsics(size: int = SIZE) -> np.ndarray:
    focal = 35 / 32 * size
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
