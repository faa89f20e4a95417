"""From what a model observes to processed meshes, with hypotheses and uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from occvae.geometry.mesh_processing import process_mesh
from occvae.geometry.voxels_to_mesh import sample_volume
from occvae.models.checks import check_probabilities
from occvae.models.protocol import HypothesisModel, Model, VoxelModel
from occvae.reconstruction.settings import ReconstructionSettings

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress

# Number of hypotheses from which the uncertainty is computed.
_UNCERTAINTY_SAMPLES = 16
# Colors by standard deviation of the occupancy, which is at most 0.5 for values in [0, 1].
_RAMP_AT = (0.0, 0.25, 0.5)
_RAMP = np.array([[225, 225, 225], [245, 190, 60], [200, 30, 30]], np.float64)


class Prediction(NamedTuple):
    """The prediction for one object."""

    meshes: list[trimesh.Trimesh]
    """One mesh, or one per hypothesis."""
    std: float | None = None
    """Standard deviation of the occupancy, averaged over all vertices; None unless requested."""


@torch.no_grad()
def predict_meshes(
    model: Model,
    observed: Any,
    settings: ReconstructionSettings,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Predicts and processes the meshes of each object.

    Hypotheses depend on the seed and on what is observed of the object, not on other objects of the
    batch.

    Args:
        model: A model on the device of the observation.
        observed: Batch of the model's observation, for example images (B, V, 3, H, W) RGB in
            [0, 1], or a mapping to several tensors.
        settings: Settings that suit the model, see `ReconstructionSettings.check`.
        progress: As in `occvae.mise`.

    Returns:
        One prediction per object.

    Raises:
        ValueError: As in `model.reconstruct`.
        MemoryError: As in `model.reconstruct`.
        torch.OutOfMemoryError: As in `model.reconstruct`.
    """
    found = _extract(model, observed, settings, progress)
    processed = [[_process(mesh, settings) for mesh in meshes] for meshes in found]
    if not settings.uncertainty:
        return [Prediction(meshes) for meshes in processed]
    assert isinstance(model, HypothesisModel)
    return [
        Prediction(meshes, _paint(model, item, meshes, settings.seed))
        for item, meshes in zip(_items(observed), processed, strict=True)
    ]


def _extract(
    model: Model, observed: Any, settings: ReconstructionSettings, progress: Progress | None
) -> list[list[trimesh.Trimesh]]:
    """The unprocessed meshes of each object: one, or one per hypothesis."""
    surface = (settings.resolution, settings.threshold)
    options: dict[str, Any] = {
        "progress": progress,
        "refine_vertices": settings.refine_vertices,
        "normals": settings.normals,
    }
    if settings.num_samples is not None:
        assert isinstance(model, HypothesisModel)
        if settings.blocks:
            options["blocks"] = True
        return [
            model.mesh_samples(
                item,
                settings.num_samples,
                *surface,
                generator=_generator(model, settings.seed),
                **options,
            )[0]
            for item in _items(observed)
        ]
    if settings.blocks:
        assert isinstance(model, VoxelModel)
        volumes = check_probabilities(model.predict_voxels(observed))
        return [[mesh] for mesh in model.mesh(volumes, *surface, blocks=True)]
    return [[mesh] for mesh in model.reconstruct(observed, *surface, **options)]


def paint_uncertainty(mesh: trimesh.Trimesh, stds: Tensor) -> np.ndarray:
    """Colors vertices by the standard deviation there: gray for 0, orange for 0.25, red for 0.5.

    Args:
        mesh: Mesh in world units. Its `visual.vertex_colors` are set.
        stds: (R, R, R) standard deviations of the occupancy over the unit cube, as from
            `HypothesisModel.predict_uncertainty`.

    Returns:
        (V,) float64 standard deviations at the vertices.
    """
    points = torch.as_tensor(np.array(mesh.vertices), dtype=torch.float32)
    values = sample_volume(stds.float().cpu()[None], points[None])[0].double().numpy()
    colors = np.stack([np.interp(values, _RAMP_AT, channel) for channel in _RAMP.T], axis=-1)
    visual: Any = mesh.visual
    visual.vertex_colors = np.round(colors).astype(np.uint8)
    return values


def _items(observed: Any) -> list[Any]:
    """Splits a batch of an observation, a tensor or a mapping to tensors, into batches of one."""
    if isinstance(observed, Tensor):
        return list(observed.split(1))
    parts = zip(*(value.split(1) for value in observed.values()), strict=True)
    return [dict(zip(observed, item, strict=True)) for item in parts]


def _generator(model: Model, seed: int) -> torch.Generator:
    return torch.Generator(model.device).manual_seed(seed)


def _process(mesh: trimesh.Trimesh, settings: ReconstructionSettings) -> trimesh.Trimesh:
    return process_mesh(
        mesh, largest=settings.largest, smooth=settings.smooth, decimate=settings.decimate
    )


def _paint(model: HypothesisModel, item: Any, meshes: list[trimesh.Trimesh], seed: int) -> float:
    generator = _generator(model, seed)
    _, stds = model.predict_uncertainty(item, _UNCERTAINTY_SAMPLES, generator=generator)
    values = [paint_uncertainty(mesh, stds[0]) for mesh in meshes if len(mesh.faces)]
    return float(np.concatenate(values).mean()) if values else 0.0
