"""Scores of meshes, for a model that always predicts the same octahedron."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from occvae.evaluation import evaluate, format_table
from occvae.evaluation.shapes import StoredShapes
from tests.evaluation.datasets import copy_shapes
from tests.fakes import CENTER, RADIUS, octahedron_model, tiny_voxel_model
from tests.tiny import RESOLUTION, SETTINGS

SHARPNESS = 20.0
# Probability 0.3 lies a little outside the radius of probability 0.5.
TRUE_RADIUS = RADIUS - np.log(0.3 / 0.7) / SHARPNESS


@pytest.fixture(scope="module")
def model():
    return octahedron_model(SHARPNESS)


@pytest.fixture(scope="module")
def report(model, tiny_dataset) -> dict:
    return evaluate(model, tiny_dataset, mesh_resolution=64, num_shapes=3)


@pytest.fixture(scope="module")
def shapes(model, tiny_dataset) -> StoredShapes:
    return StoredShapes(tiny_dataset, "val", model)


def octahedron(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns points on the surface and their outward normals, both (N, 3) float64."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (count, 3))
    points = TRUE_RADIUS * signs * rng.dirichlet([1.0, 1.0, 1.0], count) + CENTER
    return points, signs / np.sqrt(3.0)


def test_mesh_iou_is_that_of_the_stored_points(report, shapes):
    for row in report["shapes"]:
        points, occupied = shapes.points(row["number"])
        inside = np.abs(points.astype(np.float64) - CENTER).sum(1) <= TRUE_RADIUS
        expected = (inside & occupied).sum() / (inside | occupied).sum()
        # Edges of the octahedron are cut off by up to a cell.
        assert row["metrics"]["iou_mesh"] == pytest.approx(expected, abs=0.02)
        assert row["metrics"]["iou_points"] == pytest.approx(expected, abs=0.006)  # one point


def test_distances_are_those_of_the_stored_surface(report, shapes):
    points, normals = octahedron(100_000)
    tree = cKDTree(points)
    for row in report["shapes"]:
        truth, metrics = shapes.surface(row["number"]), row["metrics"]
        to_truth, nearest = cKDTree(truth.points).query(points)
        cosines = np.abs((normals * truth.normals[nearest]).sum(1)).mean()
        to_prediction, nearest = tree.query(truth.points)
        cosines += np.abs((truth.normals * normals[nearest]).sum(1)).mean()
        assert metrics["accuracy_edge"] == pytest.approx(to_truth.mean(), abs=2e-3)
        assert metrics["completeness_edge"] == pytest.approx(to_prediction.mean(), abs=2e-3)
        chamfer = 5.0 * (to_truth.mean() + to_prediction.mean())
        assert metrics["chamfer_l1_tenth_edge"] == pytest.approx(chamfer, abs=2e-2)
        squares = 0.5 * (np.square(to_truth).mean() + np.square(to_prediction).mean())
        assert metrics["chamfer_l2_edge2"] == pytest.approx(squares, rel=0.03)
        assert metrics["normal_consistency"] == pytest.approx(0.5 * cosines, abs=0.02)
        precision, recall = (to_truth <= 0.02).mean(), (to_prediction <= 0.02).mean()
        expected = 2.0 * precision * recall / (precision + recall)
        assert metrics["f_score_2_percent"] == pytest.approx(expected, abs=0.02)
        assert metrics["empty_mesh"] == 0.0


def test_the_table_notes_few_points_on_surfaces(report):
    note = f"the dataset has {SETTINGS.num_surface_points} points on each surface: fewer than the "
    assert note in format_table(report)
    dense = report | {"data": report["data"] | {"num_surface_points": 100_000}}
    assert "on each surface" not in format_table(dense)
    points_only = report | {"options": report["options"] | {"mesh_resolution": None}}
    assert "on each surface" not in format_table(points_only)


def test_two_runs_agree_to_the_last_digit(model, report, tiny_dataset):
    again = evaluate(model, tiny_dataset, mesh_resolution=64, num_shapes=3)
    assert again == report
    [middle] = evaluate(model, tiny_dataset, mesh_resolution=64, num_shapes=1)["shapes"]
    assert middle == report["shapes"][0]  # it does not depend on the other shapes
    other = evaluate(model, tiny_dataset, mesh_resolution=64, num_shapes=3, seed=1)
    for name in ("chamfer_l1_edge", "f_score_1_percent"):
        first, second = report["metrics"][name]["micro"], other["metrics"][name]["micro"]
        assert first["mean"] != second["mean"]
        assert first["mean"] == pytest.approx(second["mean"], rel=0.2)


def test_empty_meshes_count_and_are_noted(tiny_dataset):
    blind = octahedron_model()
    blind.decoder.linear_out.bias.data.fill_(-50.0)
    report = evaluate(blind, tiny_dataset, mesh_resolution=32, num_shapes=2)
    metrics = {name: entry["micro"]["mean"] for name, entry in report["metrics"].items()}
    assert report["num_empty_meshes"] == 2
    assert metrics["chamfer_l1_tenth_edge"] == pytest.approx(10 * 3**0.5)
    assert metrics["normal_consistency"] == -1.0
    assert metrics["iou_mesh"] == metrics["f_score_2_percent"] == 0.0
    assert "2 of 2 meshes are empty; they count with distance 1.732" in format_table(report)


def test_surface_metrics_are_left_out_without_surface_points(model, tiny_dataset):
    """The training split stores none."""
    report = evaluate(model, tiny_dataset, split="train", mesh_resolution=32, num_shapes=2)
    assert report["data"]["num_surface_points"] == 0
    assert "iou_mesh" in report["metrics"] and "chamfer_l1_edge" not in report["metrics"]
    assert report["num_empty_meshes"] == 0
    text = format_table(report)
    assert "the dataset has no points on the surfaces: no Chamfer distance" in text
    assert "Chamfer-L1" not in text and "none of 2 meshes is empty" in text


def test_the_table_has_the_means_of_the_surface_metrics(report):
    rows = [row for row in format_table(report).splitlines() if row.startswith("mean of shapes")]
    assert len(rows) == 3  # occupancies, surfaces, controls
    names = "chamfer_l1_tenth_edge accuracy_edge completeness_edge chamfer_l2_edge2".split()
    names += ["normal_consistency", *(f"f_score_{p}_percent" for p in ("1", "1.5", "2"))]
    means = [report["metrics"][name]["micro"]["mean"] for name in names]
    assert list(map(float, rows[1].split()[4:])) == pytest.approx(means, abs=1e-4)


def test_one_shape_has_no_shuffled_control_and_no_intervals(model, tiny_dataset):
    report = evaluate(model, tiny_dataset, mesh_resolution=None, num_shapes=1)
    assert list(report["controls"]) == ["mean_shape", "category_mean_shape"]
    text = format_table(report)
    assert "no control with shuffled images" in text
    (names,) = [line for line in text.splitlines() if "category mean" in line]
    assert "shuffled" not in names
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("absent", ["points", "voxels"])
def test_metrics_are_measured_if_the_dataset_has_the_truth(model, tiny_dataset, tmp_path, absent):
    nothing = {"voxels": {}} if absent == "voxels" else {"points": None, "occupancies": None}
    root = copy_shapes(tiny_dataset, tmp_path / "data", 2, **nothing)
    report = evaluate(model, root, split="test", mesh_resolution=32)
    assert "chamfer_l1_edge" in report["metrics"]
    assert ("iou_points" in report["metrics"]) == (absent != "points")
    assert ("iou_mesh" in report["metrics"]) == (absent != "points")
    assert ("iou_voxels" in report["metrics"]) == (absent != "voxels")
    assert report["data"]["voxel_resolution"] == (None if absent == "voxels" else RESOLUTION)
    # Without training shapes there are no mean shapes, and without grids no controls.
    assert list(report["controls"]) == ([] if absent == "voxels" else ["shuffled_images"])
    assert format_table(report)


def test_grids_are_compared_at_the_resolution_of_the_model_or_the_protocols(tiny_dataset, tmp_path):
    """Voxel models at their own resolution, other models at 32^3, if the dataset stores it."""
    edges = (8, 16, 32, 64)
    grids = {edge: np.ones((edge,) * 3, bool) for edge in edges}
    root = copy_shapes(tiny_dataset, tmp_path / "data", 1, voxels=grids)
    implicit, voxel = octahedron_model(), tiny_voxel_model(resolution=64)
    assert StoredShapes(root, "test", implicit).voxels(0).shape == (32, 32, 32)
    assert StoredShapes(root, "test", voxel).voxels(0).shape == (64, 64, 64)
