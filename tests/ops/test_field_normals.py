"""Tests of normals from the field's gradient against those known from geometry."""

import warnings

import numpy as np
import pytest
import torch
import trimesh

from occvae.geometry.extract_mesh import extract_mesh
from occvae.ops.mise import mise
from tests.fields import sphere, torus

CENTER = (0.03, -0.02, 0.05)
SMALL = {"resolution": 64, "coarse_resolution": 16, "normals": True}


def sphere_normals(vertices):
    offsets = np.asarray(vertices) - CENTER
    return offsets / np.linalg.norm(offsets, axis=1, keepdims=True)


def torus_normals(vertices, major=0.3):
    """Directions from the nearest point of the torus' center line."""
    offsets = np.asarray(vertices) - (0.003, -0.011, 0.007)
    ring = offsets * (1, 1, 0)
    ring *= major / np.linalg.norm(ring, axis=1, keepdims=True)
    return (offsets - ring) / np.linalg.norm(offsets - ring, axis=1, keepdims=True)


def angles(ours, theirs):
    """Angles in radians, from sines, because cosines are inaccurate for small angles."""
    assert ours.shape == theirs.shape
    assert ((ours * theirs).sum(1) > 0).all()
    return np.arcsin(np.linalg.norm(np.cross(ours, theirs), axis=1).clip(0, 1))


def through_numpy(field):
    """The same values through NumPy: .numpy() fails on tensors with gradients."""
    return lambda points, shape: field(torch.from_numpy(points.numpy().copy()), shape)


def without_derivative(field):
    """The same values from an op without a derivative, which PyTorch only warns about."""
    library = torch.library.Library("occvae_test_normals", "FRAGMENT")
    library.define("values(Tensor points, Tensor shape) -> Tensor")
    library.impl("values", lambda points, shape: field(points.detach(), shape), "CPU")
    call = torch.ops.occvae_test_normals.values
    return lambda points, shape, library=library: call(points, shape)


WAYS = {
    "autograd": (lambda field: field, 1e-5),
    "detached": (lambda field: lambda points, shape: field(points, shape).detach(), 6e-3),
    "NumPy": (through_numpy, 6e-3),
    "op without derivative": (without_derivative, 6e-3),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("field", "expected"),
    [(sphere(0.35, CENTER), sphere_normals), (torus(), torus_normals)],
    ids=["sphere", "torus"],
)
def test_normals_of_known_surfaces_are_accurate(field, expected, way):
    wrap, bound = WAYS[way]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (mesh,) = extract_mesh(wrap(field), **SMALL)
    normals = mesh.vertex_normals
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-7)
    errors = angles(normals, expected(mesh.vertices))
    # Differences over half a cell err by about (half a cell / radius)^2 / 2, here 3e-3 at most.
    assert errors.max() < bound
    plain = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals
    assert errors.max() < angles(plain, expected(mesh.vertices)).max() / 5


def test_no_normals_are_set_unless_requested():
    (mesh,) = extract_mesh(sphere(), resolution=32)
    assert "vertex_normals" not in mesh._cache


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_size_of_the_gradient_does_not_matter(scale):
    field = sphere(0.35, CENTER)
    (mesh,) = extract_mesh(lambda points, shape: scale * field(points, shape), **SMALL)
    assert angles(mesh.vertex_normals, sphere_normals(mesh.vertices)).max() < 1e-5


@pytest.mark.parametrize("way", ["autograd", "detached"])
def test_shapes_share_calls_of_bounded_size(way):
    radii = torch.tensor([0.2, -1.0, 0.4])
    calls, rounds = [], []

    def field(points, shape_index):
        if points.requires_grad:
            assert len(points) <= 8192
        calls.append((len(points), shape_index.unique().tolist()))
        return radii[shape_index] - (points - torch.tensor(CENTER)).norm(dim=1)

    meshes = extract_mesh(
        WAYS[way][0](field),
        **SMALL,
        num_shapes=3,
        max_points_per_call=5000,
        refine_vertices=1,
        progress=lambda *state: rounds.append(state),
    )
    assert meshes[1].is_empty
    for mesh in (meshes[0], meshes[2]):
        assert angles(mesh.vertex_normals, sphere_normals(mesh.vertices)).max() < WAYS[way][1]
    assert max(size for size, _ in calls) == 5000
    vertices = sum(len(mesh.vertices) for mesh in meshes)
    last = [state for state in rounds if state[0] == rounds[-1][0]]
    refined = [state for state in rounds if state[0] == rounds[-1][0] - 1]
    assert last[-1][1:] == refined[-1][1:] == (vertices, vertices)
    assert any(shapes == [0, 2] for _, shapes in calls[-6 * len(last) :])


@pytest.mark.parametrize(
    "values",
    [
        lambda height: torch.where(height >= 0, torch.inf, -torch.inf),
        lambda height: height.sign(),  # its gradient is 0
        lambda height: height + height.abs().sqrt() * 0 / 0 if height.requires_grad else height,
    ],
    ids=["infinite", "zero gradient", "NaN gradient"],
)
def test_vertices_without_a_gradient_keep_the_normals_of_the_mesh(values):
    field = sphere(0.35, CENTER)
    (mesh,) = extract_mesh(lambda points, shape: values(field(points, shape)), **SMALL)
    plain = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals
    np.testing.assert_array_equal(mesh.vertex_normals, plain)


