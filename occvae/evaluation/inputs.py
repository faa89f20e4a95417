"""Evaluation by inputs: what a model of mixtures predicts from images, points, voxels or several.

Besides voxel IoU it measures the posterior: the likelihood of the true voxels under the mean of
hypotheses, and whether the hypotheses differ where the prediction is wrong.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from occvae.errors import UserError
from occvae.evaluation.controls import control_summaries
from occvae.evaluation.ranks import map_over_ranks, raise_together, rank
from occvae.evaluation.shapes import StoredShapes
from occvae.evaluation.table import aligned
from occvae.geometry.voxelize import cell_centers
from occvae.metrics import summarize
from occvae.metrics.uncertainty import error_auroc, rank_correlation
from occvae.models.checks import check_probabilities
from occvae.models.mixture import MixtureModel
from occvae.models.protocol import Model
from occvae.observations.kinds import Mixture
from occvae.ops.voxel_iou import voxel_iou

NUM_HYPOTHESES = 16
# Voxels of a shape at which hypotheses are compared, drawn at random. With all of them, an
# evaluation would take several times as long on a CPU.
_COMPARED_VOXELS = 4096
_FORMS = "images:N, points:N, scan, scan:N, voxels, or several joined by +"
_PART = re.compile(r"(?P<kind>images|points|scan|voxels)(:(?P<count>[1-9][0-9]{0,6}))?")
# Probabilities are clamped to [1e-4, 1 - 1e-4] in the likelihood, so that single voxels that are
# wrong with certainty do not decide it.
_SURE = 1e-4


class InputSet(NamedTuple):
    """Inputs that a model is evaluated with."""

    name: str
    """As the user wrote it, for example images:1+scan."""
    observation: Mixture
    """What a dataset delivers for it."""
    num_views: int
    """Images per shape, the first ones; 1 if there are none."""


def parse_inputs(text: str, model: Model) -> list[InputSet]:
    """Reads sets of inputs from a text such as `images:1,points:300,images:5+scan`.

    Args:
        text: sets with commas between them. `points:N` are points of the whole surface, and
            `scan:N` are points that one camera sees. `scan` has as many as in training.
        model: determines the size of images and grids and the noise of points.

    Raises:
        UserError: the model does not observe mixtures, or the text is not of this form.
    """
    if not isinstance(model, MixtureModel):
        raise UserError(
            f"--inputs compares kinds of inputs, but {model.arch} observes "
            f"{model.observation.noun}s only; leave it out"
        )
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names):
        raise UserError(f"--inputs {text}: a set of inputs is given twice")
    return [_parse_set(name, model.observation) for name in names]


def _parse_set(name: str, observation: Mixture) -> InputSet:
    cloud = observation.points
    assert cloud is not None
    chosen: dict[str, Any] = {}
    num_views = 1
    for part in name.split("+"):
        found = _PART.fullmatch(part)
        kind, count = (found["kind"], found["count"]) if found else ("", None)
        field = "points" if kind == "scan" else kind
        if (
            not found
            or field in chosen
            or (kind in ("images", "points") and count is None)
            or (kind == "voxels" and count is not None)
        ):
            raise UserError(f"--inputs {name}: expected {_FORMS}, each kind of input once")
        if kind == "images":
            num_views, chosen[field] = int(count or 1), observation.images
        elif kind == "voxels":
            chosen[field] = observation.voxels
        else:
            number = cloud.num_points if count is None else int(count)
            scans = 1.0 if kind == "scan" else 0.0
            chosen[field] = dataclasses.replace(cloud, num_points=number, scans=scans)
    return InputSet(name, Mixture(**chosen), num_views)


def evaluate_inputs(
    model: Model,
    root: str | Path,
    inputs: Sequence[InputSet],
    *,
    split: str = "val",
    threshold: float | None = None,
    num_shapes: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Any] | None:
    """Scores a model of mixtures from several sets of inputs.

    Several ranks share the shapes as in `occvae.evaluation.evaluate`.

    Args:
        model: model from `create_model` or `from_pretrained`, see `parse_inputs`.
        root: dataset folder.
        inputs: sets of inputs, from `parse_inputs`.
        split: name of the split to evaluate.
        threshold: probability from which a voxel is occupied; None takes the model's own.
        num_shapes: number of shapes, spread evenly over the split; None for all.
        seed: seed of the hypotheses.
        device: device to compute on.

    Returns:
        None on all ranks but rank 0. On rank 0 a dict of JSON values: `threshold`, the controls
        `mean_shape` and `category_mean_shape` if there is a training split, and `by_inputs`. For
        each set it has summaries of `iou_voxels`, of `shuffled_inputs` (IoU of predictions for the
        inputs of other shapes), of `nll` (nats per voxel) and of `error_auroc`, and
        `error_rank_correlation`. The last two are None where they are not defined.

    Raises:
        UserError: the dataset lacks voxels or an input, or the model predicts NaN.
    """
    assert isinstance(model, MixtureModel)
    threshold = model.threshold if threshold is None else threshold
    model = model.to(device).eval()
    report: dict[str, Any] = {"threshold": threshold, "by_inputs": {}}
    for given in inputs:
        shapes = raise_together(lambda: _shapes(model, root, split, given, num_shapes))  # noqa: B023
        scores = map_over_ranks(
            shapes.numbers,
            lambda number: _score(model, shapes, number, threshold, seed),  # noqa: B023
            given.name,
        )
        if rank() > 0:
            continue
        controls = control_summaries(
            shapes,
            _training(model, root, shapes) if not report["by_inputs"] else None,
            [score.grid for score in scores],
        )
        report["by_inputs"][given.name] = _summary(scores, shapes.categories) | {
            "shuffled_inputs": controls.pop("shuffled_inputs", None)
        }
        report |= controls
    return None if rank() > 0 else report


def check_inputs(model: Model, root: str | Path, split: str, inputs: Sequence[InputSet]) -> None:
    """Checks that a dataset has voxels and all inputs.

    Raises:
        UserError: it does not.
    """
    for given in inputs:
        _shapes(model, root, split, given, None)


def _shapes(
    model: Model, root: str | Path, split: str, given: InputSet, num_shapes: int | None
) -> StoredShapes:
    shapes = StoredShapes(
        root,
        split,
        model,
        num_shapes=num_shapes,
        num_views=given.num_views,
        observation=given.observation,
    )
    if shapes.voxel_resolution is None:
        raise UserError(
            f"{root}: has no voxels, which --inputs needs; leave it out or evaluate other data"
        )
    return shapes


def _training(model: Model, root: str | Path, shapes: StoredShapes) -> StoredShapes | None:
    """The training shapes, for the mean shapes; None if the dataset has none."""
    if not any(entry.split == "train" for entry in shapes.manifest.shards):
        return None
    return StoredShapes(root, "train", model, truth_only=True)


class _Score(NamedTuple):
    """The scores of one shape."""

    iou: float
    nll: float
    auroc: float | None
    deviation: float
    """Sum of the deviations, relative to the predicted volume."""
    grid: np.ndarray
    """The predicted grid, packed bits."""


@torch.no_grad()
def _score(
    model: MixtureModel, shapes: StoredShapes, number: int, threshold: float, seed: int
) -> _Score:
    observed = shapes.observed(number, model.device)
    truth = torch.from_numpy(shapes.voxels(number))[None].to(model.device)
    predicted = check_probabilities(model.predict_voxels(observed, truth.shape[-1]))
    occupied = predicted >= threshold
    chosen = np.random.default_rng([seed, number]).permutation(truth.numel())[:_COMPARED_VOXELS]
    where = torch.from_numpy(chosen).to(model.device)
    mean, deviation = _uncertainty(model, observed, where, truth.shape[-1], seed)
    inside = truth.flatten()[where]
    likely = torch.where(inside, mean, 1.0 - mean).clamp(_SURE, 1.0 - _SURE)
    wrong = occupied.flatten()[where] != inside
    return _Score(
        voxel_iou(predicted, truth, (threshold,)).item(),
        -likely.double().log().mean().item(),
        error_auroc(deviation.cpu().numpy(), wrong.cpu().numpy()),
        float(deviation.sum() / mean.sum()),
        np.packbits(occupied[0].cpu().numpy()),
    )


def _uncertainty(
    model: MixtureModel, observed: Any, where: torch.Tensor, resolution: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over hypotheses (N,) at the voxels with these numbers (N,)."""
    generator = torch.Generator(model.device).manual_seed(seed)
    posterior = model.posterior(observed)
    latents = torch.cat([posterior.sample(generator) for _ in range(NUM_HYPOTHESES)])
    points = cell_centers(resolution, where.device)[where].expand(NUM_HYPOTHESES, -1, -1)
    probabilities = check_probabilities(model.query_latents(latents, points).sigmoid())
    return probabilities.mean(dim=0), probabilities.std(dim=0)


