"""Reports of predictors with known answers, recomputed with NumPy."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occvae.data.dataset import ShapeDataset
from occvae.data.targets import PointTarget
from occvae.errors import UserError
from occvae.evaluation import VERSION, evaluate, format_table
from occvae.evaluation.threshold import CANDIDATES, choose_threshold
from occvae.metrics import PIX2VOX_THRESHOLDS
from tests.fakes import LookUp, VoxelLookUp
from tests.tiny import RESOLUTION, SETTINGS

POINTS = SETTINGS.num_points
# Predictors that look up their answers cannot make meshes.
score = functools.partial(evaluate, mesh_resolution=None)


class Truth:
    """The stored truth of one split."""

    def __init__(self, root: Path, split: str = "val"):
        self.dataset = ShapeDataset(root, split, image_size=40, target=PointTarget(POINTS))
        samples = [self.dataset[i] for i in range(len(self.dataset))]
        self.occupancies = torch.stack([sample["occupancies"] for sample in samples]).numpy() > 0.5
        places = [self.dataset.locate(i) for i in range(len(self.dataset))]
        self.voxels = np.stack([shard.voxels(local) for shard, local in places])
        self.categories = np.array(self.dataset.categories)

    def predictor(self, occupancies: np.ndarray, voxels: np.ndarray) -> LookUp:
        """Returns a model that predicts these probabilities."""
        return LookUp(*self._answers(occupancies, voxels))

    def voxel_predictor(self, occupancies: np.ndarray, voxels: np.ndarray) -> VoxelLookUp:
        """Returns a voxel model that predicts these probabilities."""
        return VoxelLookUp(*self._answers(occupancies, voxels), resolution=voxels.shape[-1])

    def _answers(self, occupancies: np.ndarray, voxels: np.ndarray) -> tuple:
        logits = torch.logit(torch.from_numpy(occupancies).float().clamp(1e-4, 1 - 1e-4))
        return self.dataset, logits, torch.from_numpy(voxels).float()


@pytest.fixture(scope="module")
def truth(tiny_dataset) -> Truth:
    return Truth(tiny_dataset)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


@pytest.fixture(scope="module")
def noisy(truth, tiny_dataset) -> tuple[np.ndarray, np.ndarray, dict]:
    """Returns noisy predicted probabilities, and the report on them."""
    rng = np.random.default_rng(0)
    occupancies, voxels = (
        (0.5 * true + 0.6 * rng.random(true.shape)).clip(0, 1)
        for true in (truth.occupancies, truth.voxels)
    )
    return occupancies, voxels, score(truth.predictor(occupancies, voxels), tiny_dataset)


def test_settings_are_reported(noisy, truth, tiny_dataset):
    report = noisy[2]
    assert report["version"] == VERSION
    expected = {"root": str(tiny_dataset), "split": "val", "splits": "own", "source": "voxels"}
    expected |= {"num_shapes": len(truth.dataset), "num_stored": len(truth.dataset)}
    expected |= {"voxel_resolution": RESOLUTION, "num_surface_points": SETTINGS.num_surface_points}
    assert report["data"] == expected
    assert report["options"]["num_points"] == POINTS
    assert report["options"]["threshold"] == 0.5
    assert report["options"]["mesh_resolution"] is None  # as asked for
    assert json.loads(json.dumps(report)) == report
    assert [row["id"] for row in report["shapes"]] == truth.dataset.ids
    assert [row["category"] for row in report["shapes"]] == truth.dataset.categories


@pytest.mark.parametrize(("key", "which"), [("iou_points", 0), ("iou_voxels", 1)])
def test_iou_is_recomputed(noisy, truth, key, which):
    predicted, report = noisy[which], noisy[2]
    true = (truth.occupancies, truth.voxels)[which]
    for threshold in PIX2VOX_THRESHOLDS:
        values = [iou(p >= threshold, t) for p, t in zip(predicted, true, strict=True)]
        found = [row["metrics"][f"{key}_{threshold}"] for row in report["shapes"]]
        assert found == pytest.approx(values, abs=2e-3)  # probabilities pass through logits
        summary = report["metrics"][f"{key}_{threshold}"]
        assert summary["micro"]["mean"] == pytest.approx(np.mean(values), abs=1e-4)
    values = np.array([iou(p >= 0.5, t) for p, t in zip(predicted, true, strict=True)])
    means = [values[truth.categories == name].mean() for name in ("even", "odd")]
    summary = report["metrics"][key]
    for name, mean in zip(("even", "odd"), means, strict=True):
        assert summary["per_category"][name]["mean"] == pytest.approx(mean, abs=1e-4)
    assert summary["macro"]["mean"] == pytest.approx(np.mean(means), abs=1e-4)
    assert summary["micro"]["mean"] == pytest.approx(values.mean(), abs=1e-4)


def test_examples_are_the_best_the_median_and_the_worst(noisy, truth):
    report = noisy[2]
    values = {row["id"]: row["metrics"]["iou_points"] for row in report["shapes"]}
    ranked = sorted(values, key=values.get, reverse=True)
    examples = report["examples"]
    assert sorted(examples["best"], key=ranked.index) == ranked[:4]
    assert sorted(examples["worst"], key=ranked.index) == ranked[-4:]
    assert {ranked.index(id) for id in examples["median"]} == {14, 15, 16, 17}  # of 32
    assert len({id for ids in examples.values() for id in ids}) == 12


def test_a_number_of_shapes_is_spread_over_the_split(noisy, truth, tiny_dataset):
    predictor = truth.predictor(*noisy[:2])
    report = score(predictor, tiny_dataset, num_shapes=5)
    assert [row["number"] for row in report["shapes"]] == [0, 8, 16, 23, 31]
    for row in report["shapes"]:
        assert row == noisy[2]["shapes"][row["number"]]
    assert "5 of 32 shapes" in format_table(report)
    with pytest.raises(UserError, match="the number of shapes must be positive, got 0"):
        score(predictor, tiny_dataset, num_shapes=0)


def test_the_threshold_is_chosen_on_validation_shapes(noisy, truth, tiny_dataset):
    chosen = choose_threshold(truth.predictor(*noisy[:2]), tiny_dataset, device="cpu")
    means = [
        np.mean([iou(p >= t, o) for p, o in zip(noisy[0], truth.occupancies, strict=True)])
        for t in CANDIDATES
    ]
    assert chosen == CANDIDATES[int(np.argmax(means))]
    report = score(
        truth.predictor(*noisy[:2]),
        tiny_dataset,
        threshold=chosen,
        threshold_origin="chosen on val",
    )
    assert f"occupied from probability {chosen} (chosen on val)" in format_table(report)
    found = report["metrics"]["iou_points"]["micro"]["mean"]
    assert found == pytest.approx(max(means), abs=1e-4)


def test_an_oracle_scores_1_and_less_with_shuffled_images(truth, tiny_dataset):
    oracle = truth.predictor(truth.occupancies, truth.voxels)
    report = score(oracle, tiny_dataset, num_points=512)
    assert report["options"]["num_points"] == 512
    assert report["metrics"]["iou_points"]["macro"]["mean"] == 1.0
    assert report["metrics"]["iou_voxels"]["micro"]["mean"] == 1.0
    assert report["metrics"]["voxel_f_score_1_percent"]["micro"]["mean"] == 1.0
    shuffled = report["controls"]["shuffled_images"]["micro"]["mean"]
    # No shape is compared with itself.
    pairs = [[iou(a, b) for b in truth.voxels] for a in truth.voxels]
    others = np.array(pairs)[~np.eye(len(pairs), dtype=bool)]
    assert others.min() <= shuffled <= others.max()
    assert shuffled < 0.8


def test_a_constant_answer_equals_its_shuffled_control(truth, tiny_dataset):
    rng = np.random.default_rng(1)
    voxels = np.repeat(rng.random((1, *(RESOLUTION,) * 3)), len(truth.dataset), axis=0)
    report = score(truth.predictor(truth.occupancies, voxels), tiny_dataset)
    shuffled, found = report["controls"]["shuffled_images"], report["metrics"]["iou_voxels"]
    assert shuffled["micro"]["mean"] == pytest.approx(found["micro"]["mean"])
    for name, entry in found["per_category"].items():
        assert shuffled["per_category"][name]["mean"] == pytest.approx(entry["mean"])


@pytest.mark.parametrize(
    ("key", "by_category"), [("mean_shape", False), ("category_mean_shape", True)]
)
def test_mean_shapes_are_recomputed(noisy, truth, tiny_dataset, key, by_category):
    training = Truth(tiny_dataset, "train")
    found = noisy[2]["controls"][key]
    best = -1.0
    for threshold in np.arange(1, 20) * 0.05:
        values = []
        for shape, name in zip(truth.voxels, truth.categories, strict=True):
            chosen = training.categories == name if by_category else slice(None)
            values.append(iou(training.voxels[chosen].mean(axis=0) >= threshold - 1e-6, shape))
        best = max(best, float(np.mean(values)))
        if abs(threshold - found["threshold"]) < 1e-6:
            assert found["micro"]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["micro"]["mean"] == pytest.approx(best, abs=1e-6)


def test_categories_without_training_shapes_use_the_mean_of_all(tmp_path):
    from occvae.data.build import build_dataset
    from occvae.data.formats.voxels import VoxelArchiveSource

    voxels = np.zeros((4, 8, 8, 8), bool)
    for edge, grid in enumerate(voxels, start=1):
        grid[edge:-edge] = True
    np.savez(
        tmp_path / "boxes.npz",
        voxels=voxels,
        category=["old", "old", "old", "new"],
        split=["train", "train", "val", "val"],
    )
    settings = replace(SETTINGS, voxel_resolutions=(8,), num_views=1)
    source = VoxelArchiveSource([tmp_path / "boxes.npz"], settings)
    build_dataset(source, tmp_path / "data", num_workers=1)
    known = Truth(tmp_path / "data")
    report = score(known.predictor(known.occupancies, known.voxels), tmp_path / "data")
    controls = report["controls"]
    assert (
        controls["category_mean_shape"] == controls["mean_shape"]
    )  # only one category has training shapes


def test_the_table_shows_all_means(noisy, truth):
    report = noisy[2]
    text = format_table(report)
    lines = text.splitlines()
    data = report["data"]
    assert f"{len(truth.dataset)} shapes of {data['root']} (val), {POINTS} points" in lines[0]
    rows = [line.split()[4:] for line in lines if line.startswith("mean of shapes (micro)")]
    metrics, controls = report["metrics"], report["controls"]
    expected = [
        [metrics[key] for key in ("iou_points", "iou_voxels", "voxel_f_score_1_percent")],
        [controls[key] for key in ("shuffled_images", "mean_shape", "category_mean_shape")],
    ]
    for row, summaries in zip(rows, expected, strict=True):
        means = [summary["micro"]["mean"] for summary in summaries]
        assert list(map(float, row)) == pytest.approx(means, abs=1e-4)
    low, high = metrics["iou_points"]["micro"]["interval"]
    assert f"{low:.3f}-{high:.3f}" in text
    assert "not comparable with published tables: the splits of the data (own)" in text


@pytest.mark.parametrize("which", [0, 1])
def test_nan_predictions_are_refused(noisy, truth, tiny_dataset, which):
    answers = [noisy[0].copy(), noisy[1].copy()]
    answers[which][3].flat[:7] = np.nan
    model = truth.predictor(*answers)
    size = answers[which][3].size
    message = f"^the model predicts NaN at 7 of {size} places: its training has diverged, or "
    with pytest.raises(UserError, match=message):
        score(model, tiny_dataset)
    make = (truth.predictor, truth.voxel_predictor)[which]
    with pytest.raises(UserError, match=message):
        choose_threshold(make(*answers), tiny_dataset, device="cpu")


def test_an_unknown_split_is_refused(truth, tiny_dataset):
    model = truth.predictor(truth.occupancies, truth.voxels)
    with pytest.raises(UserError, match="has no shapes in split 'test'"):
        score(model, tiny_dataset, split="test")


def test_an_invalid_threshold_is_refused(truth, tiny_dataset):
    model = truth.predictor(truth.occupancies, truth.voxels)
    with pytest.raises(UserError, match="threshold must be a probability"):
        score(model, tiny_dataset, threshold=30.0)
