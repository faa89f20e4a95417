"""Tests of mesh processing: what it removes, keeps and moves."""

import sys

import numpy as np
import pytest
import trimesh

from occvae.errors import UserError
from occvae.geometry.extract_mesh import extract_mesh
from occvae.geometry.mesh_checks import check_mesh
from occvae.geometry.mesh_processing import (
    decimate_mesh,
    largest_component,
    process_mesh,
    smooth_mesh,
)
from tests.fields import sphere


def ball(radius: float = 0.4, center=(0.0, 0.0, 0.0), subdivisions: int = 3) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return trimesh.Trimesh(mesh.vertices + np.array(center), mesh.faces, process=False)


def together(*meshes: trimesh.Trimesh) -> trimesh.Trimesh:
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    return trimesh.Trimesh(vertices, np.concatenate(faces), process=False)


def watertight(mesh: trimesh.Trimesh) -> bool:
    return check_mesh(mesh.vertices, mesh.faces).is_watertight


def test_the_largest_component_has_the_most_area():
    large, fine = ball(0.2, (-0.3, 0, 0), subdivisions=2), ball(0.1, (0.3, 0, 0), subdivisions=4)
    both = together(fine, large)
    kept = largest_component(both)
    np.testing.assert_array_equal(kept.vertices, large.vertices)
    np.testing.assert_array_equal(kept.faces, large.faces)
    assert len(both.faces) == len(fine.faces) + len(large.faces)  # the input is not modified
    alone = largest_component(large)
    np.testing.assert_array_equal(alone.faces, large.faces)
    assert len(largest_component(trimesh.Trimesh()).faces) == 0


def test_the_largest_component_keeps_its_normals():
    def two_balls(points, shape):
        first, second = sphere(0.25, (-0.2, 0, 0)), sphere(0.1, (0.35, 0, 0))
        return first(points, shape).maximum(second(points, shape))

    [mesh] = extract_mesh(two_balls, resolution=32, normals=True)
    kept = largest_component(mesh)
    assert 0 < len(kept.faces) < len(mesh.faces)
    outward = kept.vertices - [-0.2, 0, 0]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    # Normals computed from the faces of such a coarse mesh would be farther off.
    assert np.abs(kept.vertex_normals - outward).max() < 2e-3


def test_smoothing_removes_noise_and_keeps_the_size():
    rng = np.random.default_rng(0)
    rough = ball(subdivisions=4)
    rough.vertices = rough.vertices * (1 + 0.02 * rng.normal(size=(len(rough.vertices), 1)))
    before = rough.vertices.copy()
    smooth = smooth_mesh(rough, 10)
    radii = np.linalg.norm(smooth.vertices, axis=1)
    assert radii.std() < 0.45 * np.linalg.norm(before, axis=1).std()
    # Inward steps alone would shrink the radius of this mesh by 4 %.
    assert radii.mean() == pytest.approx(0.4, rel=0.005)
    np.testing.assert_array_equal(smooth.faces, rough.faces)
    np.testing.assert_array_equal(rough.vertices, before)
    np.testing.assert_array_equal(smooth_mesh(rough, 0).vertices, before)


def test_decimation_keeps_the_shape():
    pytest.importorskip("fast_simplification")
    [mesh] = extract_mesh(sphere(0.4), resolution=64)
    few = decimate_mesh(mesh, 1000)
    assert len(mesh.faces) > 10_000 and 900 <= len(few.faces) <= 1000
    assert watertight(few)
    np.testing.assert_allclose(np.linalg.norm(few.vertices, axis=1), 0.4, atol=0.01)
    assert few.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)
    assert len(decimate_mesh(few, 10**6).faces) == len(few.faces)


def test_decimation_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    assert len(decimate_mesh(ball(), 10**6).faces) > 0  # nothing to reduce, so no library needed
    with pytest.raises(UserError, match="pip install fast-simplification"):
        decimate_mesh(ball(), 100)


def test_process_mesh_applies_all_steps():
    pytest.importorskip("fast_simplification")
    pair = together(ball(0.1, (0.3, 0, 0), 4), ball(0.3, (-0.2, 0, 0), 4))
    mesh = process_mesh(pair, largest=True, smooth=2, decimate=500)
    assert 450 <= len(mesh.faces) <= 500 and watertight(mesh)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices - [-0.2, 0, 0], axis=1), 0.3, atol=0.01)
    assert process_mesh(pair) is pair


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smooth_mesh(ball(), -1), "rounds must be at least 0; got -1"),
        (lambda: decimate_mesh(ball(), 3), "num_faces must be at least 4; got 3"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
