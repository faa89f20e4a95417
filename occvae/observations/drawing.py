"""Draws what a model observes, for previews, contact sheets and reports."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from occvae.geometry.voxels_to_mesh import block_mesh
from occvae.observations.kinds import (
    Images,
    LabeledPoints,
    Mixture,
    Observation,
    PointCloud,
    VoxelGrid,
)
from occvae.visualize.point_rendering import render_points
from occvae.visualize.rendering import orbit_extrinsics, render_views

# Right of the front and above, where previews begin their turn.
CAMERA = orbit_extrinsics([30.0], [27.5], [1.8])[0]


def draw_observation(
    observation: Observation, observed: Any, size: int, camera: np.ndarray = CAMERA
) -> list[np.ndarray]:
    """Draws what a model observes of one shape.

    Args:
        observation: Its kind.
        observed: The observation, a batch of one.
        size: Edge of the drawings in pixels.
        camera: (3, 4) world to camera. Images are shown as they are, not from this camera.

    Returns:
        (size, size, 3) uint8 each: one per view of images, one per point cloud or grid.
    """
    match observation:
        case Images():
            return [_resize(view, size) for view in observed[0]]
        case PointCloud():
            return [render_points(_numpy(observed[0]), camera, size)]
        case LabeledPoints():
            points = _numpy(observed[0])
            return [render_points(points[points[:, 3] > 0.5, :3], camera, size)]
        case VoxelGrid():
            mesh = block_mesh(_numpy(observed[0]) > 0.5)
            return [render_views(mesh.vertices, mesh.faces, camera[None], size)[0]]
        case Mixture():
            kinds = observation.kinds()
            return [
                drawing
                for name, part in observed.items()
                for drawing in draw_observation(kinds[name], part, size, camera)
            ]
    raise NotImplementedError(f"drawing of {observation.noun}s")


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def _resize(image: Tensor, size: int) -> np.ndarray:
    """An image (3, S, S) in [0, 1] as (size, size, 3) uint8."""
    pixels = (image * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
