"""Evaluation by number of views: voxel IoU and F-score from 1, 2, ... views.

Scores follow the protocols `pix2vox` and `what3d`, except for the threshold. Papers report the best
of four thresholds on the test set. Here the IoU at each of the four is reported separately, beside
the IoU at a threshold that was not chosen on the evaluated shapes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from occvae.errors import UserError
from occvae.evaluation.ranks import map_over_ranks, raise_together, rank
from occvae.evaluation.scores import Settings, voxel_metrics
from occvae.evaluation.shapes import StoredShapes
from occvae.metrics import PIX2VOX_THRESHOLDS, summarize
from occvae.metrics.published import VIEW_COUNTS, published_by_views
from occvae.models.checks import check_probabilities
from occvae.models.protocol import Model
from occvae.observations.kinds import Images, Mixture

# Methods whose published figures are printed (ShapeNet, 13 categories, 32^3).
_PUBLISHED_METHODS = ("Pix2Vox++/A", "LRGT+")
_PER_CATEGORY = {"IoU": "iou_voxels", "F@1%": "voxel_f_score_1_percent"}
_PUBLISHED_METRICS = {"IoU": "iou", "F@1%": "f_score_1_percent"}


def evaluate_views(
    model: Model,
    root: str | Path,
    view_counts: Sequence[int] = VIEW_COUNTS,
    *,
    split: str = "val",
    threshold: float | None = None,
    num_shapes: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Any] | None:
    """Scores a model from the first 1, 2, ... views of each shape of a split.

    Several ranks share the shapes as in `occvae.evaluation.evaluate`.

    Args:
        model: model from `create_model` or `from_pretrained`.
        root: dataset folder.
        view_counts: numbers of views, each at most the number of stored views.
        split: name of the split to evaluate.
        threshold: probability from which a voxel is occupied; None takes the model's own.
        num_shapes: number of shapes, spread evenly over the split; None for all.
        seed: seed of the points drawn from grids.
        device: device to compute on.

    Returns:
        None on all ranks but rank 0. On rank 0 a dict of JSON values: `threshold`, and `by_views`
        with the summaries of `iou_voxels`, `iou_voxels_0.2` to `iou_voxels_0.5` and
        `voxel_f_score_1_percent` for each number of views.

    Raises:
        UserError: the dataset lacks voxels or views, or the model predicts NaN.
    """
    threshold = model.threshold if threshold is None else threshold
    shapes = raise_together(lambda: _shapes_with_grids(model, root, split, num_shapes, view_counts))
    settings = Settings(threshold, None, seed, torch.device(device))
    model = model.to(settings.device).eval()
    scores = map_over_ranks(
        shapes.numbers,
        lambda number: _score(model, shapes, number, view_counts, settings),
        "views",
    )
    if rank() > 0:
        return None
    return {
        "threshold": threshold,
        "by_views": {
            str(count): {
                name: summarize([score[place][name] for score in scores], shapes.categories)
                for name in scores[0][place]
            }
            for place, count in enumerate(view_counts)
        },
    }


def check_view_counts(
    model: Model, root: str | Path, split: str, view_counts: Sequence[int]
) -> None:
    """Checks that a dataset has voxels and enough views.

    Raises:
        UserError: it lacks voxels or views, or a number of views is below 1.
    """
    _shapes_with_grids(model, root, split, None, view_counts)


def _shapes_with_grids(
    model: Model, root: str | Path, split: str, num_shapes: int | None, view_counts: Sequence[int]
) -> StoredShapes:
    if isinstance(model.observation, Mixture):
        raise UserError(
            f"--views compares numbers of images, but {model.arch} observes other inputs too; give "
            "--inputs images:1,images:5 instead"
        )
    if not isinstance(model.observation, Images):
        raise UserError(
            f"--views compares numbers of images, but {model.arch} observes "
            f"{model.observation.noun}s; leave it out"
        )
    # `StoredShapes` checks a single number of views: the smallest if it is below 1, otherwise the
    # largest, which the dataset may lack.
    num_views = min(view_counts) if min(view_counts) < 1 else max(view_counts)
    shapes = StoredShapes(root, split, model, num_shapes=num_shapes, num_views=num_views)
    if shapes.voxel_resolution is None:
        raise UserError(
            f"{root}: has no voxels, which --views needs; leave it out or evaluate other data"
        )
    return shapes


@torch.no_grad()
def _score(
    model: Model, shapes: StoredShapes, number: int, view_counts: Sequence[int], settings: Settings
) -> list[dict[str, float]]:
    """Returns the metrics of one shape for each number of views."""
    images = shapes.observed(number, settings.device)
    truth = shapes.voxels(number)
    scores = []
    for count in view_counts:
        predicted = check_probabilities(model.predict_voxels(images[:, :count], len(truth)))
        scores.append(voxel_metrics(predicted, truth, settings, number))
    return scores


def format_views_table(report: dict[str, Any], *, published: bool) -> str:
    """Formats a report of `evaluate_views` as a plain text table.

    Args:
        report: report of `evaluate_views`.
        published: whether to print published figures too; see `comparable_by_views`.
    """
    counts = list(report["by_views"])
    lines = _own_lines(list(report["by_views"].values()))
    others = _published_lines(counts) if published else {}
    width = max(map(len, [*lines, *others])) + 2
    text = [
        "by number of views (the first ones); voxel IoU of protocol pix2vox, F-score of what3d",
        f"occupied from probability {report['threshold']} unless another is given",
        f"{'views':<{width}}" + "".join(f"{count:>8}" for count in counts),
        *(_table_row(name, values, width) for name, values in lines.items()),
    ]
    if others:
        text.append(
            "published on ShapeNet's 13 categories at 32^3, threshold chosen on the test set:"
        )
        text += [_table_row(name, values, width) for name, values in others.items()]
    return "\n".join(text)


def _own_lines(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns title and means of each line, from the summaries by number of views."""

    def means(metric: str, key: str) -> list[float]:
        return [row[metric][key]["mean"] for row in rows]

    return {
        "IoU, mean of shapes": means("iou_voxels", "micro"),
        "IoU, mean of categories": means("iou_voxels", "macro"),
        **{
            f"IoU from probability {threshold}": means(f"iou_voxels_{threshold}", "micro")
            for threshold in PIX2VOX_THRESHOLDS
        },
        "F@1%, mean of shapes": means("voxel_f_score_1_percent", "micro"),
        "F@1%, mean of categories": means("voxel_f_score_1_percent", "macro"),
        **{
            f"{title}, {name}": [row[metric]["per_category"][name]["mean"] for row in rows]
            for title, metric in _PER_CATEGORY.items()
            for name in rows[0][metric]["per_category"]
        },
    }


def _published_lines(counts: list[str]) -> dict[str, list[float | None]]:
    """Returns title and figures of each published line, None for missing numbers of views."""
    return {
        f"{method} {title}": list(map(published_by_views(method, metric).get, map(int, counts)))
        for method in _PUBLISHED_METHODS
        for title, metric in _PUBLISHED_METRICS.items()
    }


def _table_row(name: str, values: Sequence[float | None], width: int) -> str:
    cells = ("       -" if value is None else f"{value:8.3f}" for value in values)
    return f"{name:<{width}}" + "".join(cells)
