"""Tests of the forms that a field may have: its arguments, tensors or arrays, and its values."""

import functools
import warnings

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import nn

from occvae.geometry.extract_mesh import extract_mesh
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.uniform_field import UniformField
from tests.fields import sphere

POINTS = torch.tensor([[0.0, 0.0, 0.1], [0.3, 0.0, 0.4], [0.0, 0.6, 0.8]])
SHAPES = torch.tensor([0, 1, 2])
LENGTHS = torch.tensor([0.1, 0.5, 1.0])
SMALL = {"resolution": 32, "coarse_resolution": 16}


class OneArgument(nn.Module):
    def forward(self, points):
        return points.norm(dim=1)


class TwoArguments(nn.Module):
    def forward(self, points, shape_index):
        return points.norm(dim=1) * shape_index


class Both:
    def __call__(self, points, shape_index):
        return points.norm(dim=1) * shape_index

    def one(self, points):
        return points.norm(dim=1)


def any_number(function):
    return lambda *arguments: function(*arguments)


def with_default(points, scale=1.0):
    return points.norm(dim=1) * scale


def with_optional_shapes(points, shape_index=None):
    return points.norm(dim=1) * shape_index


def with_keywords(points, *, power=2, **options):
    return (points**power).sum(dim=1).sqrt()


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, (POINTS, SHAPES)[: 1 + isinstance(module, TwoArguments)])


ONE = {
    "lambda": lambda p: p.norm(dim=1),
    "parameter with a default": with_default,
    "keywords": with_keywords,
    "bound method": Both().one,
    "module": OneArgument(),
    "sequential": nn.Sequential(OneArgument(), nn.Identity()),
    "forward": OneArgument().forward,
    "partial": functools.partial(torch.norm, dim=1),
    "any number": any_number(OneArgument()),
    "scripted": scripted(OneArgument()),
    "data parallel": nn.DataParallel(OneArgument()),
}
TWO = {
    "lambda": lambda p, s: p.norm(dim=1) * s,
    "optional shape_index": with_optional_shapes,
    "callable object": Both(),
    "module": TwoArguments(),
    "partial": functools.partial(lambda a, p, s: a * p.norm(dim=1) * s, 1.0),
    "any number": any_number(lambda p, s: p.norm(dim=1) * s),
    "points and any number": lambda p, *rest: p.norm(dim=1) * rest[0],
    "scripted": scripted(TwoArguments()),
    "data parallel": nn.DataParallel(TwoArguments()),
    "third parameter with a default": lambda p, s, scale=1.0: p.norm(dim=1) * s * scale,
}


@pytest.mark.parametrize("name", ONE)
def test_a_field_of_one_argument_gets_the_points(name):
    field = UniformField(ONE[name])
    for _ in range(2):  # the first call may try several forms
        torch.testing.assert_close(field(POINTS, SHAPES), LENGTHS)


@pytest.mark.parametrize("name", TWO)
def test_a_field_of_two_arguments_gets_the_shapes(name):
    field = UniformField(TWO[name])
    for _ in range(2):
        torch.testing.assert_close(field(POINTS, SHAPES), LENGTHS * SHAPES)


@pytest.mark.parametrize(
    ("field", "parameters"),
    [(lambda: 0, ""), (lambda a, b, c: 0, "a, b, c"), (lambda *, points: 0, "points")],
)
def test_other_signatures_are_refused_before_the_first_call(field, parameters):
    message = rf"one argument, points, or two, .* its parameters are \(.*{parameters}\)$"
    with pytest.raises(TypeError, match=message):
        mise(field, **SMALL)


NUMPY = {
    "norm": lambda p: np.linalg.norm(p, axis=-1) - 0.4,
    "sum with axis": lambda p: np.sqrt(np.sum(p**2, axis=1)) - 0.4,
    "astype": lambda p: np.linalg.norm(p.astype(np.float64), axis=1, keepdims=True) - 0.4,
    "array minus points": lambda p: np.linalg.norm(np.zeros(3) - p, axis=1) - 0.4,
    "half precision": lambda p: (np.linalg.norm(p, axis=1) - 0.4).astype(np.float16),
    "big-endian": lambda p: (np.linalg.norm(p, axis=1) - 0.4).astype(">f4"),
    "reversed": lambda p: np.linalg.norm(p[::-1, ::-1], axis=1)[::-1] - 0.4,
    "two arguments": lambda p, s: np.linalg.norm(p.copy(), axis=1) - 0.4 + 0 * s,
    "in place": lambda p: np.linalg.norm(np.subtract(p, 0.0, out=p), axis=1) - 0.4,
}


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("grad", [torch.enable_grad, torch.inference_mode])
def test_numpy_fields_give_the_mesh_of_their_tensor_form(name, grad):
    options = {**SMALL, "refine_vertices": 2, "normals": True}
    with grad():
        (mesh,) = extract_mesh(NUMPY[name], inside="negative", **options)
    (expected,) = extract_mesh(sphere(0.4), **options)
    assert len(mesh.vertices) == len(expected.vertices)
    tolerance = 1e-3 if name == "half precision" else 1e-5
    np.testing.assert_allclose(mesh.vertices, expected.vertices, atol=tolerance)
    if name != "half precision":
        cosines = (mesh.vertex_normals * expected.vertex_normals).sum(axis=1)
        assert cosines.min() > 0.999


