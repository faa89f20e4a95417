"""Cameras and images agree with pinhole geometry that is worked out here by hand."""

import sys

import numpy as np
import pytest
import trimesh

from occvae.geometry.voxels_to_mesh import grid_mesh
from occvae.visualize.rendering import (
    DISTANCE,
    ELEVATION_DEGREES,
    intrinsics,
    orbit_extrinsics,
    random_extrinsics,
    render_views,
)

SIZE = 96


@pytest.fixture(autouse=True, params=["embree", "numpy"])
def caster(request, monkeypatch) -> None:
    """Runs every test with Embree, and as where it is not installed."""
    if request.param == "embree":
        pytest.importorskip("embreex")
    else:
        hide_embree(monkeypatch)


def hide_embree(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)


def camera(azimuth: float, elevation: float = 0.0, distance: float = 2.0) -> np.ndarray:
    return orbit_extrinsics([azimuth], [elevation], [distance])[0]


def ball(center=(0.0, 0.0, 0.0), radius: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return mesh.vertices + center, mesh.faces


def join(*meshes) -> tuple[np.ndarray, np.ndarray]:
    joined = trimesh.util.concatenate([trimesh.Trimesh(*mesh, process=False) for mesh in meshes])
    return joined.vertices, joined.faces


def render(mesh, *cameras: np.ndarray, size: int = SIZE) -> np.ndarray:
    return render_views(*mesh, np.stack(cameras), size)


def seen(image: np.ndarray) -> np.ndarray:
    """(H, W) share of each pixel that the object covers."""
    darkness = 255.0 - image.astype(float).mean(axis=-1)
    return darkness / max(darkness.max(), 1e-9)


def project(point: np.ndarray, extrinsic: np.ndarray) -> np.ndarray:
    u, v, w = intrinsics(SIZE) @ (extrinsic @ [*point, 1.0])
    return np.array([u, v]) / w


@pytest.mark.parametrize("azimuth", [0.0, 35.0, 120.0, 250.0])
@pytest.mark.parametrize("point", [(0.4, 0.0, 0.0), (-0.1, 0.35, 0.2), (0.2, -0.3, -0.4)])
def test_points_appear_where_the_matrices_put_them(point, azimuth):
    extrinsic = camera(azimuth, elevation=28.0, distance=1.9)
    share = seen(render(ball(point), extrinsic)[0])
    rows, columns = np.indices(share.shape) + 0.5  # pixel (0, 0) spans 0 to 1
    found = np.array([(columns * share).sum(), (rows * share).sum()]) / share.sum()
    np.testing.assert_allclose(found, project(point, extrinsic), atol=0.35)


@pytest.mark.parametrize(("radius", "distance"), [(0.5, 2.0), (0.3, 1.6)])
def test_a_sphere_has_the_area_of_its_projection(radius, distance):
    image = render(ball(radius=radius), camera(70.0, 30.0, distance))[0]
    # Rays tangent to the sphere make an angle of asin(r / d) with the optical axis.
    edge = 35.0 / 32.0 * SIZE * np.tan(np.arcsin(radius / distance))
    area = (image < 250).any(axis=-1).sum()
    assert area == pytest.approx(np.pi * edge**2, rel=0.05)
    np.testing.assert_array_equal(image[0, 0], 255)


def test_cameras_are_rotations_that_look_at_the_origin_with_y_up():
    cameras = random_extrinsics(np.random.default_rng(0), 200)
    rotation, translation = cameras[:, :, :3], cameras[:, :, 3]
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), [np.eye(3)] * 200, atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)
    np.testing.assert_allclose(translation[:, :2], 0.0, atol=1e-12)
    assert DISTANCE[0] <= translation[:, 2].min() and translation[:, 2].max() <= DISTANCE[1]
    position = -np.einsum("vji,vj->vi", rotation, translation)
    height = np.degrees(np.arcsin(position[:, 1] / np.linalg.norm(position, axis=1)))
    assert ELEVATION_DEGREES[0] <= height.min() and height.max() <= ELEVATION_DEGREES[1]
    for extrinsic in cameras[:5]:
        assert project((0.0, 0.2, 0.0), extrinsic)[1] < SIZE / 2  # rows count downwards


