"""Contact sheets: what a model observes, true shape and prediction side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import default_collate

from occvae.data.dataset import ShapeDataset
from occvae.data.truth import true_mesh
from occvae.errors import UserError
from occvae.geometry.voxels_to_mesh import grid_mesh
from occvae.images.io import load_square_image
from occvae.models.protocol import GenerativeModel, Model
from occvae.observations.drawing import draw_observation
from occvae.observations.kinds import Images, Mixture, Observation
from occvae.visualize.rendering import PREDICTION_ALBEDO, orbit_extrinsics, render_views
from occvae.visualize.sheet import make_sheet

_Item = TypeVar("_Item")

TILE = 160
HEADINGS = ("input", "truth", "prediction", "truth, behind", "prediction, behind")
MIN_ROWS, MAX_ROWS = 6, 16
_RESOLUTION = 64  # of predicted surfaces; a finer one looks the same in a tile


def choose_rows(categories: Sequence[str]) -> list[int]:
    """Chooses the shapes of a contact sheet: one per category, or more if there are few.

    Args:
        categories: category of each shape of a dataset.

    Returns:
        Numbers of the shapes, ordered by category. Of more than `MAX_ROWS` categories, as many are
        chosen that are spread evenly over their names. With few categories, each has equally many
        shapes and there are at least `MIN_ROWS`, if the dataset has as many.
    """
    shapes: dict[str, list[int]] = {name: [] for name in sorted(set(categories))}
    for number, name in enumerate(categories):
        shapes[name].append(number)
    chosen = _spread(list(shapes), MAX_ROWS)
    rows_each = -(-MIN_ROWS // len(chosen))
    return [number for name in chosen for number in _spread(shapes[name], rows_each)]


def write_contact_sheet(
    path: Path, model: Model, dataset: ShapeDataset, device: torch.device, rows: Mapping[int, str]
) -> None:
    """Writes a PNG with one row per shape.

    A row shows its label and the input, then the true shape and the prediction as the first view's
    camera sees them, then both from behind. The input is the first view, or is drawn from that
    camera.

    Args:
        path: PNG to write. Its folder is created if absent.
        model: model on `device`.
        dataset: source of the shapes. The model observes each as the dataset delivers it.
        device: device of the model.
        rows: number of each shape in the dataset, to the label of its row.

    Raises:
        UserError: a prediction is not finite.
    """
    samples = default_collate([dataset[number] for number in rows])
    observed = model.observation.of({key: value.to(device) for key, value in samples.items()})
    try:
        predictions = model.reconstruct(observed, resolution=_RESOLUTION)
    except ValueError as error:
        raise UserError(
            f"{path}: the predictions cannot be drawn ({error}); continue from the last checkpoint "
            "with --resume and a lower optim.lr"
        ) from None
    tiles = [
        tile
        for number, mesh in zip(rows, predictions, strict=True)
        for tile in _row(dataset, number, model, np.asarray(mesh.vertices), np.asarray(mesh.faces))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    make_sheet(tiles, len(HEADINGS), HEADINGS, list(rows.values())).save(path)


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


def _spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """Returns `count` items that are spread evenly over a sequence, or all if it has fewer."""
    count = min(count, len(items))
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]


def _row(
    dataset: ShapeDataset, number: int, model: Model, vertices: np.ndarray, faces: np.ndarray
) -> list[np.ndarray]:
    """Returns the tiles of one row in the order of HEADINGS."""
    shard, local = dataset.locate(number)
    cameras = np.concatenate(
        [shard.extrinsics(local, 0)[None], orbit_extrinsics([215.0], [30.0], [1.8])]
    )
    truth = render_views(*true_mesh(shard, local), cameras, TILE)
    guess = render_views(vertices, faces, cameras, TILE, PREDICTION_ALBEDO)
    seen = _seen(dataset, number, model.observation, cameras[0])
    return [seen, truth[0], guess[0], truth[1], guess[1]]


def _seen(
    dataset: ShapeDataset, number: int, observation: Observation, camera: np.ndarray
) -> np.ndarray:
    """Draws what the model observes of a shape. Images are the stored ones, in full detail."""
    if isinstance(observation, Images | Mixture):
        shard, local = dataset.locate(number)
        return load_square_image(shard.image(local, 0), TILE)
    observed = observation.of(default_collate([dataset[number]]))
    return draw_observation(observation, observed, TILE, camera)[0]
