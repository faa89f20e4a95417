"""inside_mesh(), winding_number() and winding_sign(): where points lie relative to a mesh."""

import torch
from torch import Tensor

from occvae.ops import _extension
from occvae.ops import inside_mesh_reference as reference
from occvae.ops.validation import check_tensor

METHODS = ("parity", "winding")
# Products of three coordinates up to 1e90 stay finite in float64, and products of three
# coordinates from 1e-90 keep all their digits.
GREATEST_COORDINATE = 1e90


def inside_mesh(
    vertices: Tensor,
    faces: Tensor,
    points: Tensor,
    *,
    method: str = "parity",
    backend: str = "auto",
) -> Tensor:
    """Tells for each point whether it is inside a triangle mesh.

    Method "parity" counts how many faces a ray from the point towards +z crosses. The point is
    inside if the number is odd. Every crossing is decided without rounding error, for coordinates
    of any size and faces of any shape. The answer is therefore deterministic and does not depend
    on the order of faces, corners or points. Parity is right wherever each edge has an even number
    of faces, which `occvae.geometry.mesh_checks.check_mesh` tests. It ignores the orientation of
    faces.

    A point on the surface gets the answer of the points next to it in the direction +z. If these
    are on the surface too, the direction +x decides, then +y. A box therefore contains its lower
    faces and not its upper faces, and meshes that tile space contain each point exactly once.

    Method "winding" is for meshes with holes and outward faces. A point is inside if the
    generalized winding number (Jacobson, Kavan and Sorkine-Hornung, SIGGRAPH 2013) is at least
    0.5. The answer is not approximated: see `winding_sign`.

    The result is not differentiable.

    Args:
        vertices: (V, 3) float32 or float64. Must be finite with magnitudes up to 1e90. Magnitudes
            below 1e-90 count as 0.
        faces: (F, 3) int32 or int64 indices into `vertices`. With F = 0 no point is inside.
        points: (N, 3) float32 or float64. Points that are not finite are outside. If vertices or
            points are float64, both are used as float64.
        method: "parity" or "winding".
        backend: "auto", "native" (compiled kernel) or "reference" (PyTorch).

    Returns:
        (N,) bool on the device of the inputs. All inputs must be on one device.

    Raises:
        TypeError: an input is not a tensor, or its dtype is not listed above.
        ValueError: shapes or devices do not fit, an index is out of range, a vertex is not finite
            or too large, or the method or backend is unknown.
        RuntimeError: `backend="native"`, but there is no kernel for the device.

    Example:
        >>> vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        >>> inside_mesh(vertices, faces, torch.tensor([[0.1, 0.1, 0.1], [1, 1, 1]]))
        tensor([ True, False])
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if method == "winding":
        return winding_sign(vertices, faces, points, backend=backend) > 0
    arguments = _check(vertices, faces, points)
    native = _extension.use_native("inside_mesh", points.device, backend)
    return (_inside_mesh if native else reference.inside_mesh)(*arguments)


def winding_number(
    vertices: Tensor, faces: Tensor, points: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Generalized winding number of a mesh at each point.

    It is the sum of the signed solid angles of all faces, seen from the point, divided by 4 pi. For
    a closed mesh with outward faces, which are counter-clockwise seen from outside, it is 1 inside
    and 0 outside. If the mesh has holes, it varies smoothly from point to point and jumps only at
    the surface. A point on the surface gets the value of one side, or a value between those of both
    sides.

    The number is computed without approximation (Jacobson, Kavan and Sorkine-Hornung, SIGGRAPH
    2013). For points outside the bounding box of a group of faces, the CPU kernel replaces the
    group by a fan of triangles over its border, which has the same solid angle. The CUDA kernel
    and the reference implementation sum over all faces for each point. The result is not
    differentiable.

    Args:
        vertices: (V, 3) float32 or float64, as in `inside_mesh`.
        faces: (F, 3) int32 or int64 indices into `vertices`.
        points: (N, 3) float32 or float64.
        backend: "auto", "native" (compiled kernel) or "reference" (PyTorch).

    Returns:
        (N,) float64 on the device of the inputs. NaN for points that are not finite or have a
        coordinate beyond 1e90.

    Raises:
        TypeError: as `inside_mesh`.
        ValueError: as `inside_mesh`.
        RuntimeError: as `inside_mesh`.

    Example:
        >>> vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        >>> winding_number(vertices, faces, torch.tensor([[0.1, 0.1, 0.1], [1, 1, 1]])).round()
        tensor([1., 0.], dtype=torch.float64)
    """
    arguments = _check(vertices, faces, points)
    native = _extension.use_native("winding_number", points.device, backend)
    return (_winding_number if native else reference.winding_number)(*arguments)


def winding_sign(
    vertices: Tensor, faces: Tensor, points: Tensor, *, level: float = 0.5, backend: str = "auto"
) -> Tensor:
    """Compares the generalized winding number at each point with a level, and with -level.

    The result is that of comparing `winding_number`, but the CPU kernel is much faster. If a mesh
    has few border edges, the kernel closes it with triangles over its borders. The winding number
    of the closed mesh is an integer, which exact crossings of a ray give as in `inside_mesh`. Only
    the added triangles then need solid angles. Distant groups of triangles are approximated by a
    series with a bound of the error (Barill et al., SIGGRAPH 2018). Where the bound does not
    decide, the kernel tightens it, and finally computes the number itself. A point on the surface
    may get the result of either side.

    Args:
        vertices: (V, 3) float32 or float64, as in `inside_mesh`.
        faces: (F, 3) int32 or int64 indices into `vertices`.
        points: (N, 3) float32 or float64.
        level: positive winding number.
        backend: "auto", "native" (compiled kernel) or "reference" (PyTorch).

    Returns:
        (N,) int8: 1 where the number is at least `level`, -1 where it is at most -level, otherwise
        0. Points that are not finite have 0.

    Raises:
        TypeError: as `inside_mesh`.
        ValueError: as `inside_mesh`, or the level is not positive.
        RuntimeError: as `inside_mesh`.

    Example:
        >>> vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2]])
        >>> winding_sign(vertices, faces, torch.tensor([[0.1, 0.1, 0.1], [1, 1, 1]]))
        tensor([1, 0], dtype=torch.int8)
    """
    if not level > 0:
        raise ValueError(f"level must be positive; got {level}")
    if backend != "reference" and _extension.has_kernel("winding_sign", points.device.type):
        return _winding_sign(*_check(vertices, faces, points), level)
    return reference.compare(winding_number(vertices, faces, points, backend=backend), level)


def _check(vertices: Tensor, faces: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Checks the inputs and converts them to the dtypes of the kernels."""
    _check_layout(vertices, faces, points)
    if not torch.compiler.is_compiling():  # kernels check again, with shorter messages
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
            f"vertices must be finite and at most {GREATEST_COORDINATE:g} in magnitude; "
            f"{int(usable.logical_not().sum())} of {len(vertices)} are not, first "
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


def _fake_winding_sign(vertices: Tensor, faces: Tensor, points: Tensor, level: float) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.int8)


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
_winding_sign = _extension.declare(
    "winding_sign(Tensor vertices, Tensor faces, Tensor points, float level) -> Tensor",
    reference.winding_sign,
    _fake_winding_sign,
)
