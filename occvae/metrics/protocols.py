"""Protocols: the exact definitions behind published metrics, and functions that measure them.

Distances are in units of the object's longest bounding-box edge ("edge"), unless a metric's name
ends in another unit:

- `_tenth_edge`: tenths of an edge, as in the tables of the papers.
- `_edge2`: edges squared.
- `_half_edge`: halves of an edge, used where the object fills a cube of edge 2.

Scores and IoU have no unit.

An empty or missing prediction is never left out of a mean. All its points count as sqrt(3) edges
away, its normals as cosine -1, and its IoU and F-scores as 0.
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
"""The thresholds of protocol `pix2vox`."""
WHAT3D_SAMPLES = 8192
"""The number of points per surface in protocol `what3d`."""


@dataclass(frozen=True)
class Protocol:
    """The measuring rules of a family of papers.

    Args:
        average: published mean: `macro`, the mean over categories of their means, or `micro`, the
            mean over shapes.
        definition: definition of the metrics, a text for reports.
        original: how the published code differs from this package.
        num_samples: number of points drawn from a predicted mesh or from each grid.
        surface_metrics: function from a `Comparison` to metrics by name; None if the protocol does
            not compare surfaces of meshes.
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
    # `chamfer_l1` is half the sum, in edges. One factor of 2 gives the sum, the other one converts
    # to half edges.
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
        original="a mismatch of keys leaves an empty mesh without Chamfer distance and out of that "
        "mean; a missing mesh is left out of all means; an empty union has IoU NaN; each "
        "evaluation adds new noise of 1e-4 to the stored points",
        num_samples=100_000,
        surface_metrics=_onet_metrics,
    ),
    "conv_onet": Protocol(
        average="macro",
        definition="Convolutional Occupancy Networks (Peng et al. 2020): `onet`, and F-scores at "
        "1, 1.5 and 2 % of the edge of the unit cube",
        original="as `onet`; the F-score is NaN if no point is near enough and absent for an empty "
        "mesh, and both are left out of the mean",
        num_samples=100_000,
        surface_metrics=_conv_onet_metrics,
    ),
    "vecset": Protocol(
        average="macro",
        definition="3DShape2VecSet (Zhang et al. 2023): objects in a cube of edge 2, 100,000 "
        "points, the sum of the two mean Euclidean distances, F-score at 0.02",
        original="the names of precision and recall are exchanged, which does not change the "
        "F-score",
        num_samples=100_000,
        surface_metrics=_vecset_metrics,
    ),
    "pix2vox": Protocol(
        average="micro",
        definition="Pix2Vox (Xie et al. 2019): voxel IoU at 32^3 for probabilities from 0.2, 0.3, "
        "0.4 and 0.5; papers report the best of the four means over the test set",
        original="an empty union has IoU NaN; the threshold is chosen on the test set itself",
        num_samples=0,
    ),
    "what3d": Protocol(
        average="micro",
        definition="What Do Single-View 3D Reconstruction Networks Learn (Tatarchenko et al. 2019) "
        "as used by multi-view papers: F-score at 1 % of 8,192 points from marching cubes of each "
        "binary grid, padded by a cell and scaled by 1 / (R + 1)",
        original="points are drawn without a seed, for equal grids too, which then score below 1",
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
    """Measures one predicted mesh by a protocol.

    Args:
        mesh: mesh with `vertices` (V, 3) and `faces` (F, 3), e.g. trimesh.Trimesh. None if the
            prediction is missing.
        truth: points on the true surface with normals, as many as the protocol says.
        protocol: `onet`, `conv_onet` or `vecset`.
        seed: seed of the points drawn from the mesh, see `sample_surface`.
        inside: (N,) bool, which of the protocol's uniform points are inside the mesh. Not needed if
            the mesh is empty or missing.
        occupancies: (N,) bool, which of these points are inside the true shape; None for no IoU.
        device: device for the search of nearest neighbors.

    Returns:
        The protocol's metrics by name, `iou` if `occupancies` is given, and `empty`, which is 1.0
        for a mesh that is empty or missing and otherwise 0.0.

    Raises:
        ValueError: the protocol does not compare surfaces, or only one of `inside` and
            `occupancies` is given.
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
    """Returns the IoU of two sets of points or voxels, or 1 if both are empty.

    Args:
        predicted: bool array of any shape.
        truth: bool array of the same shape.

    Raises:
        ValueError: the arrays are not bool or differ in shape.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.dtype != bool or truth.dtype != bool or predicted.shape != truth.shape:
        raise ValueError(
            f"expected two bool arrays of the same shape, got {predicted.dtype} {predicted.shape} "
            f"and {truth.dtype} {truth.shape}"
        )
    rows = [
        torch.from_numpy(np.ascontiguousarray(side).reshape(1, -1)) for side in (predicted, truth)
    ]
    return float(voxel_iou(rows[0].float(), rows[1]))


def best_threshold(iou: np.ndarray, thresholds: Sequence[float]) -> tuple[float, float]:
    """Returns the threshold with the highest micro mean IoU, and that mean.

    Papers with protocol `pix2vox` choose it on the test set. Choose it on validation shapes
    instead, and report test scores at that threshold.

    Args:
        iou: (S, T) IoU of each shape at each threshold.
        thresholds: T thresholds.

    Raises:
        ValueError: the shape of `iou` does not match the thresholds.
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
    """Returns the F-score at 1 % of two grids by protocol `what3d`, or 0 if either is empty.

    Points are drawn independently on the two surfaces. Nearly equal grids therefore score below 1,
    limited by the density of the points. Equal grids score exactly 1.

    Args:
        predicted: (R, R, R) bool.
        truth: (R, R, R) bool.
        seed: seed of the points.
        device: device for the search of nearest neighbors.

    Raises:
        ValueError: the grids are not bool or differ in size.
    """
    if np.shape(predicted) != np.shape(truth):
        raise ValueError(
            f"grids must have the same size, got {np.shape(predicted)} and {np.shape(truth)}"
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
