"""Tests of the inside of closed and faulty meshes against analytic shapes."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from occvae.geometry.mesh_io import normalize_mesh, read_mesh
from occvae.geometry.mesh_occupancy import MeshOccupancy, occupancy_of_mesh
from tests.conftest import needs_kernels
from tests.mesh_builders import box, join, random_rotation, shuffle, sphere, torus

POINTS = np.random.default_rng(0).uniform(-0.55, 0.55, (4000, 3))
# Two cubes with edges of 0.6 that have a cube of 0.2 in common.
FIRST, SECOND = ([-0.5] * 3, [0.1] * 3), ([-0.1] * 3, [0.5] * 3)
real_meshes = pytest.mark.skipif(
    "OCCVAE_TEST_DATA" not in os.environ, reason="OCCVAE_TEST_DATA names no folder with meshes/"
)


def solid_of(vertices, faces) -> MeshOccupancy:
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    mesh = normalize_mesh(vertices, faces)
    # The mesh is in the unit cube already, so analytic shapes need no transformation.
    assert (mesh.scale, *mesh.location) == pytest.approx((1, 0, 0, 0))
    return occupancy_of_mesh(mesh)


def inverted(mesh):
    return mesh[0], mesh[1].flip(1)


def within(bounds):
    low, high = bounds
    return ((low < POINTS) & (POINTS < high)).all(1)


def differences(solid, expected, clear=True):
    """Number of wrongly classified points among those in `clear`."""
    return int(((solid.contains(POINTS) != expected) & clear).sum())


@pytest.mark.parametrize("turn", [False, True], ids=["outwards", "inwards"])
def test_a_closed_mesh_has_its_inside(turn):
    mesh = inverted(sphere(5)) if turn else sphere(5)
    solid = solid_of(*mesh)
    radius = np.linalg.norm(POINTS, axis=1)
    assert (
        solid.method == "parity" and differences(solid, radius < 0.5, abs(radius - 0.5) > 1e-3) == 0
    )
    expected = "watertight: oriented inwards" if turn else "watertight"
    assert solid.verdict == f"{expected}; inside by crossing parity"
    corners = solid.vertices[solid.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("fi,fi->f", normals, corners.mean(1)) > 0).all()  # outwards in either case


def soup(mesh, noise):
    """Separates all faces: each gets its own corners, moved by `noise`."""
    vertices, faces = (np.asarray(x) for x in mesh)
    corners = vertices[faces.reshape(-1)]
    rng = np.random.default_rng(0)
    return corners + rng.uniform(-noise, noise, corners.shape), np.arange(len(corners)).reshape(
        -1, 3
    )


def test_corners_that_differ_by_rounding_are_merged():
    solid = occupancy_of_mesh(normalize_mesh(*soup(sphere(4), 1e-7)))
    assert solid.method == "parity" and solid.faces.shape == (2048, 3)
    assert solid.verdict == (
        "not watertight: 6144 open edges; after merging corners up to 1e-06 apart watertight; "
        "inside by crossing parity"
    )
    radius = np.linalg.norm(POINTS, axis=1)
    assert differences(solid, radius < 0.5, abs(radius - 0.5) > 5e-3) == 0


@pytest.mark.parametrize("noise, missing", [(1e-4, 0), (1e-7, 1)], ids=["far apart", "a hole"])
def test_meshes_that_welding_cannot_close_stay_unchanged(noise, missing):
    vertices, faces = soup(sphere(3), noise)
    solid = occupancy_of_mesh(normalize_mesh(vertices, faces[missing:]))
    assert solid.method == "winding" and "merging" not in solid.verdict
    assert len(solid.vertices) == 3 * len(solid.faces)


def test_parity_ignores_the_orientation_of_faces():
    vertices, faces = sphere(4)
    flip = np.random.default_rng(1).random(len(faces)) < 0.5
    solid = solid_of(vertices, np.where(flip[:, None], faces.flip(1), faces))
    assert solid.method == "parity" and "overlaps not checked" in solid.verdict
    assert np.array_equal(solid.contains(POINTS), solid_of(vertices, faces).contains(POINTS))


@pytest.mark.parametrize("second", [box(*SECOND), inverted(box(*SECOND))], ids=["same", "inverted"])
def test_overlapping_cubes_are_joined(second):
    solid = solid_of(*join(box(*FIRST), second))
    assert solid.method == "winding" and "overlaps itself" in solid.verdict
    assert ("1 parts oriented inwards, flipped" in solid.verdict) == (
        second[1][0, 0] != box()[1][0, 0]
    )
    assert differences(solid, within(FIRST) | within(SECOND)) == 0


def test_overlapping_round_parts_are_joined():
    """The winding number decides, both in cells that the surface touches and in all others."""
    turn = random_rotation(3)
    vertices, faces = join(sphere(3, 0.3), torus(minor=0.15))
    solid = solid_of(vertices @ turn / np.ptp((vertices @ turn).numpy(), axis=0).max(), faces)
    assert solid.method == "winding"
    assert np.array_equal(solid.contains(POINTS), solid.winding(POINTS) >= 0.5)


def test_a_cavity_is_kept_and_a_nested_solid_filled():
    radius = np.linalg.norm(POINTS, axis=1)
    clear = (abs(radius - 0.5) > 1e-2) & (abs(radius - 0.25) > 1e-2)
    hollow = solid_of(*join(sphere(4), inverted(sphere(4, 0.25))))
    assert hollow.method == "parity" and "turned" not in hollow.verdict
    assert differences(hollow, (radius < 0.5) & (radius > 0.25), clear) == 0
    inside_out = solid_of(*inverted(join(sphere(4), inverted(sphere(4, 0.25)))))
    assert np.array_equal(inside_out.contains(POINTS), hollow.contains(POINTS))
    nested = solid_of(*join(sphere(4), sphere(4, 0.25)))
    assert nested.method == "winding" and "overlaps itself" in nested.verdict
    assert differences(nested, radius < 0.5, clear) == 0


def test_separate_parts_may_have_either_orientation():
    left, right = ([-0.5] * 3, [-0.1] * 3), ([0.1] * 3, [0.5] * 3)
    solid = solid_of(*join(box(*left), inverted(box(*right))))
    assert solid.method == "parity" and differences(solid, within(left) | within(right)) == 0


@pytest.mark.parametrize("turn", [False, True], ids=["outwards", "inwards"])
def test_a_sphere_with_holes_is_solid(turn):
    vertices, faces = inverted(sphere(4)) if turn else sphere(4)
    solid = solid_of(vertices, faces[np.random.default_rng(0).random(len(faces)) > 0.03])
    assert solid.method == "winding" and solid.verdict.startswith("not watertight: ")
    radius = np.linalg.norm(POINTS, axis=1)
    assert differences(solid, radius < 0.5, abs(radius - 0.5) > 0.03) == 0


def test_open_meshes_are_decided_like_their_winding_numbers():
    """Inside, outside and across the holes of loose faces, also outside the unit cube."""
    solid = occupancy_of_mesh(normalize_mesh(*soup(sphere(4), 3e-3)))
    assert solid.method == "winding"
    points = np.concatenate([POINTS, 0.98 * solid.vertices[::5], 1.02 * solid.vertices[::5]])
    assert np.array_equal(solid.contains(points), solid.winding(points) >= 0.5)


@needs_kernels
@pytest.mark.parametrize("step", [0, 41], ids=["one hole", "many holes"])
def test_open_meshes_take_at_most_ten_times_as_long_as_closed_ones(step):
    """Without shared answers they would take more than a hundred times as long."""
    vertices, faces = (np.asarray(part) for part in sphere(6))
    missing = np.arange(0, len(faces), step or len(faces))
    seconds, cells = [], []
    for kept in (faces, np.delete(faces, missing, axis=0)):
        solid = solid_of(vertices, kept)
        start = time.process_time()
        cells.append(int(solid.voxelize(96).sum()))
        seconds.append(time.process_time() - start)
    assert solid.method == "winding" and cells[1] == pytest.approx(cells[0], rel=1e-3)
    assert seconds[1] < 10 * seconds[0]


def test_an_open_box_keeps_its_inside():
    """The lid at z = 0.5 is missing. Most of the box is inside, and nothing outside its walls."""
    solid = solid_of(*[box([-0.5] * 3, [0.5] * 3)[0], box()[1][:-2]])
    assert solid.method == "winding" and "4 open edges" in solid.verdict
    inside, low = solid.contains(POINTS), POINTS[:, 2] < 0.2
    walls = within(([-0.5] * 3, [0.5] * 3))
    assert (inside == walls)[low].all() and not inside[~walls & (POINTS[:, 2] < 0.5)].any()


def test_a_box_with_faces_for_both_sides_is_solid():
    vertices, faces = box([-0.5, -0.5, -0.25], [0.5, 0.5, 0.25])
    both = np.concatenate([faces, faces.flip(1)])
    solid = solid_of(vertices, both)
    assert solid.method == "parity" and "12 duplicate faces; duplicates ignored" in solid.verdict
    assert differences(solid, within(([-0.5, -0.5, -0.25], [0.5, 0.5, 0.25]))) == 0


def sheet(origin, along, across):
    origin, along, across = (np.array(x, float) for x in (origin, along, across))
    return np.array([origin, origin + along, origin + along + across, origin + across])


def test_sheets_become_voxels():
    """A seat, two sides and a back without thickness. Only points near them are inside."""
    sheets = [
        sheet([-0.5, -0.5, 0], [1, 0, 0], [0, 1, 0]),
        sheet([-0.5, -0.5, -0.5], [0, 0, 0.5], [0, 1, 0]),
        sheet([0.5, -0.5, -0.5], [0, 0, 0.5], [0, 1, 0]),
        sheet([-0.5, -0.5, 0], [1, 0, 0], [0, 0, 0.5]),
    ]
    faces = np.concatenate([np.array([[0, 1, 2], [0, 2, 3]]) + 4 * part for part in range(4)])
    for twice in (False, True):
        chosen = np.concatenate([faces, faces[:, ::-1]]) if twice else faces
        solid = solid_of(np.concatenate(sheets), chosen)
        assert solid.method == "voxels" and "% of the surface encloses no volume" in solid.verdict
        x, y, z = POINTS.T
        inside_cube = within(([-0.5] * 3, [0.5] * 3))
        away = np.minimum.reduce([
            abs(z), np.maximum(0.5 - abs(x), z), np.maximum(y + 0.5, -z)
        ])  # fmt: skip
        assert differences(solid, away < 0.01, inside_cube & ((away < 0.005) | (away > 0.02))) == 0
        for resolution in (32, 64):  # cell centers would miss sheets of 1 / 128
            assert solid.voxelize(resolution)[:, :, resolution // 2].all()


@pytest.mark.parametrize("scale, offset", [(1e6, 1e6), (1e-6, 0), (1, 1e6)])
def test_size_and_position_do_not_matter(scale, offset):
    vertices, faces = (np.asarray(x) for x in join(box(*FIRST), box(*SECOND)))
    mesh = normalize_mesh(vertices * scale + offset, faces)
    assert mesh.scale == pytest.approx(scale) and mesh.location == pytest.approx([offset] * 3)
    solid = occupancy_of_mesh(mesh)
    assert solid.method == "winding"
    assert differences(solid, within(FIRST) | within(SECOND)) == 0


@pytest.mark.parametrize("resolution", [8, 16])
def test_boxes_on_the_sides_of_cells_fill_exactly_their_cells(resolution):
    low, high = np.array([-0.5, -0.25, -0.125]), np.array([0.5, 0.25, 0.125])
    voxels = solid_of(*box(low, high)).voxelize(resolution)
    expected = np.zeros((resolution,) * 3, bool)
    first, last = ((x + 0.5) * resolution for x in (low, high))
    expected[tuple(slice(int(i), int(j)) for i, j in zip(first, last, strict=True))] = True
    assert np.array_equal(voxels, expected)


def test_one_triangle_is_a_sheet():
    solid = solid_of([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0]], [[0, 1, 2]])
    assert solid.method == "voxels" and solid.voxelize(32).any()
    assert solid.contains(np.array([[0.25, 0, 0], [-0.25, 0.25, 0]])).tolist() == [True, False]


def test_faces_without_area_are_ignored():
    solid = solid_of([[-0.5, 0, 0], [0.5, 0, 0], [0, 0, 0]], [[0, 1, 2]])
    assert solid.method == "voxels" and "faces without area" in solid.verdict


def test_the_order_of_faces_and_vertices_does_not_matter():
    """Shuffling corners makes orientations random. Overlaps then look like cavities."""
    mesh = join(sphere(3), inverted(sphere(3, 0.2)))
    first, second = solid_of(*mesh), solid_of(*shuffle(mesh, 4))
    assert np.array_equal(first.contains(POINTS), second.contains(POINTS))


@real_meshes
def test_real_meshes_agree_with_winding_numbers():
    points = np.random.default_rng(1).uniform(-0.55, 0.55, (20_000, 3))
    folder = Path(os.environ["OCCVAE_TEST_DATA"]) / "meshes"
    methods = {}
    for path in sorted(folder.iterdir()):
        solid = occupancy_of_mesh(normalize_mesh(*read_mesh(path)))
        methods[path.name] = solid.method
        if solid.method != "voxels":
            assert np.array_equal(solid.contains(points), solid.winding(points) >= 0.5), path.name
    assert {"parity", "winding", "voxels"} == set(methods.values())
