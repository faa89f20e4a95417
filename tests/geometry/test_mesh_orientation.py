"""Tests of the orientation of faces: within parts, and of open meshes with turned faces."""

import numpy as np
import pytest

from occvae.geometry.mesh_checks import check_mesh
from occvae.geometry.mesh_io import normalize_mesh
from occvae.geometry.mesh_occupancy import occupancy_of_mesh
from occvae.geometry.mesh_orientation import orient_consistently
from tests.mesh_builders import box, join, sphere


def arrays(mesh):
    return tuple(np.asarray(part) for part in mesh)


def turned(faces, chosen):
    return np.where(np.asarray(chosen)[:, None], faces[:, ::-1], faces)


def separate(vertices, faces):
    """Gives each face its own corners, as in STL files."""
    return vertices[faces.reshape(-1)], np.arange(faces.size).reshape(-1, 3)


def volume(vertices, faces, resolution=64):
    mesh = normalize_mesh(vertices, faces)
    solid = occupancy_of_mesh(mesh)
    return solid.voxelize(resolution).mean() * mesh.scale**3, solid.verdict


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("stored", [lambda *mesh: mesh, separate], ids=["shared", "separate"])
def test_an_open_box_with_turned_faces_keeps_its_inside(count, stored):
    vertices, faces = arrays(box())
    faces = turned(faces[:-2], np.arange(10) < count)
    found, verdict = volume(*stored(vertices, faces))
    assert found == 1.0
    assert f"{count} faces flipped to agree with their neighbors" in verdict


@pytest.mark.parametrize("share", ["cap", "half", "random"])
def test_a_sphere_with_a_hole_and_turned_faces_keeps_its_volume(share):
    vertices, faces = arrays(sphere(5, 1.0))
    faces = faces[1:]
    height = vertices[faces].mean(1)[:, 2]
    chosen = {
        "cap": height > 0.5,
        "half": height > 0,
        "random": np.random.default_rng(0).random(len(faces)) < 0.5,
    }[share]
    found, _ = volume(vertices, turned(faces, chosen))
    assert found == pytest.approx(4 / 3 * np.pi, rel=0.005)


def test_each_part_is_oriented_on_its_own():
    """A face of one box is turned, and all of the other box."""
    vertices, faces = arrays(join(box(), box([2.0, 0, 0], [3.0, 1, 1])))
    faces = np.delete(faces, [10, 11, 22, 23], axis=0)
    faces = turned(faces, np.isin(np.arange(20), [3, *range(10, 20)]))
    found, _ = volume(vertices, faces, 60)
    assert found == pytest.approx(2.0)


def test_faces_agree_and_the_larger_area_is_kept():
    vertices, faces = arrays(sphere(3))
    expected = faces[5:]
    chosen = np.random.default_rng(1).random(len(expected)) < 0.3
    oriented, parts, unorientable = orient_consistently(vertices, turned(expected, chosen))
    assert np.array_equal(oriented, expected)
    assert not parts.any() and not len(unorientable)
    assert check_mesh(vertices, oriented).inconsistent_edges == 0


def test_consistent_faces_are_unchanged():
    vertices, faces = arrays(join(sphere(2), box()))
    oriented, parts, _ = orient_consistently(vertices, faces)
    assert np.array_equal(oriented, faces)
    assert np.bincount(parts).tolist() == [128, 12]


def moebius_strip(steps=12):
    angle = np.arange(steps) * 2 * np.pi / steps
    across = np.stack([np.cos(angle / 2) * np.cos(angle), np.cos(angle / 2) * np.sin(angle)], 1)
    across = np.concatenate([across, np.sin(angle / 2)[:, None]], 1)
    middle = np.stack([np.cos(angle), np.sin(angle), np.zeros(steps)], 1)
    vertices = np.concatenate([middle - 0.3 * across, middle + 0.3 * across])
    low = np.arange(steps)
    following = np.append(low[1:], steps)  # the strip is closed with a half turn
    high, after = low + steps, np.append(low[1:] + steps, 0)
    faces = np.stack([low, following, high, high, following, after], 1).reshape(-1, 3)
    return vertices, faces


def test_a_part_that_cannot_be_oriented_is_reported():
    vertices, faces = moebius_strip()
    oriented, parts, unorientable = orient_consistently(vertices, faces)
    assert np.array_equal(oriented, faces)
    assert not parts.any() and unorientable.tolist() == [0]
    assert "1 parts cannot be oriented" in volume(vertices, faces)[1]


def test_edges_of_three_faces_connect_no_faces():
    vertices = np.array([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]])
    faces = np.array([[0, 1, 2], [0, 1, 3], [1, 0, 4]])
    oriented, parts, _ = orient_consistently(vertices, faces)
    assert np.array_equal(oriented, faces) and sorted(parts) == [0, 1, 2]
