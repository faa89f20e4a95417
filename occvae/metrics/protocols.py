"""Named protocols: what a published number means, and how to measure the same.

Distances are in units of the object's longest bounding-box edge ("edge") unless a metric's name
says otherwise: `_tenth_edge` as the tables of the papers print them, `_edge2` squared,
`_half_edge` where the object fills a cube of edge 2. Scores and IoU have no unit.

An empty or missing prediction is never dropped. It counts as one whose every point is sqrt(3)
edges away and whose normals have cosine -1, with IoU and F-score 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from occvae.geometry.surface_sampling import Surface, sample_surface
from occvae.geometry.voxels_to_mesh import march_padded
from occvae.metrics.surface import Comparison, compare_surfaces
from occvae.ops.voxel_iou import voxel_iou

if TYPE_CHECKING:
    import trimesh

PIX2VOX_THRESHOLDS = (0.2, 0.3, 0.4, 0.5)
"""Probabilities at which Pix2Vox reports the voxel IoU."""
WHAT3D_SAMPLES = 8192


@dataclass(frozen=True)
class Protocol:
    """How a family of papers measures.

    Args:
        average: `macro`, the mean of the categories' means, or `micro`, the mean of the shapes.
        definition: of its metrics, for people.
        original: what the published code does with failures, where that differs from here.
        num_samples: points drawn from a predicted mesh.
        surface_metrics: of a `Comparison`; None where only voxels are compared.
    """

    average: str
    definition: str
    original: str
    num_samples: int
    surface_metrics: Callable[[Comparison], dict[str, float]] | None = None


def _onet_metrics(comparison: Comparison) -> dict[str, float]:
    return {
        "accuracy_edge": comparison.accuracy,
        "completeness_edge": comparison.completeness,
        "chamfer_l1_edge": comparison.chamfer_l1,
        "chamfer_l1_tenth_edge": 10.0 * comparison.chamfer_l1,
        "chamfer_l2_edge2": comparison.chamfer_l2,
        "normal_consistency": comparison.normal_consistency,
    }


def _conv_onet_metrics(comparison: Comparison) -> dict[str, float]:
    scores = {
        f"f_score_{percent:g}_percent": comparison.f_score(percent / 100)
        for percent in (1.0, 1.5, 2.0)
    }
    return _onet_metrics(comparison) | scores


def _vecset_metrics(comparison: Comparison) -> dict[str, float]:
    # Twice the half sum, in halves of an edge.
    return {
        "chamfer_sum_half_edge": 4.0 * comparison.chamfer_l1,
        "f_score_0.02_half_edge": comparison.f_score(0.01),
    }


PROTOCOLS = {
    "onet": Protocol(
        average="macro",
        definition="Occupancy Networks (Mescheder et al. 2019): 100,000 points drawn from the mesh "
        "against 100,000 stored ones with normals; Chamfer-L1 is half the sum of the mean "
        "Euclidean distances; IoU of 100,000 uniform points in [-0.55, 0.55]^3",
        original="an empty mesh has no Chamfer distance there, by a mismatch of keys, and drops "
        "out of that mean; a missing one out of all means; an empty union has IoU NaN; stored "
        "points get noise of 1e-4 anew each time",
        num_samples=100_000,
        surface_metrics=_onet_metrics,
    ),
    "conv_onet": Protocol(
        average="macro",
        definition="Convolutional Occupancy Networks (Peng et al. 2020): `onet`, and F-scores at "
        "1, 1.5 and 2 % of the edge of the unit cube",
        original="as `onet`; the F-score is NaN where nothing is near enough and absent for an "
        "empty mesh, and both drop out of the mean",
        num_samples=100_000,
        surface_metrics=_conv_onet_metrics,
    ),
    "vecset": Protocol(
        average="macro",
        definition="3DShape2VecSet (Zhang et al. 2023): objects in a cube of edge 2, 100,000 "
        "points, the sum of the two mean Euclidean distances, F-score at 0.02",
        original="precision and recall bear each other's names, which the F-score does not show",
        num_samples=100_000,
        surface_metrics=_vecset_metrics,
    ),
    "pix2vox": Protocol(
        average="micro",
        definition="Pix2Vox (Xie et al. 2019): voxel IoU at 32^3 for probabilities from 0.2, 0.3, "
        "0.4 and 0.5; published is the best of the four means over the test set",
        original="an empty union has IoU NaN; the threshold is chosen on the test set itself",
        num_samples=0,
    ),
    "what3d": Protocol(
        average="micro",
        definition="What Do Single-View 3D Reconstruction Networks Learn (Tatarchenko et al. 2019) "
        "as the multi-view literature has it: F-score at 1 % of 8,192 points from marching cubes "
        "of either binary grid, padded by a cell and scaled by 1 / (R + 1)",
        original="points are drawn without a seed, of equal grids too, which then score below 1",
        num_samples=WHAT3D_SAMPLES,
    ),
}
"""The protocols by name."""


def measure_mesh(
    mesh: trimesh.Trimesh | None,
    truth: Surface,
    protocol: str,
    *,
    seed: int | Sequence[int],
    inside: np.ndarray | None = None,
    occupancies: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Metrics of one predicted mesh.

    Args:
        mesh: with `vertices` (V, 3) and `faces` (F, 3), e.g. trimesh.Trimesh; without faces it
            counts as empty, None as missing.
        truth: points and normals of the true surface, as many as the protocol says.
        protocol: `onet`, `conv_onet` or `vecset`.
        seed: of the points drawn from the mesh, see `sample_surface`.
        inside: (N,) bool, which of the protocol's uniform points lie in the mesh; not needed where
            the mesh is empty or missing.
        occupancies: (N,) bool, which lie in the true shape; None leaves the IoU out.
        device: to search neighbors on.

    Returns:
        The protocol's metrics, `iou` if asked for, and `empty`, 1.0 for an empty or missing mesh.

    Raises:
        ValueError: not a protocol for surfaces, or inside without occupancies or the reverse.
    """
    metrics = _surface_protocol(protocol)
    if mesh is None:
        prediction = Surface(np.empty((0, 3)), np.empty((0, 3)))
    else:
        count = PROTOCOLS[protocol].num_samples
        prediction = sample_surface(mesh.vertices, mesh.faces, count, seed)
    empty = len(prediction) == 0
    result = metrics(compare_surfaces(prediction, truth, device))
    if occupancies is not None:
        if inside is None and not empty:
            raise ValueError("the IoU of a mesh needs `inside` beside `occupancies`")
        if inside is None or empty:
            inside = np.zeros(len(occupancies), bool)
        result["iou"] = occupancy_iou(inside, occupancies)
    elif inside is not None:
        raise ValueError("the IoU of a mesh needs `occupancies` beside `inside`")
    return result | {"empty": float(empty)}


