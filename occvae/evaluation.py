"""How good a model is on a dataset, always beside controls that see no picture, or a wrong one.

IoU is measured on the stored uniform points (protocol of Occupancy Networks, 100,000 a shape) and
on the voxel grid at the cell centres. `macro` is the mean over categories of the mean over shapes,
`micro` the mean over shapes.
"""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from occvae.data.dataset import ShapeDataset, stored_points
from occvae.ops.voxel_iou import voxel_iou

THRESHOLDS = (0.2, 0.3, 0.4, 0.5)
_MEAN_SHAPE_THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))
_NUM_SHUFFLES = 5


def evaluate(
    model,
    root: str | Path,
    *,
    split: str = "val",
    num_points: int = 100_000,
    device: str | torch.device = "cpu",
) -> dict:
    """Scores a model on one split, from the first view of each shape.

    Args:
        model: from `create_model` or `from_pretrained`.
        root: folder of the dataset; its training split gives the mean shapes of the controls.
        split: to evaluate.
        num_points: of each shape, at most those stored.
        device: to compute on.

    Returns:
        JSON values: the settings, `iou_points` and `iou_voxels` at the model's threshold and their
        micro means at others, and the controls.
    """
    dataset = ShapeDataset(
        root, split, image_size=model.image_size, num_points=stored_points(root, split, num_points)
    )
    training = ShapeDataset(root, "train", image_size=model.image_size, num_points=8)
    device = torch.device(device)
    model = model.to(device).eval()
    thresholds = (model.threshold, *THRESHOLDS)
    points_iou, voxels_iou, predicted = _score(model, dataset, thresholds, device)
    truth = _voxels(dataset)
    categories = np.array(dataset.categories)
    resolution = dataset.voxel_resolution
    return {
        "data": str(root),
        "split": split,
        "num_shapes": len(dataset),
        "num_points": dataset.num_points,
        "voxel_resolution": resolution,
        "threshold": model.threshold,
        "iou_points": summarise(points_iou[:, 0], categories),
        "iou_voxels": summarise(voxels_iou[:, 0], categories),
        "micro_by_threshold": {
            str(threshold): {
                "iou_points": points_iou[:, column].mean(),
                "iou_voxels": voxels_iou[:, column].mean(),
            }
            for column, threshold in enumerate(thresholds)
            if column
        },
        "controls_iou_voxels": {
            "shuffled_images": summarise(_shuffled_iou(predicted, truth), categories),
            "mean_shape": _mean_shape_iou(training, truth, categories, by_category=False),
            "category_mean_shape": _mean_shape_iou(training, truth, categories, by_category=True),
        },
    }


def summarise(values: np.ndarray, categories: np.ndarray) -> dict:
    """Mean of (S,) values by category, macro and micro."""
    per_category = {
        str(name): float(values[categories == name].mean()) for name in np.unique(categories)
    }
    return {
        "per_category": per_category,
        "macro": float(np.mean(list(per_category.values()))),
        "micro": float(values.mean()),
    }


def format_table(report: dict) -> str:
    """The report as a plain text table."""
    controls = report["controls_iou_voxels"]
    columns = {
        "IoU points": report["iou_points"],
        "IoU voxels": report["iou_voxels"],
        "shuffled": controls["shuffled_images"],
        "mean shape": controls["mean_shape"],
        "category mean": controls["category_mean_shape"],
    }
    names = list(report["iou_points"]["per_category"])
    width = max(len(name) for name in [*names, "mean of categories (macro)"])
    lines = [
        f"{report['num_shapes']} shapes of {report['data']} ({report['split']}), "
        f"{report['num_points']} points, voxels {report['voxel_resolution']}^3, "
        f"occupied from probability {report['threshold']}",
        "the last three columns are controls on the voxels: the wrong picture, or none",
        "",
        " " * width + "".join(f"{name:>15}" for name in columns),
    ]
    for name in names:
        row = (column["per_category"][name] for column in columns.values())
        lines.append(f"{name:<{width}}" + "".join(f"{value:15.4f}" for value in row))
    for key, title in (
        ("macro", "mean of categories (macro)"),
        ("micro", "mean of shapes (micro)"),
    ):
        row = (column[key] for column in columns.values())
        lines.append(f"{title:<{width}}" + "".join(f"{value:15.4f}" for value in row))
    return "\n".join(lines)


@torch.no_grad()
def _score(
    model, dataset: ShapeDataset, thresholds: tuple[float, ...], device: torch.device
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """IoU (S, T) on points, on voxels, and the occupied voxels (S, R, R, R) bool."""
    resolution = dataset.voxel_resolution
    points_iou, voxels_iou, predicted = [], [], []
    for index in tqdm(range(len(dataset)), desc="evaluate", unit="shape", mininterval=1.0):
        sample = dataset[index]
        images = sample["images"][None].to(device).float() / 255.0
        logits = model.predict_points(images, sample["points"][None].to(device))
        grid = model.predict_voxels(images, resolution)
        truth = torch.from_numpy(_voxel_grid(dataset, index))[None].to(device)
        occupancies = sample["occupancies"][None].to(device)
        points_iou.append(voxel_iou(logits.sigmoid(), occupancies, thresholds).cpu())
        voxels_iou.append(voxel_iou(grid, truth, thresholds).cpu())
        predicted.append((grid >= model.threshold).cpu())
    return torch.cat(points_iou).numpy(), torch.cat(voxels_iou).numpy(), torch.cat(predicted)


def _voxel_grid(dataset: ShapeDataset, index: int) -> np.ndarray:
    shard, local = dataset.locate(index)
    return shard.voxels(local)


def _voxels(dataset: ShapeDataset) -> torch.Tensor:
    """(S, R, R, R) bool."""
    return torch.from_numpy(np.stack([_voxel_grid(dataset, i) for i in range(len(dataset))]))


def _shuffled_iou(predicted: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """(S,) IoU with the pictures of other shapes: what remains when the picture says nothing."""
    count = len(truth)
    order = np.random.default_rng(0).permutation(count)
    shifts = range(1, min(_NUM_SHUFFLES, max(1, count - 1)) + 1)
    total = np.zeros(count)
    for shift in shifts:
        other = np.empty(count, np.int64)
        other[order] = np.roll(order, shift)
        total += voxel_iou(predicted[other].float(), truth).numpy()[:, 0]
    return total / len(shifts)


def _mean_shape_iou(
    training: ShapeDataset, truth: torch.Tensor, categories: np.ndarray, by_category: bool
) -> dict:
    """The mean training shape as prediction, at the threshold that suits the control best."""
    mean = _mean_shapes(training)
    # A category without training shapes has no mean of its own.
    names = [name if by_category and name in mean else "" for name in categories]
    prediction = torch.stack([mean[name] for name in names])
    iou = voxel_iou(prediction, truth, _MEAN_SHAPE_THRESHOLDS).numpy()
    best = int(iou.mean(axis=0).argmax())
    return {"threshold": _MEAN_SHAPE_THRESHOLDS[best], **summarise(iou[:, best], categories)}


def _mean_shapes(training: ShapeDataset) -> dict[str, torch.Tensor]:
    """Mean occupancy (R, R, R) of each training category, and of all under the name ""."""
    voxels = _voxels(training).float()
    labels = np.array(training.categories)
    means = {str(name): voxels[torch.from_numpy(labels == name)].mean(0) for name in set(labels)}
    return {**means, "": voxels.mean(0)}
