"""Sampling and comparison, against point-by-point definitions and analytic shapes."""

import numpy as np
import pytest
import trimesh

from occvae.metrics import Surface, compare_surfaces, sample_surface
from tests.conftest import DEVICES
from tests.metrics import oracle


def random_surface(count: int, seed: int) -> Surface:
    rng = np.random.default_rng(seed)
    return Surface(rng.random((count, 3)) - 0.5, rng.normal(size=(count, 3)))


def sphere(radius: float, center: float = 0.0, count: int = 20_000, seed: int = 0) -> Surface:
    """Returns samples of an exact sphere."""
    directions = np.random.default_rng(seed).normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Surface(radius * directions + [center, 0, 0], directions)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [(150, 90), (1, 40), (40, 1), (1, 1)])
def test_comparison_agrees_with_the_definitions(sizes, device):
    prediction, truth = (random_surface(size, seed) for seed, size in enumerate(sizes))
    comparison = compare_surfaces(prediction, truth, device)
    expected = oracle.compare(prediction.points, prediction.normals, truth.points, truth.normals)
    for name in ("accuracy", "completeness", "chamfer_l1", "chamfer_l2", "normal_consistency"):
        assert getattr(comparison, name) == pytest.approx(expected[name], rel=1e-12), name
    for threshold in (1e-6, 0.05, 0.1, 0.2, 2.0):
        score = oracle.f_score(expected["forth"], expected["back"], threshold)
        assert comparison.f_score(threshold) == pytest.approx(score, rel=1e-12)


def test_accuracy_and_completeness_are_not_exchanged():
    """One true point among many predicted ones: complete, but not accurate."""
    prediction = random_surface(500, 0)
    truth = Surface(prediction.points[:1], prediction.normals[:1])
    comparison = compare_surfaces(prediction, truth)
    assert comparison.completeness == 0.0 < 0.1 < comparison.accuracy


def test_concentric_spheres_differ_by_their_radii():
    """The Chamfer distance is the difference of the radii.

    Distances are measured to samples. These are s apart with s^2 = area / (pi n) < 2e-5, so they
    exceed the difference by at most s^2 / (2 * 0.1).
    """
    comparison = compare_surfaces(sphere(0.4), sphere(0.3, seed=1))
    assert 0.1 - 1e-12 <= comparison.accuracy < 0.1 + 3e-4
    assert 0.1 - 1e-12 <= comparison.completeness < 0.1 + 3e-4
    assert comparison.chamfer_l2 == pytest.approx(0.01, abs=6e-5)
    assert comparison.normal_consistency == pytest.approx(1.0, abs=5e-4)
    assert (comparison.f_score(0.0999), comparison.f_score(0.103)) == (0.0, 1.0)


def test_distances_of_separate_spheres_are_as_computed():
    """The mean distance of a point from a sphere whose center is c away is c + r^2 / (3 c)."""
    radius, apart = 0.2, 0.5
    comparison = compare_surfaces(sphere(radius), sphere(radius, apart, seed=1))
    expected = apart + radius**2 / (3 * apart) - radius
    # The mean over n points has a standard error of 0.2 / sqrt(3 n) = 8e-4.
    assert comparison.accuracy == pytest.approx(expected, abs=3e-3)
    assert comparison.chamfer_l1 == pytest.approx(expected, abs=3e-3)


def test_flipped_normals_count_as_equal():
    truth = random_surface(100, 0)
    flipped = Surface(truth.points, -3.0 * truth.normals)
    assert compare_surfaces(flipped, truth).normal_consistency == pytest.approx(1.0, abs=1e-12)


def test_distance_of_a_plane_moved_along_its_normal():
    surfaces = [
        sample_surface(*oracle.square(height), 5000, seed) for seed, height in enumerate((0, 0.05))
    ]
    comparison = compare_surfaces(*surfaces)
    assert 0.05 <= comparison.chamfer_l1 < 0.0515
    assert comparison.chamfer_l2 == pytest.approx(0.05**2, rel=0.05)
    assert comparison.normal_consistency == 1.0
    assert comparison.f_score(0.0499) == 0.0


