"""What one shape scores: occupancies, grid and mesh of a model against what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """How a model is asked.

    Args:
        threshold: probability from which a point is occupied, and of the meshes' surface.
        mesh_resolution: cells along each axis; None for no meshes.
        seed: with a shape's number, of the points drawn from its mesh.
        device: to compute on.
    """

    threshold: float
    mesh_resolution: int | None
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Score:
    """Of one shape.

    Args:
        metrics: by name; see `occvae.metrics.protocols` for units.
        grid: predicted occupied voxels, (R^3 / 8,) uint8 of numpy.packbits; None without grids.
    """

    metrics: dict[str, float]
    grid: np.ndarray | None


@torch.no_grad()
def score_shape(model: Model, shapes: StoredShapes, number: int, settings: Settings) -> Score:
    """All metrics that the dataset has the truth for and the model an answer."""
    images = shapes.images(number).to(settings.device)
    metrics: dict[str, float] = {}
    grid = None
    if shapes.num_points:
        points, occupied = shapes.points(number)
        metrics |= _point_metrics(model, images, points, occupied, settings)
    if shapes.voxel_resolution:
        truth = shapes.voxels(number)
        predicted = check_probabilities(model.predict_voxels(images, len(truth)))
        metrics |= voxel_metrics(predicted, truth, settings, number)
        grid = np.packbits((predicted[0] >= settings.threshold).cpu().numpy())
    if settings.mesh_resolution is not None:
        mesh = predict_mesh(model, images, settings.mesh_resolution, settings.threshold)
        metrics |= _mesh_metrics(mesh, shapes, number, settings)
    return Score(metrics, grid)


def predict_mesh(
    model: Model, images: Tensor, resolution: int, threshold: float
) -> trimesh.Trimesh:
    """The mesh of images (1, V, 3, S, S), with so many cells along each axis."""
    try:
        [mesh] = model.reconstruct(images, resolution, threshold)
    except (ValueError, MemoryError) as error:
        raise UserError(f"meshes at {resolution}^3: {error}") from None
    return mesh


def voxel_metrics(
    predicted: Tensor, truth: np.ndarray, settings: Settings, number: int
) -> dict[str, float]:
    """Of probabilities (1, R, R, R) against (R, R, R) bool."""
    target = torch.from_numpy(truth)[None].to(predicted.device)
    guess = (predicted[0] >= settings.threshold).cpu().numpy()
    return _at_thresholds("iou_voxels", predicted, target, settings.threshold) | {
        "voxel_f_score_1_percent": what3d_f_score(
            guess, truth, seed=[settings.seed, number], device=settings.device
        )
    }


def _point_metrics(
    model: Model, images: Tensor, points: np.ndarray, occupied: np.ndarray, settings: Settings
) -> dict[str, float]:
    logits = model.predict_points(images, torch.from_numpy(points)[None].to(settings.device))
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
    """(N,) bool."""
    vertices = torch.from_numpy(np.array(mesh.vertices, np.float64).reshape(-1, 3))
    faces = torch.from_numpy(np.array(mesh.faces, np.int64).reshape(-1, 3))
    queries = torch.from_numpy(points)
    inside = inside_mesh(vertices.to(device), faces.to(device), queries.to(device))
    return inside.cpu().numpy()
