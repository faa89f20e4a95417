"""The scores of one shape: predicted points, grid and mesh against the stored truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from occvae.errors import UserError
from occvae.evaluation.shapes import StoredShapes
from occvae.metrics import PIX2VOX_THRESHOLDS, measure_mesh, occupancy_iou, what3d_f_score
from occvae.models.checks import check_probabilities
from occvae.models.protocol import Model
from occvae.ops.inside_mesh import inside_mesh
from occvae.ops.voxel_iou import voxel_iou

if TYPE_CHECKING:
    import trimesh

# The metrics of `conv_onet` include those of `onet`.
MESH_PROTOCOL = "conv_onet"


@dataclass(frozen=True)
class Settings:
    """Settings of the predictions.

    Args:
        threshold: probability from which a point is occupied. It is also the level of the meshes.
        mesh_resolution: cells along each axis of the meshes; None for no meshes.
        seed: seed of the points drawn from meshes and grids, combined with the shape's number.
        device: device to compute on.
    """

    threshold: float
    mesh_resolution: int | None
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Score:
    """The scores of one shape.

    Args:
        metrics: values by name of the metric; see `occvae.metrics.protocols` for units.
        grid: predicted occupied voxels as (R^3 / 8,) uint8 of numpy.packbits; None if the dataset
            has no voxels.
    """

    metrics: dict[str, float]
    grid: np.ndarray | None


@torch.no_grad()
def score_shape(model: Model, shapes: StoredShapes, number: int, settings: Settings) -> Score:
    """Measures all metrics for which the dataset stores the truth.

    Args:
        model: model in eval mode on `settings.device`.
        shapes: shapes of the split.
        number: number of the shape in the split.
        settings: settings of the predictions.

    Raises:
        UserError: the model predicts NaN, or its mesh cannot be made at this resolution.
    """
    observed = shapes.observed(number, settings.device)
    metrics: dict[str, float] = {}
    grid = None
    if shapes.num_points:
        points, occupied = shapes.points(number)
        metrics |= _point_metrics(model, observed, points, occupied, settings)
    if shapes.voxel_resolution:
        truth = shapes.voxels(number)
        predicted = check_probabilities(model.predict_voxels(observed, len(truth)))
        metrics |= voxel_metrics(predicted, truth, settings, number)
        grid = np.packbits((predicted[0] >= settings.threshold).cpu().numpy())
    if settings.mesh_resolution is not None:
        mesh = predict_mesh(model, observed, settings.mesh_resolution, settings.threshold)
        metrics |= _mesh_metrics(mesh, shapes, number, settings)
    return Score(metrics, grid)


def predict_mesh(model: Model, observed: Any, resolution: int, threshold: float) -> trimesh.Trimesh:
    """Returns the mesh of one shape.

    Args:
        model: model in eval mode, on the device of the observation.
        observed: what the model observes of the shape, as a batch of one.
        resolution: cells along each axis.
        threshold: probability of the surface.

    Raises:
        UserError: the resolution is invalid or needs too much memory.
    """
    try:
        [mesh] = model.reconstruct(observed, resolution, threshold)
    except (ValueError, MemoryError) as error:
        raise UserError(f"meshes at {resolution}^3: {error}") from None
    return mesh


def voxel_metrics(
    predicted: Tensor, truth: np.ndarray, settings: Settings, number: int
) -> dict[str, float]:
    """Returns voxel IoU and F-score of one shape.

    Args:
        predicted: (1, R, R, R) probabilities.
        truth: (R, R, R) bool.
        settings: threshold and seed.
        number: number of the shape in the split, for the seed.
    """
    target = torch.from_numpy(truth)[None].to(predicted.device)
    guess = (predicted[0] >= settings.threshold).cpu().numpy()
    return _at_thresholds("iou_voxels", predicted, target, settings.threshold) | {
        "voxel_f_score_1_percent": what3d_f_score(
            guess, truth, seed=[settings.seed, number], device=settings.device
        )
    }


def _point_metrics(
    model: Model, observed: Any, points: np.ndarray, occupied: np.ndarray, settings: Settings
) -> dict[str, float]:
    logits = model.predict_points(observed, torch.from_numpy(points)[None].to(settings.device))
    predicted = check_probabilities(logits.sigmoid())
    target = torch.from_numpy(occupied)[None].to(settings.device)
    return _at_thresholds("iou_points", predicted, target, settings.threshold)


def _at_thresholds(
    name: str, predicted: Tensor, target: Tensor, threshold: float
) -> dict[str, float]:
    values = voxel_iou(predicted, target, (threshold, *PIX2VOX_THRESHOLDS))[0].tolist()
    names = [name, *(f"{name}_{value}" for value in PIX2VOX_THRESHOLDS)]
    return dict(zip(names, values, strict=True))


def _mesh_metrics(
    mesh: trimesh.Trimesh, shapes: StoredShapes, number: int, settings: Settings
) -> dict[str, float]:
    inside = occupied = None
    if shapes.num_points:
        points, occupied = shapes.points(number)
        inside = _contains(mesh, points, settings.device)
    if not shapes.num_surface_points:
        metrics = {"empty": float(len(mesh.faces) == 0)}
        if inside is not None and occupied is not None:
            metrics["iou"] = occupancy_iou(inside, occupied)
    else:
        metrics = measure_mesh(
            mesh,
            shapes.surface(number),
            MESH_PROTOCOL,
            seed=[settings.seed, number],
            inside=inside,
            occupancies=occupied,
            device=settings.device,
        )
    names = {"iou": "iou_mesh", "empty": "empty_mesh"}
    return {names.get(name, name): value for name, value in metrics.items()}


def _contains(mesh: trimesh.Trimesh, points: np.ndarray, device: torch.device) -> np.ndarray:
    """Returns which points are inside the mesh, (N,) bool."""
    vertices = torch.from_numpy(np.array(mesh.vertices, np.float64).reshape(-1, 3))
    faces = torch.from_numpy(np.array(mesh.faces, np.int64).reshape(-1, 3))
    queries = torch.from_numpy(points)
    inside = inside_mesh(vertices.to(device), faces.to(device), queries.to(device))
    return inside.cpu().numpy()