def test_f_score_of_a_plane_moved_within_itself():
    """Points more than the threshold beyond the other's border are wrong: 0.1 - 0.02 of all."""
    surfaces = [
        sample_surface(*oracle.square(shift=shift), 50_000, seed)
        for seed, shift in enumerate((0, 0.1))
    ]
    assert compare_surfaces(*surfaces).f_score(0.02) == pytest.approx(0.92, abs=0.005)


@pytest.mark.parametrize("mesh", [oracle.square, oracle.fan])
def test_samples_are_uniform_for_any_triangulation(mesh):
    surface = sample_surface(*mesh(), 64_000, seed=3)
    assert len(surface) == 64_000
    assert np.all(surface.points[:, 2] == 0.0) and np.all(np.abs(surface.normals[:, 2]) == 1.0)
    counts, *_ = np.histogram2d(*surface.points[:, :2].T, bins=8, range=[[0, 1], [0, 1]])
    assert counts.sum() == 64_000  # all inside
    # Chi-squared with 63 degrees of freedom exceeds 115 once in 10,000 seeds.
    assert ((counts - 1000) ** 2 / 1000).sum() < 115


def test_metrics_do_not_depend_on_the_order_of_vertices_and_faces():
    mesh = trimesh.creation.icosphere(3, radius=0.4)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(mesh.vertices))
    place = np.argsort(order)
    faces = rng.permuted(place[mesh.faces], axis=1)[rng.permutation(len(mesh.faces))]
    truth = sphere(0.3)
    first, second = (
        compare_surfaces(sample_surface(*pair, 20_000, 1), truth)
        for pair in ((mesh.vertices, mesh.faces), (mesh.vertices[order], faces))
    )
    assert first.chamfer_l1 == pytest.approx(second.chamfer_l1, abs=2e-5)
    assert first.normal_consistency == pytest.approx(second.normal_consistency, abs=1e-4)


def test_samples_depend_on_the_seed():
    mesh = oracle.fan()
    again = [sample_surface(*mesh, 100, [7, 1]) for _ in range(2)]
    assert np.array_equal(again[0].points, again[1].points)
    assert np.array_equal(again[0].normals, again[1].normals)
    assert not np.array_equal(again[0].points, sample_surface(*mesh, 100, [7, 2]).points)


@pytest.mark.parametrize(
    ("vertices", "faces"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), int)),
        (np.zeros((3, 3)), np.zeros((0, 3), int)),
        (np.arange(9.0).reshape(3, 3), np.array([[0, 1, 2]])),  # on a line
    ],
)
def test_a_mesh_without_area_has_no_samples(vertices, faces):
    assert len(sample_surface(vertices, faces, 10, 0)) == 0


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        ([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]], [[0, 1, 2]], "vertices must be finite"),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 3]], "indices from 0 to 2; got 0 to 3"),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, -1]], "indices from 0 to 2; got -1 to 1"),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2, 0]], r"faces \(F, 3\); got .*\(1, 4\)"),
        ([[0, 0], [1, 0], [0, 1]], [[0, 1, 2]], r"vertices must be \(V, 3\)"),
    ],
)
def test_invalid_meshes_are_refused(vertices, faces, message):
    with pytest.raises(ValueError, match=message):
        sample_surface(np.array(vertices, float), np.array(faces), 10, 0)


def test_invalid_surfaces_are_refused():
    with pytest.raises(ValueError, match=r"must be \(N, 3\); got \(2, 3\) and \(3, 3\)"):
        Surface(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="must be finite"):
        Surface(np.full((1, 3), np.inf), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="the true surface has no points"):
        compare_surfaces(random_surface(3, 0), Surface(np.zeros((0, 3)), np.zeros((0, 3))))
