"""Contact sheets: what a model observes, true shape and prediction side by side."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

from occvae.data.dataset import ShapeDataset
from occvae.data.truth import true_mesh
from occvae.geometry.voxels_to_mesh import grid_mesh
from occvae.images.io import load_square_image
from occvae.models.protocol import GenerativeModel, Model
from occvae.observations.drawing import draw_observation
from occvae.observations.kinds import Images, Observation
from occvae.visualize.rendering import PREDICTION_ALBEDO, orbit_extrinsics, render_views
from occvae.visualize.sheet import make_sheet

TILE = 160
HEADINGS = ("input", "truth", "prediction", "truth, behind", "prediction, behind")


def write_contact_sheet(
    path: Path, model: Model, dataset: ShapeDataset, device: torch.device, num_shapes: int = 6
) -> None:
    """Writes a PNG with one row per shape.

    A row shows the input, then the true shape and the prediction as the first view's camera sees
    them, then both from behind. The input is the first view, or is drawn from that camera.

    Args:
        path: PNG to write. Its folder is created if absent.
        model: model on `device`.
        dataset: source of the shapes, which are spread evenly over it. The model observes each as
            the dataset delivers it, or the first view of images.
        device: device of the model.
        num_shapes: number of rows, at most the number of shapes in the dataset.
    """
    indices = np.linspace(0, len(dataset) - 1, min(num_shapes, len(dataset))).astype(int)
    samples = default_collate([dataset[int(index)] for index in indices])
    observed = model.observation.of({key: value.to(device) for key, value in samples.items()})
    predictions = model.predict_voxels(observed, resolution=48).float().cpu().numpy()
    tiles = [
        tile
        for index, prediction in zip(indices, predictions, strict=True)
        for tile in _row(dataset, int(index), model, prediction)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    make_sheet(tiles, len(HEADINGS), HEADINGS).save(path)


def write_prior_sheet(
    path: Path, model: GenerativeModel, device: torch.device, num_shapes: int = 12
) -> None:
    """Writes a PNG with shapes sampled from the prior of a generative model, four per row.

    Args:
        path: PNG to write. Its folder is created if absent.
        model: model on `device`.
        device: device of the model.
        num_shapes: number of shapes, a multiple of 4. Every call samples the same latents.
    """
    generator = torch.Generator(device).manual_seed(0)
    volumes = model.sample(num_shapes, resolution=48, generator=generator).float().cpu().numpy()
    camera = orbit_extrinsics([35.0], [30.0], [1.8])
    tiles = [
        render_views(*grid_mesh(volume, model.threshold), camera, TILE, PREDICTION_ALBEDO)[0]
        for volume in volumes
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    make_sheet(tiles, 4).save(path)


def _row(
    dataset: ShapeDataset, index: int, model: Model, prediction: np.ndarray
) -> list[np.ndarray]:
    """Returns the tiles of one row in the order of HEADINGS."""
    shard, local = dataset.locate(index)
    cameras = np.concatenate(
        [shard.extrinsics(local, 0)[None], orbit_extrinsics([215.0], [30.0], [1.8])]
    )
    truth = render_views(*true_mesh(shard, local), cameras, TILE)
    guess = render_views(*grid_mesh(prediction, model.threshold), cameras, TILE, PREDICTION_ALBEDO)
    return [
        _seen(dataset, index, model.observation, cameras[0]),
        truth[0],
        guess[0],
        truth[1],
        guess[1],
    ]


def _seen(
    dataset: ShapeDataset, index: int, observation: Observation, camera: np.ndarray
) -> np.ndarray:
    """Draws what the model observes of a shape. Images are the stored ones, in full detail."""
    if isinstance(observation, Images):
        shard, local = dataset.locate(index)
        return load_square_image(shard.image(local, 0), TILE)
    observed = observation.of(default_collate([dataset[index]]))
    return draw_observation(observation, observed, TILE, camera)[0]