def _surface_protocol(name: str) -> Callable[[Comparison], dict[str, float]]:
    metrics = PROTOCOLS[name].surface_metrics if name in PROTOCOLS else None
    if metrics is None:
        known = [key for key, entry in PROTOCOLS.items() if entry.surface_metrics]
        raise ValueError(f"protocol must be one of {', '.join(known)}, got {name!r}")
    return metrics


def occupancy_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """IoU of two sets of points or voxels, bool of any one shape; 1 if both are empty."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.dtype != bool or truth.dtype != bool or predicted.shape != truth.shape:
        raise ValueError(
            f"expected two bool arrays of one shape, got {predicted.dtype} {predicted.shape} "
            f"and {truth.dtype} {truth.shape}"
        )
    rows = [
        torch.from_numpy(np.ascontiguousarray(side).reshape(1, -1)) for side in (predicted, truth)
    ]
    return float(voxel_iou(rows[0].float(), rows[1]))


def best_threshold(iou: np.ndarray, thresholds: Sequence[float]) -> tuple[float, float]:
    """The threshold of the highest micro mean and that mean, from (S, T) IoU of shapes.

    `pix2vox` publishes it of the test set. Choose it on validation shapes to predict, and give
    test figures at that.
    """
    means = np.asarray(iou, np.float64).mean(axis=0)
    if means.shape != (len(thresholds),):
        raise ValueError(f"iou must be (S, {len(thresholds)}), got {np.shape(iou)}")
    best = int(means.argmax())
    return float(thresholds[best]), float(means[best])


def what3d_f_score(
    predicted: np.ndarray,
    truth: np.ndarray,
    *,
    seed: int | Sequence[int],
    device: str | torch.device = "cpu",
) -> float:
    """F-score at 1 % of two bool grids (R, R, R), as `what3d`; 0 if either is empty.

    Points are drawn independently on the two surfaces, so that grids which differ little score
    what the density of the points allows. Equal grids score 1: what is right is not a draw.
    """
    if np.shape(predicted) != np.shape(truth):
        raise ValueError(
            f"grids must be of one size, got {np.shape(predicted)} and {np.shape(truth)}"
        )
    # One shared seed would draw identical points wherever both surfaces start alike.
    seeds = np.random.SeedSequence(seed).spawn(2)
    prediction, target = (
        _grid_surface(grid, own) for grid, own in zip((predicted, truth), seeds, strict=True)
    )
    if min(len(prediction), len(target)) == 0:
        return 0.0
    if np.array_equal(predicted, truth):
        return 1.0
    return compare_surfaces(prediction, target, device).f_score(0.01)


def _grid_surface(grid: np.ndarray, seed: np.random.SeedSequence) -> Surface:
    grid = np.asarray(grid)
    if grid.ndim != 3 or grid.dtype != bool:
        raise ValueError(f"expected a bool grid (R, R, R), got {grid.dtype} {grid.shape}")
    vertices, faces = march_padded(grid, 0.5)
    return sample_surface(vertices / (len(grid) + 1), faces, WHAT3D_SAMPLES, seed)
