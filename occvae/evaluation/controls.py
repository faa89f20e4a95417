"""Controls: predictions that do not use what the model observes of the shape.

A model that does not beat all controls has not learned to use its input. Controls are measured by
voxel IoU.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from occvae.evaluation.shapes import StoredShapes
from occvae.evaluation.threshold import CANDIDATES
from occvae.metrics import best_threshold, summarize
from occvae.observations.kinds import Images
from occvae.ops.voxel_iou import voxel_iou

_NUM_SHUFFLES = 5


def control_summaries(
    shapes: StoredShapes, training: StoredShapes | None, grids: list[np.ndarray]
) -> dict[str, Any]:
    """Returns the summary of voxel IoU for each control.

    - `shuffled_images`: the model's predictions for the images of other shapes. It is
      `shuffled_inputs` for models that observe something else.
    - `mean_shape`: the mean of all training shapes.
    - `category_mean_shape`: the mean training shape of the category.

    Args:
        shapes: evaluated shapes, which have voxels.
        training: training shapes, for the mean shapes; None if the dataset has no training split.
        grids: predicted grid of each shape, packed as in `Score`.
    """
    controls: dict[str, Any] = {}
    if len(shapes) > 1:  # of a single shape there is no other observation
        shuffled = _shuffled_iou(shapes, grids)
        seen = "images" if isinstance(shapes.observation, Images) else "inputs"
        controls[f"shuffled_{seen}"] = summarize(shuffled, shapes.categories)
    if training is not None:
        means = _mean_shapes(training.all_voxels())
        controls["mean_shape"] = _mean_shape_summary(shapes, {"": means[""]})
        controls["category_mean_shape"] = _mean_shape_summary(shapes, means)
    return controls


def _shuffled_iou(shapes: StoredShapes, grids: list[np.ndarray]) -> np.ndarray:
    """Returns IoU (S,) of each shape with predictions for what is observed of other shapes."""
    count = len(shapes)
    order = np.random.default_rng(0).permutation(count)
    place = np.argsort(order)
    # The shapes are put into a ring in random order. Each is compared with those just before it.
    shifts = np.arange(1, min(_NUM_SHUFFLES, count - 1) + 1)
    found = np.empty(count)
    for index, (_, truth) in enumerate(shapes.all_voxels()):
        others = np.stack([grids[other] for other in order[(place[index] - shifts) % count]])
        predicted = np.unpackbits(others, axis=1, count=truth.size)
        target = torch.from_numpy(truth.reshape(1, -1)).expand(len(shifts), -1)
        found[index] = voxel_iou(torch.from_numpy(predicted).float(), target).mean()
    return found


def _mean_shapes(voxels: Iterable[tuple[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Returns the mean occupancy (R, R, R) of each category, and of all shapes under the key ""."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for category, grid in voxels:
        for name in (category, ""):
            counts[name] = counts.get(name, 0) + 1
            sums.setdefault(name, np.zeros(grid.shape, np.float32))
            sums[name] += grid
    return {name: torch.from_numpy(total / counts[name]) for name, total in sums.items()}


def _mean_shape_summary(shapes: StoredShapes, means: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Scores mean training shapes as predictions, at the threshold with the highest IoU.

    A category without training shapes uses the mean of all shapes.
    """
    rows = [
        voxel_iou(
            means.get(category, means[""])[None],
            torch.from_numpy(grid)[None],
            CANDIDATES,
        )[0].numpy()
        for category, grid in shapes.all_voxels()
    ]
    iou = np.stack(rows)
    threshold, _ = best_threshold(iou, CANDIDATES)
    summary = summarize(iou[:, CANDIDATES.index(threshold)], shapes.categories)
    return {"threshold": threshold, **summary}
