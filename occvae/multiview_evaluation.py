"""How much further views help: IoU and F-score by number of views, beside published tables.

Protocol of Pix2Vox and its successors: voxel IoU of each shape at thresholds 0.2, 0.3, 0.4 and 0.5;
F-score at 1 % as in "What do single-view 3D reconstruction networks learn?" (Tatarchenko et al.
2019) and as their code has it: binary grids padded by one voxel, marching cubes, 8,192 points on
each surface, a match within 0.01 of the padded grid's edge. Unlike there the threshold of the
F-score and of the categories is the model's own, never the one that suits the evaluated split best.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from occvae.data.dataset import ShapeDataset
from occvae.evaluation import THRESHOLDS, summarise
from occvae.metrics.published import VIEW_COUNTS, published_by_views
from occvae.ops.voxel_iou import voxel_iou

_SURFACE_POINTS = 8192
_MATCH = 0.01
# Published rows to print: ShapeNet, 13 categories, 32^3, thresholds chosen on the test set.
_PUBLISHED_METHODS = ("Pix2Vox++/A", "LRGT+")
_PUBLISHED_METRICS = {"IoU": "iou", "F@1%": "f_score_1_percent"}


def evaluate_views(
    model,
    root: str | Path,
    view_counts: Sequence[int] = VIEW_COUNTS,
    *,
    split: str = "val",
    device: str | torch.device = "cpu",
) -> dict:
    """Scores a model from the first 1, 2, ... views of each shape of a split.

    Args:
        model: from `create_model` or `from_pretrained`.
        root: folder of the dataset.
        view_counts: numbers of views, at most those stored.
        split: to evaluate.
        device: to compute on.

    Returns:
        JSON values: for each number of views `iou`, `f_score` by category, macro and micro, and
        `micro_by_threshold`.
    """
    dataset = ShapeDataset(
        root, split, image_size=model.image_size, num_points=8, num_views=max(view_counts)
    )
    device = torch.device(device)
    model = model.to(device).eval()
    scores = [
        _score(model, dataset, index, view_counts, device)
        for index in tqdm(range(len(dataset)), desc="views", unit="shape", mininterval=1.0)
    ]
    iou = np.stack([score[0] for score in scores])
    f_score = np.stack([score[1] for score in scores])
    categories = np.array(dataset.categories)
    return {
        "data": str(root),
        "split": split,
        "num_shapes": len(dataset),
        "threshold": model.threshold,
        "by_views": {
            str(count): {
                "iou": summarise(iou[:, row, 0], categories),
                "f_score": summarise(f_score[:, row], categories),
                "micro_by_threshold": {
                    str(threshold): float(iou[:, row, column + 1].mean())
                    for column, threshold in enumerate(THRESHOLDS)
                },
            }
            for row, count in enumerate(view_counts)
        },
    }


def _score(
    model, dataset: ShapeDataset, index: int, view_counts: Sequence[int], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """IoU (len(view_counts), 1 + thresholds) and F-score (len(view_counts),) of one shape."""
    images = dataset[index]["images"][None].to(device).float() / 255.0
    shard, local = dataset.locate(index)
    truth = shard.voxels(local)
    target = torch.from_numpy(truth)[None].to(device)
    surface = surface_points(truth)
    iou, f_scores = [], []
    for count in view_counts:
        grid = model.predict_voxels(images[:, :count], len(truth))
        iou.append(voxel_iou(grid, target, (model.threshold, *THRESHOLDS))[0].cpu().numpy())
        guess = surface_points((grid[0] >= model.threshold).cpu().numpy())
        f_scores.append(f_score(guess, surface))
    return np.stack(iou), np.array(f_scores)


def surface_points(occupied: np.ndarray) -> np.ndarray:
    """(8192, 3) points on the surface of a grid (R, R, R) bool, padded and scaled to [0, 1].

    No points, (0, 3), where nothing is occupied. The same grid always gives the same points.
    """
    import mcubes
    import trimesh

    if not occupied.any():
        return np.zeros((0, 3))
    vertices, faces = mcubes.marching_cubes(np.pad(occupied, 1).astype(np.float32), 0.5)
    mesh = trimesh.Trimesh(vertices / (len(occupied) + 1), faces, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, _SURFACE_POINTS, seed=0)
    return np.asarray(points)


def f_score(points: np.ndarray, truth: np.ndarray) -> float:
    """Harmonic mean of the shares of two point sets (N, 3) with a match in the other."""
    from scipy.spatial import cKDTree

    if len(points) == 0 or len(truth) == 0:
        return 0.0
    precision = (cKDTree(truth).query(points)[0] < _MATCH).mean()
    recall = (cKDTree(points).query(truth)[0] < _MATCH).mean()
    return float(2.0 * precision * recall / max(precision + recall, 1e-12))


def format_views_table(report: dict) -> str:
    """The report as a plain text table, beside published ones."""
    counts = list(report["by_views"])
    rows = list(report["by_views"].values())
    lines = {
        "IoU, mean of shapes": [row["iou"]["micro"] for row in rows],
        "IoU, mean of categories": [row["iou"]["macro"] for row in rows],
        **{
            f"IoU from probability {threshold}": [
                row["micro_by_threshold"][str(threshold)] for row in rows
            ]
            for threshold in THRESHOLDS
        },
        "F@1%, mean of shapes": [row["f_score"]["micro"] for row in rows],
        "F@1%, mean of categories": [row["f_score"]["macro"] for row in rows],
        **{
            f"IoU, {name}": [row["iou"]["per_category"][name] for row in rows]
            for name in rows[0]["iou"]["per_category"]
        },
    }
    published = {
        f"{method} {title}": list(map(published_by_views(method, metric).get, map(int, counts)))
        for method in _PUBLISHED_METHODS
        for title, metric in _PUBLISHED_METRICS.items()
    }
    width = max(len(name) for name in [*lines, *published]) + 2
    text = [
        f"{report['num_shapes']} shapes of {report['data']} ({report['split']}), the first views, "
        f"occupied from probability {report['threshold']} unless said",
        f"{'views':<{width}}" + "".join(f"{count:>8}" for count in counts),
        *(_table_row(name, values, width) for name, values in lines.items()),
        "published on ShapeNet's 13 categories at 32^3, threshold chosen on the test set:",
        *(_table_row(name, values, width) for name, values in published.items()),
    ]
    return "\n".join(text)


def _table_row(name: str, values: list[float | None], width: int) -> str:
    cells = ("       -" if value is None else f"{value:8.3f}" for value in values)
    return f"{name:<{width}}" + "".join(cells)
