"""The HTML page of a report, with its examples as images and meshes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from occvae.evaluation.scores import Settings, predict_mesh
from occvae.evaluation.shapes import StoredShapes
from occvae.geometry.nearest_neighbors import nearest_neighbors
from occvae.geometry.voxels_to_mesh import smooth_meshes
from occvae.metrics import sample_surface
from occvae.models.protocol import Model
from occvae.observations.drawing import draw_observation

_MESH_RESOLUTION = 128  # if the evaluation itself made no meshes
_TRUTH_SAMPLES = 100_000
_DRAWN_SIZE = 224  # edge in pixels of observations that are not images


def write_page(
    path: Path,
    report: dict[str, Any],
    model: Model,
    root: str | Path,
    device: str | torch.device = "cpu",
) -> None:
    """Writes the report of `evaluate` as an HTML page with its examples in 3D.

    Args:
        path: HTML file to write. Its folder is created if absent.
        report: report of `evaluate` for this model and dataset.
        model: model in eval mode on `device`.
        root: dataset folder.
        device: device to compute on.
    """
    from occvae.visualize.report import Case, write_report

    options = report["options"]
    settings = Settings(
        options["threshold"], options["mesh_resolution"], options["seed"], torch.device(device)
    )
    shapes = StoredShapes(root, report["data"]["split"], model, num_points=options["num_points"])
    rows = {row["id"]: row for row in report["shapes"]}
    chosen = [rows[id] for ids in report["examples"].values() for id in ids]
    cases = [Case(**_example(model, shapes, row, settings)) for row in chosen]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(path, report, cases)


def _example(
    model: Model, shapes: StoredShapes, row: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    """Returns the arguments of `Case` for one shape."""
    number = row["number"]
    observed = shapes.observed(number, settings.device)
    resolution = settings.mesh_resolution or _MESH_RESOLUTION
    size = model.image_size or _DRAWN_SIZE
    mesh = predict_mesh(model, observed, resolution, settings.threshold)
    vertices = np.asarray(mesh.vertices, np.float64).reshape(-1, 3)
    truth = shapes.mesh(number)
    if truth is None and shapes.voxel_resolution:
        truth = _mesh_of_voxels(shapes.voxels(number))
    return {
        "id": row["id"],
        "category": row["category"],
        "metrics": row["metrics"],
        "image": draw_observation(shapes.observation, observed, size)[0],
        "truth": truth,
        "prediction": (vertices, np.asarray(mesh.faces).reshape(-1, 3)),
        "error": _distances(vertices, _true_points(shapes, number, truth, settings.seed)),
    }


def _mesh_of_voxels(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smooth mesh of a grid at two or more cells per voxel."""
    resolution = 64
    while resolution < 2 * len(voxels):
        resolution *= 2
    [mesh] = smooth_meshes(torch.from_numpy(voxels)[None].float(), 0.5, resolution)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def _true_points(
    shapes: StoredShapes, number: int, truth: tuple[np.ndarray, np.ndarray] | None, seed: int
) -> np.ndarray:
    """Returns points (P, 3) on the true surface.

    They are the stored ones, or drawn from the true mesh, or none if there is neither.
    """
    if shapes.num_surface_points:
        return shapes.surface(number).points
    if truth is None:
        return np.empty((0, 3))
    return sample_surface(*truth, _TRUTH_SAMPLES, [seed, number]).points


def _distances(vertices: np.ndarray, surface: np.ndarray) -> np.ndarray | None:
    """Returns the distance (V,) of each vertex to the nearest surface point, in edges."""
    return nearest_neighbors(vertices, surface)[0] if len(surface) else None
