"""The report recomputed with numpy, for predictors whose answers are known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occvae.data.dataset import ShapeDataset
from occvae.errors import UserError
from occvae.evaluation import THRESHOLDS, evaluate, format_table, summarise
from tests.fakes import LookUp
from tests.tiny import RESOLUTION, SETTINGS

POINTS = SETTINGS.num_points


class Truth:
    """What is stored of one split."""

    def __init__(self, root: Path, split: str = "val"):
        self.dataset = ShapeDataset(root, split, image_size=40, num_points=POINTS)
        samples = [self.dataset[i] for i in range(len(self.dataset))]
        self.occupancies = torch.stack([sample["occupancies"] for sample in samples]).numpy() > 0.5
        places = [self.dataset.locate(i) for i in range(len(self.dataset))]
        self.voxels = np.stack([shard.voxels(local) for shard, local in places])
        self.categories = np.array(self.dataset.categories)

    def predictor(self, occupancies: np.ndarray, voxels: np.ndarray) -> LookUp:
        """Answers with these probabilities."""
        logits = torch.logit(torch.from_numpy(occupancies).float().clamp(1e-4, 1 - 1e-4))
        return LookUp(self.dataset, logits, torch.from_numpy(voxels).float())


@pytest.fixture(scope="module")
def truth(tiny_dataset) -> Truth:
    return Truth(tiny_dataset)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


@pytest.fixture(scope="module")
def noisy(truth, tiny_dataset) -> tuple[np.ndarray, np.ndarray, dict]:
    """Predicted probabilities that are often wrong, and the report on them."""
    rng = np.random.default_rng(0)
    occupancies, voxels = (
        (0.5 * true + 0.6 * rng.random(true.shape)).clip(0, 1)
        for true in (truth.occupancies, truth.voxels)
    )
    return occupancies, voxels, evaluate(truth.predictor(occupancies, voxels), tiny_dataset)


def test_settings_are_reported(noisy, truth, tiny_dataset):
    report = noisy[2]
    assert (report["data"], report["split"]) == (str(tiny_dataset), "val")
    assert (report["num_shapes"], report["num_points"]) == (len(truth.dataset), POINTS)
    assert (report["voxel_resolution"], report["threshold"]) == (RESOLUTION, 0.5)
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(("key", "which"), [("iou_points", 0), ("iou_voxels", 1)])
def test_iou_is_recomputed(noisy, truth, key, which):
    predicted, report = noisy[which], noisy[2]
    true = (truth.occupancies, truth.voxels)[which]
    for threshold in THRESHOLDS:
        expected = np.mean([iou(p >= threshold, t) for p, t in zip(predicted, true, strict=True)])
        found = report["micro_by_threshold"][str(threshold)][key]
        assert found == pytest.approx(expected, abs=1e-4)
    values = np.array([iou(p >= 0.5, t) for p, t in zip(predicted, true, strict=True)])
    for name in ("even", "odd"):
        expected = values[truth.categories == name].mean()
        assert report[key]["per_category"][name] == pytest.approx(expected, abs=1e-4)
    assert report[key]["micro"] == pytest.approx(values.mean(), abs=1e-4)


def test_macro_weighs_categories_and_micro_shapes():
    found = summarise(np.array([1.0, 1.0, 1.0, 0.0]), np.array(["a", "a", "a", "b"]))
    assert found == {"per_category": {"a": 1.0, "b": 0.0}, "macro": 0.5, "micro": 0.75}


def test_a_perfect_oracle_is_bad_with_the_pictures_of_others(truth, tiny_dataset):
    oracle = truth.predictor(truth.occupancies, truth.voxels)
    report = evaluate(oracle, tiny_dataset, num_points=512)
    assert report["num_points"] == 512
    assert report["iou_points"]["macro"] == report["iou_voxels"]["micro"] == 1.0
    shuffled = report["controls_iou_voxels"]["shuffled_images"]["micro"]
    # No shape is ever compared with itself.
    pairs = [[iou(a, b) for b in truth.voxels] for a in truth.voxels]
    others = np.array(pairs)[~np.eye(len(pairs), dtype=bool)]
    assert others.min() <= shuffled <= others.max()
    assert shuffled < 0.8


def test_a_constant_answer_equals_its_shuffled_control(truth, tiny_dataset):
    rng = np.random.default_rng(1)
    voxels = np.repeat(rng.random((1, *(RESOLUTION,) * 3)), len(truth.dataset), axis=0)
    report = evaluate(truth.predictor(truth.occupancies, voxels), tiny_dataset)
    shuffled = report["controls_iou_voxels"]["shuffled_images"]
    assert shuffled["micro"] == pytest.approx(report["iou_voxels"]["micro"])
    assert shuffled["per_category"] == pytest.approx(report["iou_voxels"]["per_category"])


@pytest.mark.parametrize(
    ("key", "by_category"), [("mean_shape", False), ("category_mean_shape", True)]
)
def test_mean_shapes_are_recomputed(noisy, truth, tiny_dataset, key, by_category):
    training = Truth(tiny_dataset, "train")
    found = noisy[2]["controls_iou_voxels"][key]
    best = -1.0
    for threshold in np.arange(1, 20) * 0.05:
        values = []
        for shape, name in zip(truth.voxels, truth.categories, strict=True):
            chosen = training.categories == name if by_category else slice(None)
            values.append(iou(training.voxels[chosen].mean(axis=0) >= threshold - 1e-6, shape))
        best = max(best, float(np.mean(values)))
        if abs(threshold - found["threshold"]) < 1e-6:
            assert found["micro"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["micro"] == pytest.approx(best, abs=1e-6)


def test_categories_without_training_shapes_fall_back_on_the_mean_of_all(tmp_path):
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
    report = evaluate(known.predictor(known.occupancies, known.voxels), tmp_path / "data")
    controls = report["controls_iou_voxels"]
    assert controls["category_mean_shape"] == controls["mean_shape"]  # one category was trained on


def test_table_names_every_number(noisy, truth):
    report = noisy[2]
    lines = format_table(report).splitlines()
    assert f"{len(truth.dataset)} shapes of {report['data']} (val), {POINTS} points" in lines[0]
    [row] = [line for line in lines if line.startswith("mean of shapes (micro)")]
    numbers = [float(word) for word in row.split()[4:]]
    controls = report["controls_iou_voxels"]
    expected = [report["iou_points"], report["iou_voxels"], controls["shuffled_images"]]
    expected += [controls["mean_shape"], controls["category_mean_shape"]]
    assert numbers == pytest.approx([column["micro"] for column in expected], abs=1e-4)
    assert len({len(line) for line in lines[3:]}) == 1


def test_unknown_split(truth, tiny_dataset):
    model = truth.predictor(truth.occupancies, truth.voxels)
    with pytest.raises(UserError, match="has no shapes in split 'test'"):
        evaluate(model, tiny_dataset, split="test")
