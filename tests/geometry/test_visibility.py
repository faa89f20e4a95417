"""Visible points of shapes for which they are known."""

import numpy as np

from occvae.geometry.visibility import visible_points
from occvae.visualize.rendering import orbit_extrinsics

CAMERA = orbit_extrinsics([40.0], [25.0], [1.8])[0]


def center() -> np.ndarray:
    """Position of the camera."""
    return -CAMERA[:, :3].T @ CAMERA[:, 3]


def ball(radius: float, count: int = 16_384, seed: int = 0) -> np.ndarray:
    directions = np.random.default_rng(seed).normal(size=(count, 3))
    return radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def test_of_a_sphere_the_near_cap_is_seen():
    """A point is seen if the angle of its normal to the ray is below 90 degrees."""
    points = ball(0.5)
    normals = points / 0.5
    rays = center() - points
    cosine = np.einsum("ni,ni->n", normals, rays) / np.linalg.norm(rays, axis=1)
    found = visible_points(points, normals, CAMERA)
    assert not found[cosine < 0].any()
    assert found[cosine > 0.5].all()
    assert found[cosine > 0].mean() > 0.8  # the depth of a cell varies near the silhouette
    np.testing.assert_array_equal(visible_points(points, 7.0 * normals, CAMERA), found)


def test_a_point_behind_another_part_is_hidden():
    front, behind = 0.3 * center() / 1.8, -0.3 * center() / 1.8
    small, large = ball(0.1, 2000), ball(0.2, 12_000, seed=1)
    points = np.concatenate([large + front, small + behind])
    normals = np.concatenate([large, small])
    found = visible_points(points, normals, CAMERA)
    assert found[:12_000].mean() > 0.3
    assert not found[12_000:].any()
    aside = np.concatenate([large + front, small + 0.4 * CAMERA[0, :3]])
    assert visible_points(aside, normals, CAMERA)[12_000:].mean() > 0.3
