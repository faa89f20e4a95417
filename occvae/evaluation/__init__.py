"""Evaluation of a model on a dataset.

Every metric for which the dataset stores the truth is measured per shape. A report has its means
and confidence intervals, controls, and published figures of the same protocol. `macro` is the mean
over categories of their means over shapes. `micro` is the mean over shapes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from occvae.evaluation.comparison import published_beside
from occvae.evaluation.controls import control_summaries
from occvae.evaluation.ranks import map_over_ranks, raise_together, rank
from occvae.evaluation.scores import Score, Settings, score_shape
from occvae.evaluation.shapes import StoredShapes
from occvae.evaluation.table import format_table
from occvae.metrics import summarize
from occvae.models.inference import check_threshold
from occvae.models.protocol import Model

__all__ = ["VERSION", "evaluate", "format_table"]

VERSION = 1
"""Version of the report's layout."""
_EXAMPLES = 4  # number of examples per group: best, median and worst


def evaluate(
    model: Model,
    root: str | Path,
    *,
    split: str = "val",
    num_points: int = 100_000,
    mesh_resolution: int | None = 128,
    threshold: float | None = None,
    threshold_origin: str = "as asked for",
    num_shapes: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Any] | None:
    """Scores a model on one split of a dataset, with one view per shape if it sees images.

    If there are several ranks (see `ranks.processes`), they share the shapes, and rank 0 gets the
    report. The scores of a shape depend on the seed and on its number in the split. They do not
    depend on the number of ranks or on which other shapes are evaluated. Another number of threads
    can change the rounding of networks.

    Args:
        model: model from `create_model` or `from_pretrained`.
        root: dataset folder. Its training split gives the mean shapes of the controls.
        split: name of the split to evaluate.
        num_points: largest number of stored points per shape to use.
        mesh_resolution: cells along each axis of the meshes; None for no meshes.
        threshold: probability from which a point is occupied; None takes the model's own.
        threshold_origin: how the threshold was chosen, a text for the report.
        num_shapes: number of shapes, spread evenly over the split; None for all.
        seed: seed of the points drawn from meshes and grids.
        device: device to compute on.

    Returns:
        None on all ranks but rank 0. On rank 0 a dict of JSON values:

        - `version`, `model`, `data`, `options`: what was evaluated, and how.
        - `metrics`: {metric: summary}, see `occvae.metrics.summarize`. Names end in units.
        - `num_empty_meshes`: number of meshes without faces, which count as bad predictions.
        - `controls`: {control: summary} of voxel IoU.
        - `published`: comparable published figures, see `published_beside`.
        - `examples`: {"best", "median", "worst": ids} by IoU.
        - `shapes`: [{number, id, category, metrics}].

    Raises:
        UserError: the dataset or the split is missing, an argument is invalid, or the model
            predicts NaN.
    """
    device = torch.device(device)
    model = model.to(device).eval()
    if threshold is None:
        threshold, threshold_origin = model.threshold, "the model's own"
    raise_together(lambda: check_threshold(threshold))
    shapes = raise_together(
        lambda: StoredShapes(root, split, model, num_points=num_points, num_shapes=num_shapes)
    )
    settings = Settings(threshold, mesh_resolution, seed, device)
    scores = map_over_ranks(
        shapes.numbers, lambda number: score_shape(model, shapes, number, settings), "evaluate"
    )
    if rank() > 0:
        return None
    report = {
        "version": VERSION,
        "model": _describe_model(model),
        "data": _describe_data(root, split, shapes),
        "options": _describe_options(model, shapes, settings, threshold_origin),
        "metrics": _summaries([score.metrics for score in scores], shapes.categories),
        "num_empty_meshes": int(sum(score.metrics.get("empty_mesh", 0.0) for score in scores)),
        "controls": _controls(shapes, root, model, scores),
    }
    report["published"] = published_beside(report)
    report["examples"] = _examples(shapes, scores)
    report["shapes"] = _rows(shapes, scores)
    return report


def _summaries(scores: list[dict[str, float]], categories: list[str]) -> dict[str, Any]:
    return {
        name: summarize([metrics[name] for metrics in scores], categories) for name in scores[0]
    }


def _controls(
    shapes: StoredShapes, root: str | Path, model: Model, scores: list[Score]
) -> dict[str, Any]:
    if not shapes.voxel_resolution:
        return {}
    has_training = any(entry.split == "train" for entry in shapes.manifest.shards)
    training = StoredShapes(root, "train", model, truth_only=True) if has_training else None
    return control_summaries(
        shapes, training, [score.grid for score in scores if score.grid is not None]
    )


def _describe_model(model: Model) -> dict[str, Any]:
    return {
        "arch": model.arch,
        "options": model.options,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _describe_data(root: str | Path, split: str, shapes: StoredShapes) -> dict[str, Any]:
    return {
        "root": str(root),
        "source": shapes.manifest.source,
        "splits": shapes.manifest.splits,
        "split": split,
        "num_shapes": len(shapes),
        "num_stored": shapes.num_stored,
        "voxel_resolution": shapes.voxel_resolution,
        "num_surface_points": shapes.num_surface_points,
    }


def _describe_options(
    model: Model, shapes: StoredShapes, settings: Settings, threshold_origin: str
) -> dict[str, Any]:
    return {
        "observation": shapes.observation.noun,
        "num_points": shapes.num_points,
        "mesh_resolution": settings.mesh_resolution,
        "threshold": settings.threshold,
        "threshold_origin": threshold_origin,
        "seed": settings.seed,
        "device": settings.device.type,
        "precision": model.precision,
    }


def _rows(shapes: StoredShapes, scores: list[Score]) -> list[dict[str, Any]]:
    return [
        {"number": number, "id": id, "category": category, "metrics": score.metrics}
        for number, id, category, score in zip(
            shapes.numbers, shapes.ids, shapes.categories, scores, strict=True
        )
    ]


def _examples(shapes: StoredShapes, scores: list[Score]) -> dict[str, list[str]]:
    """Returns ids of the best, the median and the worst shapes, by the first IoU of the scores.

    No shape occurs twice. Fewer than three shapes are all "best".
    """
    first = next(name for name in scores[0].metrics if name.startswith("iou_"))
    order = np.argsort([-score.metrics[first] for score in scores], kind="stable")
    count = min(_EXAMPLES, len(order) // 3)
    start = (len(order) - count) // 2
    places: dict[str, Iterable[int]] = {
        "best": order[:count],
        "median": order[start : start + count],
        "worst": order[len(order) - count :],
    }
    if count == 0:
        places = {"best": order, "median": [], "worst": []}
    return {name: [shapes.ids[place] for place in chosen] for name, chosen in places.items()}
