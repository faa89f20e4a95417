"""Tests of check_mesh, with one fault at a time."""

import numpy as np
import pytest

from occvae.geometry.mesh_checks import check_mesh
from tests.mesh_builders import box, join, sphere, torus


def arrays(mesh):
    return tuple(x.numpy().copy() for x in mesh)


@pytest.mark.parametrize("mesh, volume", [
    (box(), 1.0), (sphere(4), 4 / 3 * np.pi / 8), (join(box(), torus()), None),
])  # fmt: skip
def test_meshes_without_faults_are_watertight(mesh, volume):
    report = check_mesh(*arrays(mesh))
    assert report.is_watertight and report.has_inside and not report.is_inverted
    assert report.problems() == [] and str(report) == "watertight"
    if volume is not None:
        assert report.volume == pytest.approx(volume, rel=0.01)


def test_the_volume_does_not_depend_on_the_position():
    vertices, faces = arrays(box())
    assert check_mesh(vertices + 1e6, faces).volume == pytest.approx(1.0, abs=1e-6)


def test_open_edges_are_counted():
    vertices, faces = arrays(sphere(2))
    report = check_mesh(vertices, faces[1:])
    assert report.open_edges == report.odd_edges == 3
    assert not report.is_watertight and not report.has_inside
    assert str(report) == "not watertight: 3 open edges"


def test_edges_of_more_than_two_faces_are_counted():
    """Crossing parity is defined for two boxes that share an edge, but not for a box with a fin."""
    vertices, faces = arrays(join(box(), box([1, 1, 0], [2, 2, 1])))
    report = check_mesh(vertices, faces)
    assert (report.crowded_edges, report.odd_edges) == (1, 0)
    assert report.has_inside and not report.is_watertight
    assert str(report) == "closed: 1 edges of more than two faces"
    vertices, faces = arrays(box())
    report = check_mesh(np.append(vertices, [[5.0, 5, 5]], 0), np.append(faces, [[0, 1, 8]], 0))
    assert (report.crowded_edges, report.open_edges, report.odd_edges) == (1, 2, 3)
    assert not report.has_inside


def test_inconsistent_orientation_is_counted():
    vertices, faces = arrays(sphere(2))
    faces[7] = faces[7, ::-1]
    report = check_mesh(vertices, faces)
    assert report.inconsistent_edges == 3 and report.is_watertight and not report.is_inverted
    assert str(report) == "watertight: 3 edges between faces of opposite orientation"


def test_inverted_orientation_is_found():
    vertices, faces = arrays(torus())
    report = check_mesh(vertices, faces[:, ::-1])
    assert report.is_inverted and report.is_watertight
    assert str(report) == "watertight: oriented inwards"


def test_edges_of_degenerate_faces_are_not_counted():
    vertices, faces = arrays(box())
    thin = np.append(vertices, [[0.5, 0, 0], [0.25, 0, 0], [0.75, 0, 0]], 0)
    report = check_mesh(thin, np.append(faces, [[3, 3, 5], [2, 2, 2]], 0))
    assert report.degenerate_faces == 2 and report.is_watertight
    report = check_mesh(thin, np.append(faces, [[8, 9, 10]], 0))  # three corners on one line
    assert report.degenerate_faces == 1 and report.open_edges == 3


def test_duplicate_faces_are_counted():
    vertices, faces = arrays(box())
    report = check_mesh(vertices, np.concatenate([faces, faces[:2, [1, 2, 0]], faces[:1, ::-1]]))
    assert report.duplicate_faces == 3 and report.cancelling_faces == 4
    report = check_mesh(
        vertices, np.concatenate([faces, faces[:, ::-1]])
    )  # both sides of each face
    assert report.odd_edges == 0 and not report.has_inside
    assert str(report) == "not watertight: 18 edges of more than two faces, 12 duplicate faces"


def test_vertices_at_equal_positions_count_as_one():
    vertices, faces = arrays(sphere(2))
    soup = vertices[faces].reshape(-1, 3)
    soup[soup == 0] = -0.0
    soup[::2] += 0.0
    report = check_mesh(soup, np.arange(len(soup)).reshape(-1, 3))
    assert report.is_watertight and report.num_vertices == 3 * len(faces)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_meshes_are_unusable(value):
    vertices, faces = arrays(box())
    vertices[2, 1] = value
    report = check_mesh(vertices, faces)
    assert report.non_finite_vertices == 1 and not report.is_usable and not report.has_inside
    assert str(report) == "unusable: 1 vertices that are not finite"
    vertices, faces = arrays(box())
    faces[3, 0], faces[4, 1] = 8, -1
    assert str(check_mesh(vertices, faces)) == "unusable: 2 faces with indices out of range"
    assert str(check_mesh(vertices, faces[:0])) == "unusable: no faces"


@pytest.mark.parametrize("change, message", [
    ({"vertices": np.zeros((4, 2))}, r"vertices must be floating .*; got float64 \(4, 2\)"),
    ({"faces": np.zeros((4, 3))}, r"faces must be integer \(count, 3\); got float64 \(4, 3\)"),
])  # fmt: skip
def test_wrong_arrays_are_refused(change, message):
    vertices, faces = arrays(box())
    with pytest.raises(ValueError, match=message):
        check_mesh(**{"vertices": vertices, "faces": faces} | change)
