"""Tests of cutting polygons and strips into triangles."""

import numpy as np
import pytest

from occvae.errors import UserError
from occvae.geometry.mesh_files.polygons import strip_faces, triangulate
from tests.geometry.mesh_files.measures import area, volume
from tests.mesh_builders import random_rotation
from tests.mesh_file_writers import CUBE, CUBE_STRIP, prism


def comb(teeth):
    """A comb whose polygon has 4 corners per tooth, and its area."""
    outline = [(0.0, -1.0), (2.0 * teeth - 1, -1.0)]
    for tooth in reversed(range(teeth)):
        right = 2.0 * tooth + 1
        outline += [(right, 5.0), (right - 1, 5.0)]
        outline += [(right - 1, 0.0), (right - 2, 0.0)] if tooth else []
    return outline, (2 * teeth - 1) + 5 * teeth


def spiral(turns):
    """A band that winds around the origin more than once."""
    angles = np.linspace(0.3, 2 * np.pi * turns, 40 * turns)
    rays = np.c_[np.cos(angles), np.sin(angles)]
    return np.concatenate([rays * angles[:, None], (rays * (angles[:, None] + 2))[::-1]])[::-1]


def shoelace(outline):
    x, y = np.asarray(outline).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def flatten(polygons):
    return np.concatenate(polygons), np.array([len(polygon) for polygon in polygons])


OUTLINES = {
    "comb": comb(5)[0],
    "spiral": spiral(3),
    "arrow": [(0, 0), (2, -1), (0.5, 0), (2, 1)],
    "arrow by its notch": [(0.5, 0), (2, 1), (0, 0), (2, -1)],
    "square with corners on its sides": [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (0, 2)],
    "square with a hole": [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1),
                           (1, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", OUTLINES)
def test_prisms_over_any_polygon_keep_area_and_volume(name):
    outline = OUTLINES[name]
    turn = random_rotation(1).numpy()
    expected = shoelace(outline)
    assert expected > 0
    for first in range(0, len(outline), max(len(outline) // 8, 1)):
        vertices, polygons = prism(outline, turn=first)
        faces = triangulate(vertices @ turn * 1e3 + 5, *flatten(polygons))
        assert len(faces) == sum(len(polygon) - 2 for polygon in polygons)
        assert volume(vertices, faces) == pytest.approx(expected, rel=1e-9)
        around = np.linalg.norm(np.roll(outline, -1, axis=0) - np.asarray(outline), axis=1).sum()
        assert area(vertices, faces) == pytest.approx(2 * expected + around, rel=1e-9)
        assert_closed(faces)


def assert_closed(faces):
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward, counts = np.unique(edges, axis=0, return_counts=True)
    backward, other = np.unique(edges[:, ::-1], axis=0, return_counts=True)
    np.testing.assert_array_equal(forward, backward)
    np.testing.assert_array_equal(counts, other)


def test_no_triangle_is_degenerate_where_corners_lie_on_sides():
    outline = OUTLINES["square with corners on its sides"]
    vertices = np.c_[np.asarray(outline, float), np.zeros(len(outline))]
    faces = triangulate(vertices, np.arange(len(outline)), np.array([len(outline)]))
    assert all(area(vertices, face[None]) > 0.1 for face in faces)


def test_quads_become_fans_of_their_first_corner():
    faces = triangulate(CUBE, np.array([0, 1, 3, 2, 4, 6, 7]), np.array([4, 3]))
    assert sorted(faces.tolist()) == [[0, 1, 3], [0, 3, 2], [4, 6, 7]]


def test_equal_neighbors_are_one_corner():
    faces = triangulate(CUBE, np.array([0, 1, 3, 3, 2]), np.array([5]))
    assert len(faces) == 2 and area(CUBE, faces) == pytest.approx(1)


def test_polygons_without_area_are_kept_or_left_out():
    faces = triangulate(CUBE, np.array([0, 1, 0, 1, 0, 0, 5, 5, 5, 5]), np.array([4, 2, 4]))
    assert area(CUBE, faces) == 0


def test_an_index_out_of_range_is_refused():
    with pytest.raises(UserError, match="a face has index 8, but there are 8 vertices"):
        triangulate(CUBE, np.array([0, 1, 8]), np.array([3]))
    with pytest.raises(UserError, match="a face has index -1"):
        triangulate(CUBE, np.array([0, 1, -1]), np.array([3]))


def test_a_strip_around_a_cube_is_the_cube():
    faces = strip_faces(np.array(CUBE_STRIP), np.array([len(CUBE_STRIP)]))
    assert len(faces) == 12 and volume(CUBE, faces) == pytest.approx(1)


def test_strips_end_at_breaks_and_at_rows():
    both = np.array([*CUBE_STRIP, -1, *CUBE_STRIP, *CUBE_STRIP, -1])
    faces = strip_faces(both, np.array([2 * len(CUBE_STRIP) + 1, 0, len(CUBE_STRIP) + 1]))
    assert len(faces) == 36 and volume(CUBE, faces) == pytest.approx(3)
