"""The threshold of probability that suits validation shapes best.

A threshold that is chosen on the shapes it is then measured on flatters the model: papers of voxel
reconstruction do so on the test set. Here it never sees other shapes than those of `val`.
"""

from pathlib import Path

import numpy as np
import torch

from occvae.evaluation.ranks import map_over_ranks, raise_together
from occvae.evaluation.shapes import StoredShapes
from occvae.metrics import best_threshold
from occvae.models.checks import check_probabilities
from occvae.models.protocol import Model, VoxelModel
from occvae.ops.voxel_iou import voxel_iou

CANDIDATES = tuple(round(0.05 * k, 2) for k in range(1, 20))


@torch.no_grad()
def choose_threshold(
    model: Model,
    root: str | Path,
    *,
    num_points: int = 100_000,
    num_shapes: int | None = None,
    device: str | torch.device,
) -> float:
    """Of CANDIDATES, the one with the highest mean IoU over validation shapes.

    The IoU on voxels for a voxel model and on points for others, as far as the dataset has them.

    Args:
        model: in eval mode, on the device.
        root, num_points, num_shapes: see `StoredShapes`.
        device: to compute on.
    """
    shapes = raise_together(
        lambda: StoredShapes(root, "val", model, num_points=num_points, num_shapes=num_shapes)
    )
    prefers_voxels = isinstance(model, VoxelModel) and shapes.voxel_resolution
    compare = _compare_points if shapes.num_points and not prefers_voxels else _compare_voxels
    iou = map_over_ranks(
        shapes.numbers, lambda number: compare(model, shapes, number, device), "threshold"
    )
    return best_threshold(np.array(iou), CANDIDATES)[0]


def _compare_points(
    model: Model, shapes: StoredShapes, number: int, device: str | torch.device
) -> list[float]:
    points, occupied = (torch.from_numpy(side)[None].to(device) for side in shapes.points(number))
    logits = model.predict_points(shapes.images(number).to(device), points)
    return voxel_iou(check_probabilities(logits.sigmoid()), occupied, CANDIDATES)[0].tolist()


def _compare_voxels(
    model: Model, shapes: StoredShapes, number: int, device: str | torch.device
) -> list[float]:
    truth = torch.from_numpy(shapes.voxels(number))[None].to(device)
    predicted = model.predict_voxels(shapes.images(number).to(device), truth.shape[-1])
    return voxel_iou(check_probabilities(predicted), truth, CANDIDATES)[0].tolist()