def _summary(scores: list[_Score], categories: list[str]) -> dict[str, Any]:
    defined = [(s.auroc, name) for s, name in zip(scores, categories, strict=True)]
    ranked = [(value, name) for value, name in defined if value is not None]
    errors = np.array([1.0 - score.iou for score in scores])
    deviations = np.array([score.deviation for score in scores])
    return {
        "iou_voxels": summarize([score.iou for score in scores], categories),
        "nll": summarize([score.nll for score in scores], categories),
        "error_auroc": summarize(*zip(*ranked, strict=True)) if ranked else None,
        "error_rank_correlation": rank_correlation(deviations, errors),
    }


def format_inputs_table(report: dict[str, Any]) -> str:
    """Formats a report of `evaluate_inputs` as a plain text table."""
    rows = [("inputs", ["IoU", "95 % interval", "shuffled", "NLL", "AUROC", "Spearman"])]
    for name, found in report["by_inputs"].items():
        low, high = found["iou_voxels"]["micro"]["interval"]
        cells = [
            f"{found['iou_voxels']['micro']['mean']:.3f}",
            f"{low:.3f}-{high:.3f}",
            _cell(found["shuffled_inputs"]),
            f"{found['nll']['micro']['mean']:.4f}",
            _cell(found["error_auroc"]),
            _number(found["error_rank_correlation"]),
        ]
        rows.append((name, cells))
    for key, title in (("mean_shape", "mean shape"), ("category_mean_shape", "category mean")):
        if key in report:
            low, high = report[key]["micro"]["interval"]
            cells = [f"{report[key]['micro']['mean']:.3f}", f"{low:.3f}-{high:.3f}"]
            rows.append((title, [*cells, *4 * ["-"]]))
    lines = [
        f"by inputs: voxel IoU, mean of shapes; occupied from probability {report['threshold']}",
        *aligned(rows),
        f"NLL: nats per voxel of the mean of {NUM_HYPOTHESES} hypotheses, at {_COMPARED_VOXELS} "
        "random voxels. AUROC: probability that a wrong one has a larger",
        "standard deviation over hypotheses than a right one. Spearman: rank correlation over "
        "shapes of the relative deviation and 1 - IoU",
    ]
    return "\n".join(lines)


def _cell(summary: dict[str, Any] | None) -> str:
    return _number(None if summary is None else summary["micro"]["mean"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
