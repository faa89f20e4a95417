"""inside_mesh(): which points are inside a triangle mesh; winding_number() of a mesh."""

import torch
from torch import Tensor

from occvae.ops import _extension
from occvae.ops import inside_mesh_reference as reference
from occvae.ops.validation import check_tensor

METHODS = ("parity", "winding")
GREATEST_COORDINATE = 1e90  # products of three, and 1e-90 cubed to its last digit, are float64


def inside_mesh(
    vertices: Tensor,
    faces: Tensor,
    points: Tensor,
    *,
    method: str = "parity",
    backend: str = "auto",
) -> Tensor:
    """Which points are inside a triangle mesh.

    "parity" counts how many faces a ray from the point towards +z crosses; inside is where it is an
    odd number. Every crossing is decided without rounding error, whatever the size of coordinates
    and the shape of faces, and the answer depends on the faces as a set only: not on their order,
    that of their corners or that of points. It is right wherever each edge has an even number of
    faces (`occvae.geometry.mesh_checks.check_mesh` tells); their orientation is of no account.

    A point on the surface has the answer of the points next to it towards +z, among these of those
    towards +x, among these of those towards +y. So the mesh of a box contains its lower faces and
    not its upper ones, and of meshes that fill space without overlap exactly one contains a point.

    "winding" is for meshes with holes, whose faces are oriented outwards as far as they go: the
    generalized winding number (Jacobson, Kavan and Sorkine-Hornung 2013) is at least 0.5. It is not
    approximated. The CPU kernel replaces groups of faces, seen from afar, by their borders; the
    CUDA kernel and the reference add up all faces for each point.

    Args:
        vertices: (V, 3) float32 or float64, finite, of magnitude up to 1e90; magnitudes below 1e-90
            count as 0.
        faces: (F, 3) int32 or int64 indices of vertices; none is allowed, nothing is then inside.
        points: (N, 3) float32 or float64. One that is not finite is outside. Where vertices or
            points are float64 both are calculated with as such.
        method: "parity" or "winding".
        backend: "auto", "native" or "reference".

    Returns:
        (N,) bool, on the device of the inputs. Not differentiable.

    Raises:
        TypeError: a dtype that is not listed.
        ValueError: shapes or devices that do not fit, indices out of range, vertices that are not
            finite or too large.

    Example:
        >>> vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        >>> inside_mesh(vertices, faces, torch.tensor([[0.1, 0.1, 0.1], [1, 1, 1]]))
        tensor([ True, False])
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if method == "winding":
        return winding_number(vertices, faces, points, backend=backend) >= 0.5
    arguments = _check(vertices, faces, points)
    native = _extension.use_native("inside_mesh", points.device, backend)
    return (_inside_mesh if native else reference.inside_mesh)(*arguments)


def winding_number(
    vertices: Tensor, faces: Tensor, points: Tensor, *, backend: str = "auto"
) -> Tensor:
    """How often a mesh winds around each point: the solid angles of its faces over 4 pi.

    1 inside a closed mesh of outward faces (counter-clockwise seen from outside), 0 outside; with
    holes something between, smooth away from the surface. On the surface it is the value of one
    side, or between those of both.

    Arguments and errors are those of `inside_mesh`.

    Returns:
        (N,) float64, NaN for points that are not finite or beyond 1e90. Not differentiable.
    """
    arguments = _check(vertices, faces, points)
    native = _extension.use_native("winding_number", points.device, backend)
    return (_winding_number if native else reference.winding_number)(*arguments)


def _check(vertices: Tensor, faces: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors as the kernels take them."""
    _check_layout(vertices, faces, points)
    if not torch.compiler.is_compiling():  # the kernels check again, in less detail
        _check_values(vertices, faces)
    dtype = torch.promote_types(vertices.dtype, points.dtype)
    return (
        vertices.detach().to(dtype),
        faces.to(torch.int64),
        points.detach().to(dtype),
    )


def _check_layout(vertices: Tensor, faces: Tensor, points: Tensor) -> None:
    floats, integers = (torch.float32, torch.float64), (torch.int32, torch.int64)
    for name, tensor, dtypes in (
        ("vertices", vertices, floats),
        ("faces", faces, integers),
        ("points", points, floats),
    ):
        check_tensor(name, tensor, dtypes)
        if tensor.dim() != 2 or tensor.shape[1] != 3:
            raise ValueError(f"{name} must be (count, 3); got {tuple(tensor.shape)}")
        if tensor.device != points.device:
            raise ValueError(f"{name} is on {tensor.device} but points on {points.device}")


def _check_values(vertices: Tensor, faces: Tensor) -> None:
    usable = (vertices.detach().abs() <= GREATEST_COORDINATE).all(1)
    if not usable.all():
        first = int(usable.logical_not().nonzero()[0])
        raise ValueError(
            f"vertices must be finite, of magnitude up to {GREATEST_COORDINATE:g}; "
            f"{int(usable.logical_not().sum())} of {len(vertices)} are not, the first is "
            f"vertices[{first}] = {vertices[first].tolist()}"
        )
    if len(faces) == 0:
        return
    least, greatest = (int(index) for index in faces.aminmax())
    if least < 0 or greatest >= len(vertices):
        raise ValueError(
            f"faces must have indices from 0 to {len(vertices) - 1}; got {least} to {greatest}"
        )


def _fake(vertices: Tensor, faces: Tensor, points: Tensor) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.bool)


def _fake_winding_number(vertices: Tensor, faces: Tensor, points: Tensor) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.float64)


_inside_mesh = _extension.declare(
    "inside_mesh(Tensor vertices, Tensor faces, Tensor points) -> Tensor",
    reference.inside_mesh,
    _fake,
)
_winding_number = _extension.declare(
    "winding_number(Tensor vertices, Tensor faces, Tensor points) -> Tensor",
    reference.winding_number,
    _fake_winding_number,
)