def test_azimuth_zero_sees_the_front():
    wall = trimesh.creation.box((0.9, 0.9, 0.02))
    plain = (wall.vertices, wall.faces)
    knob = join(plain, ball((0.2, 0.1, 0.3), 0.05))
    front, back = camera(0.0), camera(180.0)
    with_knob, without = render(knob, front, back), render(plain, front, back)
    changed = (with_knob[0] != without[0]).any(axis=-1)
    np.testing.assert_array_equal(with_knob[1], without[1])
    rows, columns = np.nonzero(changed)
    assert len(rows) > 20
    # +x points right and +y points up in the image.
    assert columns.mean() > SIZE / 2 and rows.mean() < SIZE / 2


def triangle_soup(count: int, extent: float) -> tuple[np.ndarray, np.ndarray]:
    corners = np.random.default_rng(3).uniform(-extent, extent, (3 * count, 3))
    return corners, np.arange(3 * count).reshape(-1, 3)


@pytest.mark.parametrize(
    ("mesh", "distance"),
    [
        (ball(radius=0.4), 1.8),
        (triangle_soup(300, 0.5), 1.8),
        (triangle_soup(60, 1.0), 0.3),  # the camera is among the triangles
    ],
    ids=["ball", "soup", "inside"],
)
@pytest.mark.parametrize("caster", ["embree"], indirect=True)
def test_the_rasterizer_renders_what_embree_renders(mesh, distance, monkeypatch):
    cameras = [camera(azimuth, 25.0, distance) for azimuth in (0.0, 100.0, 215.0)]
    expected = render(mesh, *cameras).astype(int)
    hide_embree(monkeypatch)
    difference = np.abs(render(mesh, *cameras) - expected).max(axis=-1)
    # A ray through an edge may hit either triangle, because Embree computes in float32.
    assert (difference > 1).mean() < 1e-4 and (expected < 250).mean() > 0.05


def test_many_large_triangles_are_rasterized_in_steps():
    """The pairs of a triangle and a pixel exceed one step, and all triangles are hit."""
    corners = np.array([[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.0, 0.5, 0.0]])
    count = 200
    depths = np.linspace(-0.4, 0.4, count)[:, None, None] * [0.0, 0.0, 1.0]
    stack = (corners + depths).reshape(-1, 3), np.arange(3 * count).reshape(-1, 3)
    nearest = corners + depths[-1], np.arange(3).reshape(1, 3)
    np.testing.assert_array_equal(render(stack, camera(0.0)), render(nearest, camera(0.0)))


def test_an_empty_mesh_is_white():
    nothing = (np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    np.testing.assert_array_equal(render(nothing, camera(0.0), camera(90.0), size=8), 255)


def test_a_surface_is_lit_from_both_sides():
    vertices, faces = ball(radius=0.4)
    outward, inward = (
        render((vertices, order), camera(10.0, 20.0))[0] for order in (faces, faces[:, ::-1])
    )
    np.testing.assert_allclose(outward.astype(int), inward, atol=1)


def test_grid_mesh_surrounds_the_occupied_cells():
    grid = np.zeros((8, 8, 8))
    grid[1, 4, 6] = 1.0
    vertices, faces = grid_mesh(grid, 0.5)
    center = (np.array([1, 4, 6]) + 0.5) / 8 - 0.5
    np.testing.assert_allclose((vertices.min(0) + vertices.max(0)) / 2, center, atol=1e-6)
    np.testing.assert_allclose(np.ptp(vertices, axis=0), 1 / 8, atol=1e-6)
    assert trimesh.Trimesh(vertices, faces).is_watertight
    full, faces = grid_mesh(np.ones((4, 4, 4)), 0.5)  # a full grid touches the border
    np.testing.assert_allclose(np.abs(full).max(), 0.5, atol=1e-6)
    assert trimesh.Trimesh(full, faces).is_watertight
