"""Protocols: units, failures, IoU and voxel F-scores."""

import numpy as np
import pytest
import trimesh

from occvae.metrics import (
    PROTOCOLS,
    Surface,
    best_threshold,
    compare_surfaces,
    measure_mesh,
    occupancy_iou,
    sample_surface,
    what3d_f_score,
)
from occvae.metrics.protocols import _grid_surface
from tests.metrics import oracle

SURFACE_PROTOCOLS = ("onet", "conv_onet", "vecset")


@pytest.fixture(autouse=True)
def fewer_points(monkeypatch):
    for name in SURFACE_PROTOCOLS:
        fewer = {**vars(PROTOCOLS[name]), "num_samples": 5000}
        monkeypatch.setitem(PROTOCOLS, name, type(PROTOCOLS[name])(**fewer))


@pytest.fixture(scope="module")
def truth() -> Surface:
    return sample_surface(*oracle.square(), 5000, seed=99)


def mesh_at(height: float) -> trimesh.Trimesh:
    return trimesh.Trimesh(*oracle.square(height), process=False)


@pytest.mark.parametrize("protocol", SURFACE_PROTOCOLS)
def test_metrics_of_a_moved_plane_have_their_units(truth, protocol):
    result = measure_mesh(mesh_at(0.0125), truth, protocol, seed=0)
    surface = sample_surface(*oracle.square(0.0125), 5000, 0)
    expected = compare_surfaces(surface, truth)
    assert result.pop("empty") == 0.0
    if protocol == "vecset":  # in a cube of edge 2 all distances are twice as long
        doubled = compare_surfaces(
            Surface(2 * surface.points, surface.normals), Surface(2 * truth.points, truth.normals)
        )
        assert result == pytest.approx(
            {
                "chamfer_sum_half_edge": doubled.accuracy + doubled.completeness,
                "f_score_0.02_half_edge": doubled.f_score(0.02),
            }
        )
        return
    assert result["chamfer_l1_tenth_edge"] == pytest.approx(10 * result["chamfer_l1_edge"])
    assert result["chamfer_l1_edge"] == pytest.approx(expected.chamfer_l1)
    assert result["chamfer_l1_edge"] == pytest.approx(0.0125, rel=0.2)
    assert result["chamfer_l2_edge2"] == pytest.approx(expected.chamfer_l2)
    assert result["accuracy_edge"] == expected.accuracy
    assert result["completeness_edge"] == expected.completeness
    assert result["normal_consistency"] == 1.0
    scores = {name: value for name, value in result.items() if "f_score" in name}
    if protocol == "onet":
        assert not scores
    else:
        assert list(scores) == [f"f_score_{p}_percent" for p in ("1", "1.5", "2")]
        assert scores["f_score_1_percent"] == 0.0 < scores["f_score_1.5_percent"]
        assert scores["f_score_1.5_percent"] < scores["f_score_2_percent"] <= 1.0


@pytest.mark.parametrize("mesh", [None, trimesh.Trimesh()], ids=["missing", "empty"])
@pytest.mark.parametrize("protocol", SURFACE_PROTOCOLS)
def test_empty_and_missing_meshes_count(truth, protocol, mesh):
    occupied = np.array([True, False])
    result = measure_mesh(mesh, truth, protocol, seed=0, occupancies=occupied)
    diagonal = 3**0.5
    expected = {"empty": 1.0, "iou": 0.0}
    if protocol == "vecset":
        expected |= {"chamfer_sum_half_edge": 4 * diagonal, "f_score_0.02_half_edge": 0.0}
    else:
        expected |= {
            "accuracy_edge": diagonal,
            "completeness_edge": diagonal,
            "chamfer_l1_edge": diagonal,
            "chamfer_l1_tenth_edge": 10 * diagonal,
            "chamfer_l2_edge2": 3.0,
            "normal_consistency": -1.0,
        }
    if protocol == "conv_onet":
        expected |= {f"f_score_{p}_percent": 0.0 for p in ("1", "1.5", "2")}
    assert result == pytest.approx(expected)
    full = measure_mesh(
        mesh_at(0.1), truth, protocol, seed=0, inside=occupied, occupancies=occupied
    )
    assert full.keys() == result.keys() and full["iou"] == 1.0


def test_two_runs_agree_to_the_last_digit(truth):
    first, second = (measure_mesh(mesh_at(0.1), truth, "conv_onet", seed=[4, 2]) for _ in range(2))
    assert first == second
    assert first != measure_mesh(mesh_at(0.1), truth, "conv_onet", seed=[4, 3])


