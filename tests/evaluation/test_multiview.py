"""Scores by number of views, for a model that knows more of a shape with more views."""

import json

import numpy as np
import pytest
import torch

from occvae.data.dataset import ShapeDataset
from occvae.errors import UserError
from occvae.evaluation.views import evaluate_views, format_views_table
from occvae.metrics import PIX2VOX_THRESHOLDS
from occvae.metrics.published import VIEW_COUNTS
from occvae.models.protocol import Model


class Growing(Model):
    """Predicts the true voxels in a part of the x axis that grows with the number of views."""

    def __init__(self, dataset: ShapeDataset):
        super().__init__(image_size=8, threshold=0.5)
        self.grids = {}
        for index in range(len(dataset)):
            shard, local = dataset.locate(index)
            image = dataset[index]["images"][0].numpy().tobytes()
            self.grids[image] = torch.from_numpy(shard.voxels(local)).float()

    predict_points = reconstruct = None  # never called

    def predict_voxels(self, images, resolution=32):
        image = (images[0, 0] * 255.0).round().to(torch.uint8).numpy().tobytes()
        grid = self.grids[image].clone()
        grid[resolution * images.shape[1] // 4 :] = 0.0
        return grid[None]


@pytest.fixture(scope="module")
def report(tiny_dataset) -> dict:
    dataset = ShapeDataset(tiny_dataset, "val", image_size=8)
    return evaluate_views(Growing(dataset), tiny_dataset, (1, 2, 4))


def test_scores_are_those_of_the_views_seen(report, tiny_dataset):
    dataset = ShapeDataset(tiny_dataset, "val", image_size=8)
    places = [dataset.locate(index) for index in range(len(dataset))]
    voxels = np.stack([shard.voxels(local) for shard, local in places])
    total = voxels.sum(axis=(1, 2, 3))
    for count in (1, 2, 4):
        known = voxels[:, : 16 * count // 4].sum(axis=(1, 2, 3)) / total
        found = report["by_views"][str(count)]
        mean = found["iou_voxels"]["micro"]["mean"]
        assert mean == pytest.approx(known.mean())
        for threshold in PIX2VOX_THRESHOLDS:
            assert found[f"iou_voxels_{threshold}"]["micro"]["mean"] == mean
        for name, entry in found["iou_voxels"]["per_category"].items():
            mine = np.array(dataset.categories) == name
            assert entry["mean"] == pytest.approx(known[mine].mean())
    assert report["by_views"]["4"]["iou_voxels"]["micro"]["mean"] == 1.0
    assert report["by_views"]["4"]["voxel_f_score_1_percent"]["micro"]["mean"] == 1.0
    assert 0.0 <= report["by_views"]["1"]["voxel_f_score_1_percent"]["micro"]["mean"] < 0.9
    assert json.loads(json.dumps(report)) == report


def test_the_table_shows_published_figures_of_the_same_numbers_of_views(report):
    lines = format_views_table(report, published=True).splitlines()
    assert lines[2].split() == ["views", "1", "2", "4"]
    [mine] = [line for line in lines if line.startswith("IoU, mean of shapes")]
    assert mine.split()[-1] == "1.000"
    assert {"F@1%, even", "F@1%, odd"} <= {line[:11].rstrip() for line in lines}
    [published] = [line for line in lines if line.startswith("Pix2Vox++/A IoU")]
    assert published.split()[-3:] == ["0.670", "0.695", "0.708"]
    assert len(VIEW_COUNTS) == 9
    elsewhere = format_views_table(report, published=False)
    assert "published" not in elsewhere and "Pix2Vox" not in elsewhere
    assert elsewhere.splitlines()[2].split() == ["views", "1", "2", "4"]


def test_nan_predictions_are_refused(tiny_dataset):
    model = Growing(ShapeDataset(tiny_dataset, "val", image_size=8))
    for grid in model.grids.values():
        grid.fill_(torch.nan)
    with pytest.raises(UserError, match="^the model predicts NaN at"):
        evaluate_views(model, tiny_dataset, (1,))


def test_more_views_than_stored_are_refused(tiny_dataset):
    dataset = ShapeDataset(tiny_dataset, "val", image_size=8)
    with pytest.raises(UserError, match="num_views must be between 1 and 4, .*; got 5"):
        evaluate_views(Growing(dataset), tiny_dataset, (1, 5))
    with pytest.raises(UserError, match="num_views must be between 1 and 4, .*; got 0"):
        evaluate_views(Growing(dataset), tiny_dataset, (0, 2))
