"""Choice of the threshold on validation shapes.

A threshold chosen on the evaluated shapes makes scores too good. Papers on voxel reconstruction
choose it on the test set. Here it is always chosen on the split `val`.
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
"""The thresholds to choose from: 0.05, 0.10, ..., 0.95."""


@torch.no_grad()
def choose_threshold(
    model: Model,
    root: str | Path,
    *,
    num_points: int = 100_000,
    num_shapes: int | None = None,
    device: str | torch.device,
) -> float:
    """Returns the threshold in CANDIDATES with the highest mean IoU over validation shapes.

    IoU is measured on voxels for voxel models and on points for others. If the dataset lacks the
    one, the other is used.

    Args:
        model: model in eval mode on `device`.
        root: dataset folder.
        num_points: largest number of stored points per shape to use.
        num_shapes: number of shapes, spread evenly over the split; None for all.
        device: device to compute on.

    Raises:
        UserError: the dataset has no validation shapes, or the model predicts NaN.
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
    logits = model.predict_points(shapes.observed(number, device), points)
    return voxel_iou(check_probabilities(logits.sigmoid()), occupied, CANDIDATES)[0].tolist()


def _compare_voxels(
    model: Model, shapes: StoredShapes, number: int, device: str | torch.device
) -> list[float]:
    truth = torch.from_numpy(shapes.voxels(number))[None].to(device)
    predicted = model.predict_voxels(shapes.observed(number, device), truth.shape[-1])
    return voxel_iou(check_probabilities(predicted), truth, CANDIDATES)[0].tolist()
