"""Tests of extract_mesh() against shapes of known size."""

import math
import sys
import warnings

import numpy as np
import pytest
import torch

from occvae.geometry.extract_mesh import extract_mesh
from occvae.system import memory
from tests.fields import gyroid, sphere, thin_chair, torus
from tests.fresh_process import run_fresh


def test_a_sphere_has_its_volume_and_area():
    center = (0.05, -0.1, 0.12)
    (mesh,) = extract_mesh(sphere(0.35, center), resolution=128)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.35**3, rel=1e-3)
    assert mesh.area == pytest.approx(4 * math.pi * 0.35**2, rel=2e-3)
    np.testing.assert_allclose(mesh.center_mass, center, atol=1e-5)
    distance = np.linalg.norm(mesh.vertices - center, axis=1)
    np.testing.assert_allclose(distance, 0.35, atol=1e-4)
    outward = ((mesh.triangles_center - center) * mesh.face_normals).sum(1)
    assert outward.min() > 0


def test_a_torus_has_a_hole():
    (mesh,) = extract_mesh(torus(0.3, 0.11), resolution=64, coarse_resolution=16)
    assert mesh.is_watertight
    assert mesh.euler_number == 0
    assert mesh.volume == pytest.approx(2 * math.pi**2 * 0.3 * 0.11**2, rel=6e-3)
    extent = mesh.bounds[1] - mesh.bounds[0]
    np.testing.assert_allclose(extent, [0.82, 0.82, 0.22], atol=2e-3)


def test_a_thin_chair_is_whole_from_a_coarse_lattice():
    (mesh,) = extract_mesh(thin_chair, resolution=128, coarse_resolution=16)
    assert mesh.is_watertight and mesh.is_volume
    assert mesh.body_count == 1
    np.testing.assert_allclose(mesh.bounds, [[-0.25, -0.25, -0.5], [0.25, 0.25, 0.5]], atol=0.005)
    seat, back, legs = 0.5 * 0.5 * 0.04, 0.5 * 0.04 * 0.48, 4 * 0.04 * 0.04 * 0.48
    assert mesh.volume == pytest.approx(seat + back + legs, rel=0.05)


def test_a_surface_that_leaves_the_bounds_is_closed_there():
    (mesh,) = extract_mesh(gyroid, resolution=64)
    assert mesh.is_watertight
    # A gyroid divides space in halves. The bounds cut its periods, so this holds only roughly.
    assert mesh.volume == pytest.approx(1.1**3 / 2, rel=0.02)


def test_bounds_and_level_are_in_the_units_of_the_field():
    options = {"resolution": 64, "coarse_resolution": 16, "bounds": (-3.0, 5.0)}
    (mesh,) = extract_mesh(sphere(2.5, (1.0, 1.0, 1.0)), level=0.5, **options)
    np.testing.assert_allclose(mesh.bounds, [[-1, -1, -1], [3, 3, 3]], atol=1e-2)


@pytest.mark.parametrize("level", [0.0, 0.05])
def test_signed_distances_are_negative_inside(level):
    """Equals the mesh of the negated field, also for ties and in the units of the level."""

    def sdf(points):
        return (points.abs().amax(dim=1) * 64).round() / 64 - 0.25

    options = {"resolution": 64, "bounds": (-0.5, 0.5), "normals": True}
    (mesh,) = extract_mesh(sdf, inside="negative", level=level, **options)
    (expected,) = extract_mesh(lambda points: -sdf(points), level=-level, **options)
    assert mesh.volume == pytest.approx((0.5 + 2 * level) ** 3, rel=0.1)
    np.testing.assert_array_equal(mesh.vertices, expected.vertices)
    np.testing.assert_array_equal(mesh.faces, expected.faces)
    np.testing.assert_array_equal(mesh.vertex_normals, expected.vertex_normals)


NUMBERS = [np.int64, np.int8, np.array, torch.tensor]


@pytest.mark.parametrize("integer", NUMBERS)
def test_numbers_may_be_scalars_of_numpy_and_tensors(integer):
    real = {np.int64: np.float32, np.int8: np.float64}.get(integer, integer)
    (mesh,) = extract_mesh(
        sphere(),
        resolution=integer(64),
        coarse_resolution=integer(16),
        level=real(0.125),
        num_shapes=integer(1),
        bounds=(real(-0.5), real(0.5)),
        max_points_per_call=integer(100),
        refine_vertices=integer(1),
    )
    (expected,) = extract_mesh(
        sphere(), resolution=64, coarse_resolution=16, level=0.125, bounds=(-0.5, 0.5)
    )
    assert mesh.volume == pytest.approx(expected.volume, rel=1e-3)