def test_interpolators_of_scipy_are_fields():
    axis = np.linspace(-1, 1, 17)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    (mesh,) = extract_mesh(
        RegularGridInterpolator((axis, axis, axis), 0.8 - abs(x) - abs(y) - abs(z)),
        bounds=(-1, 1),
        **SMALL,
    )
    assert mesh.volume == pytest.approx(4 / 3 * 0.8**3, rel=0.01)


def test_a_field_gets_what_its_first_call_accepted():
    kinds = []

    def field(points):
        kinds.append(type(points))
        return np.linalg.norm(points, axis=1) - 0.4  # accepts both

    extract_mesh(field, **SMALL)
    assert set(kinds) == {torch.Tensor}
    kinds.clear()

    def arrays_only(points):
        kinds.append(type(points))
        return np.linalg.norm(points.astype(float), axis=1) - 0.4

    grid = mise(arrays_only, **SMALL)
    assert kinds == [torch.Tensor] + [np.ndarray] * len(grid.rounds)


def test_a_network_may_return_arrays():
    network = nn.Sequential(OneArgument())
    (mesh,) = extract_mesh(lambda p: (0.4 - network(p)).numpy(), **SMALL, normals=True)
    (expected,) = extract_mesh(sphere(0.4), **SMALL)
    np.testing.assert_array_equal(mesh.vertices, expected.vertices)


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_have_any_floating_dtype_and_one_or_two_axes(dtype, column, backend):
    def field(points, shape_index):
        return (0.4 - points.norm(dim=1, keepdim=column)).to(dtype)

    grid = mise(field, **SMALL, backend=backend)
    assert grid.values.dtype == dtype and grid.values.dim() == 1
    ((vertices, _),) = marching_cubes(grid, field=field, refine_vertices=1, backend=backend)
    assert abs(vertices.norm(dim=1) - 0.4).max() < (2e-3 if dtype.itemsize == 2 else 1e-4)


def test_the_first_error_is_raised_with_a_note_about_arrays():
    def field(points):
        return points.norm(dim=1) + missing.astype  # noqa: F821

    with pytest.raises(NameError):  # not a matter of its arguments: called once
        mise(field, **SMALL)

    def mistaken(points):
        return points.norm(dim=1, keepdims=None, axes=3)

    with pytest.raises(TypeError, match="norm") as caught:
        mise(mistaken, **SMALL)
    assert caught.value.__notes__ == [
        "called with points alone as NumPy arrays: "
        "AttributeError: 'numpy.ndarray' object has no attribute 'norm'"
    ]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros(125, int), "field must return float16, float32 or float64; got int64"),
        (np.zeros(125, complex), "float16, float32 or float64; got complex128"),
        (np.zeros((125, 2)), r"shape \(125,\) or \(125, 1\); got \(125, 2\)"),
        (np.float64(1.0), "a tensor or a NumPy array; got float64"),
    ],
)
def test_unusable_arrays_are_refused(returned, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        mise(lambda points: returned, resolution=4, coarse_resolution=4)
    assert not hasattr(caught.value, "__notes__")


def test_a_field_that_changes_shape_index_is_told(backend):
    def field(points, shape_index):
        shape_index += 1
        return sphere()(points, shape_index)

    message = r"field must not change shape_index in place; change a clone\(\) of it"
    with pytest.raises(ValueError, match=message):
        mise(field, **SMALL, num_shapes=2, backend=backend)


@pytest.mark.parametrize("arrays", [False, True])
def test_shapes_stay_those_of_the_grid(arrays, backend):
    """In inference mode and through NumPy, where PyTorch counts no changes, fields get copies."""

    def field(points, shape_index):
        if arrays:
            points = torch.from_numpy(points.astype(np.float32))
            shape_index += 5
        else:
            shape_index.add_(5)
        return 0.4 - points.norm(dim=1)

    with torch.inference_mode():
        grid = mise(field, **SMALL, num_shapes=2, backend=backend)
    assert grid.shape_index.unique().tolist() == [0, 1]


@pytest.mark.parametrize("way", ["autograd", "differences"])
def test_a_field_may_change_its_points(way):
    def field(points):
        points = points - 0.05 if points.requires_grad else points.sub_(0.05)
        values = 0.35 - points.norm(dim=1)
        return values if way == "autograd" else values.detach()

    (mesh,) = extract_mesh(field, **SMALL, normals=True, refine_vertices=3)
    offsets = mesh.vertices - 0.05
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), 0.35, atol=1e-5)
    assert (mesh.vertex_normals * offsets / 0.35).sum(axis=1).min() > 0.999


@pytest.mark.needs_cuda
def test_numpy_fields_work_on_a_gpu():
    (mesh,) = extract_mesh(NUMPY["norm"], inside="negative", **SMALL, device="cuda", normals=True)
    (expected,) = extract_mesh(sphere(0.4), **SMALL)
    np.testing.assert_allclose(mesh.vertices, expected.vertices, atol=1e-5)
