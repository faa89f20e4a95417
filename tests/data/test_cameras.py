"""Cameras of 3D-R2N2, compared with a step-by-step construction as in Blender."""

import numpy as np
import pytest

from occvae.data.cameras import check_views, choy_extrinsics, unit_cube_extrinsics
from occvae.errors import UserError
from tests.data.formats.scenes import (
    SIZE,
    ball,
    blender_camera,
    centroid,
    choy_intrinsics,
    project,
    render,
)

VIEWS = np.array(
    [[0, 25, 0, 0.7], [90, 30, 0, 0.9], [222.9, 28.6, 0, 0.92], [310, 27, 15, 0.8], [45, 5, -70, 1]]
)


def test_cameras_are_where_blender_puts_them():
    found = choy_extrinsics(*VIEWS.T)
    np.testing.assert_allclose(found, [blender_camera(*view) for view in VIEWS], atol=1e-12)
    position = -np.einsum("vji,vj->vi", found[:, :, :3], found[:, :, 3])
    np.testing.assert_allclose(np.linalg.norm(position, axis=1), 1.75 * VIEWS[:, 3])
    # Azimuth 0 is on the mesh's +x axis and azimuth 90 on its +z axis. y is up.
    assert position[0, 0] > 1 and abs(position[0, 2]) < 1e-9
    assert position[1, 2] > 1 and abs(position[1, 0]) < 1e-9
    assert (position[:, 1] > 0).all()


def test_images_without_roll_show_up_upwards():
    for view in choy_extrinsics(*VIEWS[:3].T):
        bottom, top = project(np.array([[0, 0, 0], [0, 0.2, 0]]), view, choy_intrinsics()).T
        assert top[1] < bottom[1] - 10 and abs(top[0] - bottom[0]) < 1e-6


@pytest.mark.parametrize("point", [(0.4, 0.1, -0.2), (-0.3, 0.35, 0.1), (0.0, -0.4, 0.3)])
def test_points_of_the_unit_cube_project_to_their_pixels(point):
    location, scale = np.array([0.05, -0.02, 0.1]), 0.7
    extrinsics = unit_cube_extrinsics(choy_extrinsics(*VIEWS.T), location, scale)
    original = np.array([blender_camera(*view) for view in VIEWS])
    images = render(ball(point, 0.02), lambda unit: unit * scale + location, original)
    for image, extrinsic in zip(images, extrinsics, strict=True):
        expected = project(np.array([point]), extrinsic, choy_intrinsics())[:, 0]
        np.testing.assert_allclose(centroid(image), expected, atol=0.4)


def test_conversion_keeps_rotations_and_measures_distances_in_edges():
    moved = unit_cube_extrinsics(choy_extrinsics(*VIEWS.T), np.zeros(3), 0.5)
    rotation = moved[:, :, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), [np.eye(3)] * 5, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(moved[:, :, 3], axis=1), 3.5 * VIEWS[:, 3])


def test_cameras_that_miss_the_shape_are_refused():
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (100, 3))
    good = choy_extrinsics(*VIEWS.T)
    matrices = np.array([choy_intrinsics()] * 5)
    sizes = [(SIZE, SIZE)] * 5
    check_views(points, good, matrices, sizes, 0.9)
    behind = good * np.array([[[1], [-1], [-1]]])  # OpenGL's convention
    with pytest.raises(UserError, match="camera 0 shows 0% of the shape"):
        check_views(points, behind, matrices, sizes, 0.5)
    shifted = matrices.copy()
    shifted[3, 0, 2] = 0
    with pytest.raises(UserError, match="camera 3 shows .*% of the shape"):
        check_views(points, good, shifted, sizes, 0.9)
    broken = good.copy()
    broken[2, 1, 1] = np.nan
    with pytest.raises(UserError, match="a value that is not finite"):
        check_views(points, broken, matrices, sizes, 0.5)