def test_an_empty_shape_of_a_batch_gives_an_empty_mesh():
    radii = torch.tensor([0.2, -1.0, 0.4])
    meshes = extract_mesh(
        lambda points, shape: radii[shape] - points.norm(dim=1),
        resolution=64,
        coarse_resolution=16,
        num_shapes=3,
    )
    assert meshes[1].is_empty and meshes[1].faces.shape == (0, 3)
    for mesh, radius in ((meshes[0], 0.2), (meshes[2], 0.4)):
        assert mesh.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=1e-2)


def test_a_tie_on_the_lattice_leaves_no_hole():
    """The faces of this cube lie exactly on lattice points, where the field is exactly 0."""
    (mesh,) = extract_mesh(
        lambda points, _: 0.25 - points.abs().amax(1),
        resolution=32,
        coarse_resolution=8,
        bounds=(-0.5, 0.5),
    )
    assert mesh.is_watertight and mesh.euler_number == 2
    assert mesh.area_faces.min() > 0
    assert mesh.volume == pytest.approx(0.5**3, rel=1e-3)


def test_memory_and_arguments_are_checked_before_the_field_is_used(monkeypatch):
    def field(points, shape_index):
        raise AssertionError("the field must not be used")

    with pytest.raises(ValueError, match="nearest valid are 128 and 256"):
        extract_mesh(field, resolution=200)
    for options, error, message in (
        ({"refine_vertices": -1}, ValueError, "refine_vertices must be at least 0; got -1"),
        ({"refine_vertices": 0.5}, TypeError, "refine_vertices must be an integer; got float"),
        ({"progress": 1}, TypeError, "progress must be callable or None; got int"),
        ({"max_points_per_call": 0}, ValueError, "max_points_per_call must be at least 1; got 0"),
        ({"level": math.nan}, ValueError, "level must be finite; got nan"),
        ({"level": np.zeros(2)}, TypeError, "level must be a number; got ndarray"),
        ({"level": torch.zeros(2)}, TypeError, "level must be a number; got Tensor"),
        ({"resolution": torch.tensor(64.0)}, TypeError, "must be an integer; got Tensor"),
        ({"inside": "in"}, ValueError, 'inside must be "positive" or "negative"; got \'in\''),
        ({"bounds": (1e5, 1e5 + 1)}, ValueError, "too far from 0 for float32"),
        ({"bounds": (-3e38, 3e38)}, ValueError, "bounds must be at most 1e.18 in magnitude"),
        ({"bounds": ((0, 0, 0), (1, 1, 1e38))}, ValueError, "scale the field and its bounds down"),
    ):
        with pytest.raises(error, match=message):
            extract_mesh(field, **options)
    monkeypatch.setattr(memory, "available_memory", lambda device: 10 * 2**30)
    message = r"resolution 2048 on a dense grid needs 24.1 GiB, 10.0 GiB are free on cpu"
    with pytest.raises(MemoryError, match=message):
        extract_mesh(field, resolution=2048, backend="reference")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match="^extract_mesh needs trimesh: pip install trimesh$"):
        extract_mesh(field)


def test_refined_vertices_are_accurate_and_report_progress():
    seen = []
    (mesh,) = extract_mesh(
        lambda points, _: torch.expm1(20 * (0.35 - points.norm(dim=1))),
        resolution=32,
        refine_vertices=6,
        progress=lambda *state: seen.append(state),
    )
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.35, atol=4e-5)
    count = len(mesh.vertices)
    assert seen[1:] == [(round_, count, count) for round_ in range(1, 7)]


def test_progress_and_interruption_pass_through():
    seen = []
    extract_mesh(sphere(), resolution=32, progress=lambda *state: seen.append(state))
    assert seen == [(0, 33**3, 33**3)]

    def stop(*state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_mesh(sphere(), resolution=32, progress=stop)


def test_import_needs_neither_trimesh_nor_pymcubes():
    without = "import sys; sys.modules.update(trimesh=None, mcubes=None)"
    code = f"{without}; import occvae.geometry.extract_mesh"
    run_fresh(code)


@pytest.mark.parametrize("bounds", [(-0.55, 0.55), ((-0.6, -0.5, -0.5), (0.6, 0.5, 0.71))])
def test_swapped_signs_are_reported(bounds):
    def sdf(points):
        return points.norm(dim=1) - 0.4

    with pytest.warns(UserWarning, match='shape 0: all corners .* pass inside="negative"'):
        extract_mesh(sdf, resolution=32, bounds=bounds)
    with pytest.warns(UserWarning, match='shape 0: all corners .* leave out inside="negative"'):
        extract_mesh(lambda points: -sdf(points), inside="negative", resolution=32, bounds=bounds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract_mesh(sdf, inside="negative", resolution=32, bounds=bounds)


def test_a_surface_that_leaves_the_bounds_on_all_sides_is_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (mesh,) = extract_mesh(lambda points: 0.6 - points.norm(dim=1), resolution=32)
    assert mesh.extents.min() > 1.0999