def test_only_vertices_without_a_gradient_keep_mesh_normals():
    field = sphere(0.35, CENTER)

    def half_infinite(points, shape_index):
        height = field(points, shape_index)
        infinite = torch.where(height >= 0, torch.inf, -torch.inf)
        return torch.where(points[:, 0] > 0, infinite, height).detach()

    (mesh,) = extract_mesh(half_infinite, **SMALL)
    plain = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals
    x = mesh.vertices[:, 0]
    np.testing.assert_array_equal(mesh.vertex_normals[x > 0.01], plain[x > 0.01])
    exact = sphere_normals(mesh.vertices)[x < -0.01]
    assert angles(mesh.vertex_normals[x < -0.01], exact).max() < 6e-3


@pytest.mark.parametrize("bounds", [(-0.55, 0.55), (1.0, 4.0), (-0.1, 0.6)])
@pytest.mark.parametrize("detach", [False, True])
def test_caps_have_the_normals_of_the_bounds(bounds, detach):
    lower, upper = bounds
    direction = torch.tensor([1.0, 2.0, -2.0]) / 3
    middle = (lower + upper) / 2

    def field(points, shape_index):
        assert points.min() >= lower - 1e-6 and points.max() <= upper + 1e-6
        height = -((points - middle) @ direction)
        return height.detach() if detach else height

    (mesh,) = extract_mesh(field, **SMALL, bounds=bounds)
    beyond = np.where(mesh.vertices > upper + 1e-7, 1.0, 0) - (mesh.vertices < lower - 1e-7)
    caps = beyond.any(axis=1)
    assert 0.5 < caps.mean() < 0.95
    np.testing.assert_array_equal(mesh.vertex_normals[caps], beyond[caps])
    assert (np.abs(beyond[caps]).sum(axis=1) == 1).all()
    exact = np.broadcast_to(direction.numpy(), mesh.vertices[~caps].shape)
    np.testing.assert_allclose(mesh.vertex_normals[~caps], exact, atol=1e-3)


def test_a_network_keeps_no_gradients_in_any_grad_mode():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(3, 32), torch.nn.Softplus(20), torch.nn.Linear(32, 1)
    )

    def field(points, shape_index):
        return 0.35 - points.norm(dim=1) + 0.02 * layers(points)[:, 0]

    expected = None
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            (mesh,) = extract_mesh(field, **SMALL)
        expected = mesh.vertex_normals if expected is None else expected
        assert angles(mesh.vertex_normals, expected).max() < 6e-3
    assert all(parameter.grad is None for parameter in layers.parameters())


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, KeyError])
def test_errors_of_a_field_with_gradients_are_raised(error):
    def field(points, shape_index):
        if points.requires_grad:
            raise error("out of luck")
        return sphere()(points, shape_index)

    with pytest.raises(error, match="out of luck"):
        extract_mesh(field, **SMALL)


def test_errors_of_a_field_without_gradients_are_raised():
    rounds = mise(sphere(), resolution=64, coarse_resolution=16).rounds
    calls = []

    def field(points, shape_index):
        calls.append(points.requires_grad)
        if len(calls) > len(rounds) + 1:  # after the extraction and the attempt with gradients
            raise RuntimeError("out of luck")
        return sphere()(points, shape_index).detach()

    with pytest.raises(RuntimeError, match="out of luck"):
        extract_mesh(field, **SMALL)
    assert calls == [False] * len(rounds) + [True, False]


def test_differences_allow_a_field_that_reuses_its_memory():
    field, buffer = sphere(0.35, CENTER), torch.empty(300_000, dtype=torch.float64)

    def reusing(points, shape_index):
        values = field(points.detach(), shape_index)
        return buffer[: len(points)].copy_(values)

    (mesh,) = extract_mesh(reusing, **SMALL)
    assert angles(mesh.vertex_normals, sphere_normals(mesh.vertices)).max() < 6e-3


@pytest.mark.parametrize("suffix", ["glb", "ply", "obj"])
def test_exported_files_keep_the_normals(tmp_path, suffix):
    (mesh,) = extract_mesh(sphere(0.35, CENTER), **SMALL)
    mesh.vertex_normals = mesh.vertex_normals[:, [1, 2, 0]]  # not the normals that trimesh computes
    mesh.export(tmp_path / f"ball.{suffix}")
    loaded = trimesh.load(tmp_path / f"ball.{suffix}", process=False)
    if isinstance(loaded, trimesh.Scene):
        (loaded,) = loaded.geometry.values()
    np.testing.assert_allclose(loaded.vertex_normals, mesh.vertex_normals, atol=1e-6)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("way", ["autograd", "detached"])
def test_normals_are_accurate_on_a_gpu(way):
    (mesh,) = extract_mesh(WAYS[way][0](sphere(0.35, CENTER)), **SMALL, device="cuda")
    assert angles(mesh.vertex_normals, sphere_normals(mesh.vertices)).max() < WAYS[way][1]
