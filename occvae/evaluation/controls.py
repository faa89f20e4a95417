"""Controls that see no image, or a wrong one: what a model must beat to have learnt to look.

All are measured by the IoU of grids.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from occvae.evaluation.shapes import StoredShapes
from occvae.evaluation.threshold import CANDIDATES
from occvae.metrics import best_threshold, summarize
from occvae.ops.voxel_iou import voxel_iou

_NUM_SHUFFLES = 5


def control_summaries(
    shapes: StoredShapes, training: StoredShapes | None, grids: list[np.ndarray]
) -> dict[str, Any]:
    """The IoU of each control by category, macro and micro.

    Args:
        shapes: evaluated, with grids.
        training: gives the mean shapes; None where the dataset has no such split.
        grids: predicted of each shape, packed bits as in `Score`.
    """
    controls: dict[str, Any] = {}
    if len(shapes) > 1:  # one shape has no other's image
        shuffled = _shuffled_iou(shapes, grids)
        controls["shuffled_images"] = summarize(shuffled, shapes.categories)
    if training is not None:
        means = _mean_shapes(training.all_voxels())
        controls["mean_shape"] = _mean_shape_summary(shapes, {"": means[""]})
        controls["category_mean_shape"] = _mean_shape_summary(shapes, means)
    return controls


def _shuffled_iou(shapes: StoredShapes, grids: list[np.ndarray]) -> np.ndarray:
    """(S,) IoU with the images of other shapes: what remains when the image says nothing."""
    count = len(shapes)
    order = np.random.default_rng(0).permutation(count)
    place = np.argsort(order)
    # In a ring of random order, the shapes before each; never itself.
    shifts = np.arange(1, min(_NUM_SHUFFLES, count - 1) + 1)
    found = np.empty(count)
    for index, (_, truth) in enumerate(shapes.all_voxels()):
        others = np.stack([grids[other] for other in order[(place[index] - shifts) % count]])
        predicted = np.unpackbits(others, axis=1, count=truth.size)
        target = torch.from_numpy(truth.reshape(1, -1)).expand(len(shifts), -1)
        found[index] = voxel_iou(torch.from_numpy(predicted).float(), target).mean()
    return found


def _mean_shapes(voxels: Iterable[tuple[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Mean occupancy (R, R, R) of each category, and of all under the name ""."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for category, grid in voxels:
        for name in (category, ""):
            counts[name] = counts.get(name, 0) + 1
            sums.setdefault(name, np.zeros(grid.shape, np.float32))
            sums[name] += grid
    return {name: torch.from_numpy(total / counts[name]) for name, total in sums.items()}


def _mean_shape_summary(shapes: StoredShapes, means: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The mean training shape as prediction, at the threshold that suits the control best.

    A category without training shapes has no mean of its own, and takes that of all.
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