def test_iou_of_two_balls_is_that_of_their_volumes():
    """Concentric, and at half a diameter's distance, where they share 5 / 11 of the union."""
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (100_000, 3))

    def ball(radius, x=0.0):
        return np.linalg.norm(points - [x, 0, 0], axis=1) <= radius

    # The union has 27,000 points or more: a standard error of 0.003.
    assert occupancy_iou(ball(0.4), ball(0.3)) == pytest.approx(0.75**3, abs=0.01)
    # Two caps of height r / 2: 5 pi r^3 / 12 of 4 pi r^3 / 3 each.
    assert occupancy_iou(ball(0.3, -0.15), ball(0.3, 0.15)) == pytest.approx(5 / 27, abs=0.01)
    assert occupancy_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1.0
    with pytest.raises(ValueError, match="two bool arrays of the same shape, got float64"):
        occupancy_iou(np.zeros(3), np.zeros(3, bool))


def test_wrong_arguments_are_refused(truth):
    with pytest.raises(ValueError, match="one of onet, conv_onet, vecset, got 'pix2vox'"):
        measure_mesh(mesh_at(0), truth, "pix2vox", seed=0)
    occupied = np.ones(2, bool)
    with pytest.raises(ValueError, match="needs `inside`"):
        measure_mesh(mesh_at(0), truth, "onet", seed=0, occupancies=occupied)
    with pytest.raises(ValueError, match="needs `occupancies`"):
        measure_mesh(mesh_at(0), truth, "onet", seed=0, inside=occupied)


def test_the_best_threshold_has_the_highest_mean_iou():
    iou = np.array([[0.1, 0.9, 0.3], [0.2, 0.5, 1.0]])
    assert best_threshold(iou, (0.2, 0.3, 0.4)) == (0.3, 0.7)
    with pytest.raises(ValueError, match=r"iou must be \(S, 2\)"):
        best_threshold(iou, (0.2, 0.3))


def box(*sizes: int, resolution: int = 32) -> np.ndarray:
    grid = np.zeros((resolution,) * 3, bool)
    grid[tuple(slice(4, 4 + size) for size in sizes)] = True
    return grid


def test_what3d_scores_of_cubes_are_as_computed():
    cube = box(16, 16, 16)
    assert what3d_f_score(cube, cube.copy(), seed=0) == 1.0
    # The points of nearly equal grids differ. On a surface of area A, a point has no other point
    # within t with probability exp(-8192 pi t^2 / A).
    hollow = cube.copy()
    hollow[10, 10, 10] = False  # a hole inside, with hardly any area
    same = what3d_f_score(cube, hollow, seed=0)
    area = 6 * (16 / 33) ** 2
    assert same == pytest.approx(1 - np.exp(-8192 * np.pi * 0.01**2 / area), abs=0.02)
    assert same == what3d_f_score(cube, hollow, seed=0) != what3d_f_score(cube, hollow, seed=1)
    # A cell is 3 % of the edge, so the one moved face of six is beyond 1 %.
    longer = what3d_f_score(cube, box(16, 16, 17), seed=0)
    assert longer == pytest.approx(same * 5 / 6, abs=0.03)
    assert what3d_f_score(box(4, 4, 4), box(8, 8, 8)[::-1, ::-1, ::-1], seed=0) == 0.0


def test_what3d_surfaces_are_the_faces_of_the_padded_grid():
    """Marching cubes puts them midway between the samples. Cell 0 has index 1 after padding."""
    occupied = np.zeros((8, 8, 8), bool)
    occupied[2:6, 3:5, 1:7] = True
    points = _grid_surface(occupied, np.random.SeedSequence(0)).points
    assert points.shape == (8192, 3)
    low, high = (np.array([2, 3, 1]) + 0.5) / 9, (np.array([6, 5, 7]) + 0.5) / 9
    np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], [low, high], atol=1e-6)


def test_what3d_of_an_empty_grid_is_0():
    full, empty = box(4, 4, 4), box(0, 0, 0)
    assert what3d_f_score(empty, full, seed=0) == 0.0 == what3d_f_score(full, empty, seed=0)
    with pytest.raises(ValueError, match="expected a bool grid"):
        what3d_f_score(full.astype(float), full, seed=0)
    with pytest.raises(ValueError, match=r"the same size, got \(32, 32, 32\) and \(16, 16, 16\)"):
        what3d_f_score(full, box(4, 4, 4, resolution=16), seed=0)
