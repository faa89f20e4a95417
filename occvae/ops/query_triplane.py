"""query_triplane(): evaluates packed triplane decoders at many points in one fused kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from occvae.ops import _extension
from occvae.ops import query_triplane_reference as triplane_reference
from occvae.ops.query_points import (
    PANEL,
    check_precision,
    query_batch,
    query_by_shape,
    unpack_panels,
    warn_once,
)
from occvae.ops.validation import check_is_tensor

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class PackedTriplane:
    """Feature planes of B shapes and the layers of their decoder, laid out for the kernels.

    Made by `pack_triplane`. C is the number of channels, padded with zeros to a multiple of 32.

    Attributes:
        planes: (B, 3, R, R, C), rounded to the dtype of `precision`.
        weights: rounded to `precision`, in a layout that only the kernels know.
        exact_planes: as `planes`, in float32.
        exact_weights: as `weights`, in float32.
        biases: (L, C) float32.
        head: (C + 1,) float32, weights and bias of the last layer.
        precision: "fp32", "fp16" or "bf16".
        path: "native" (kernel) or "reference" (PyTorch).
    """

    planes: Tensor
    weights: Tensor
    exact_planes: Tensor
    exact_weights: Tensor
    biases: Tensor
    head: Tensor
    precision: str
    path: str

    @property
    def num_shapes(self) -> int:
        """B, the number of packed shapes."""
        return len(self.planes)


def query_triplane(points: Tensor, packed: PackedTriplane) -> Tensor:
    """Evaluates the logits of triplane decoders at points of each shape, in one fused kernel.

    A triplane holds features on three planes through the padded cube [-0.55, 0.55]^3 (Chan et al.,
    CVPR 2022). A point reads a bilinear sample of each plane, and a small MLP turns their sum into
    a logit. `pack_triplane` states the formula. Points outside the cube have the logit of the
    nearest point of the cube. NaN coordinates give NaN.

    A logit of the kernels depends bit for bit on its point, its shape and the weights only. Other
    points, their number and order, and the number of threads have no effect.

    In fp16 and bf16, planes, weights and the input of each layer are rounded to 16 bits. Bilinear
    weights, sums, biases and the head stay float32. A point whose activations leave the range of
    fp16 is computed in fp32. Autocast has no effect.

    The logits are differentiable with respect to `points`, also twice. The backward pass runs in
    PyTorch and differentiates the fp32 function, for every precision and path. The gradient is 0
    outside the cube.

    Args:
        points: (B, N, 3) float32 in world units, B the number of packed shapes.
        packed: from `pack_triplane`.

    Returns:
        Logits (B, N) float32, on the device of the inputs.

    Raises:
        TypeError: `points` is not a float32 tensor.
        ValueError: the shape or device of `points` does not fit `packed`.

    Example:
        >>> packed = pack_triplane(  # two shapes, 8^2 nodes per plane, one layer
        ...     planes=torch.randn(2, 3, 8, 8, 32),
        ...     weights=torch.randn(1, 32, 32),
        ...     biases=torch.randn(1, 32),
        ...     head=torch.randn(33),
        ... )
        >>> query_triplane(torch.zeros(2, 5, 3), packed).shape
        torch.Size([2, 5])
    """
    query = partial(_query, packed=packed)
    return query_batch(points, packed.num_shapes, packed.head.device, query)


def query_triplane_shapes(
    points: Tensor, shape_index: Tensor, packed: PackedTriplane, *, is_sorted: bool = False
) -> Tensor:
    """Evaluates the logits of triplane decoders at points that each name their shape.

    This is the form of a field for `mise` and `extract_mesh`. Precision, determinism and gradients
    are those of `query_triplane`.

    Args:
        points: (N, 3) float32 in world units.
        shape_index: (N,) integers in [0, B), in any order. The range is checked on the CPU only,
            because the check would wait for a GPU.
        packed: from `pack_triplane`.
        is_sorted: whether `shape_index` is in ascending order, as in all calls by `mise` and
            `extract_mesh`. Points are then not sorted again. Checked on the CPU only.

    Returns:
        Logits (N,) float32, on the device of the inputs.

    Raises:
        TypeError: `points` is not a float32 tensor, or `shape_index` is not an integer tensor.
        ValueError: shapes or devices do not fit, or `shape_index` is out of range, or not in
            ascending order although `is_sorted` is True.
    """
    query = partial(_query, packed=packed)
    device = packed.head.device
    return query_by_shape(points, shape_index, packed.num_shapes, device, is_sorted, query)


def pack_triplane(
    planes: Tensor,
    weights: Tensor,
    biases: Tensor,
    head: Tensor,
    *,
    precision: str | None = None,
    backend: str = "auto",
) -> PackedTriplane:
    """Rounds, pads and lays out planes and layers for the kernels of their device.

    For a point p of shape b, with x, y and z the lattice coordinates of p, the logit is::

        x, y, z = (p.clamp(-0.55, 0.55) + 0.55) / 1.1 * (R - 1)
        h = relu(
            bilinear(planes[b, 0], x, y)
            + bilinear(planes[b, 1], x, z)
            + bilinear(planes[b, 2], y, z)
        )
        for i in range(L):
            h = relu(weights[i] @ h + biases[i])
        logit = head[:C] @ h + head[C]

    Everything linear before the first ReLU can be folded into the planes: the first layer of the
    MLP, the concatenation of the three samples, and the coordinates of the point, which bilinear
    interpolation reproduces exactly.

    All tensors may have any floating dtype and are rounded once to float32. C may be any number:
    channels are padded with zeros. Gradients do not flow back to these tensors.

    Args:
        planes: (B, 3, R, R, C) with R >= 2. Plane 0 is indexed [x, y], plane 1 [x, z] and plane 2
            [y, z]. The first and last node of an axis are at -0.55 and 0.55.
        weights: (L, C, C) of L >= 0 layers, indexed [layer, out, in].
        biases: (L, C).
        head: (C + 1,), weights and bias of the last layer.
        precision: "fp32", "fp16" or "bf16". None takes fp16 on a GPU with kernels, otherwise fp32.
            Planes or weights that are not finite in 16 bits are packed for fp32, with one warning.
        backend: "auto", "native" (compiled kernels) or "reference" (PyTorch).

    Returns:
        The packed decoder for `query_triplane` and `query_triplane_shapes`, on the device of
        `planes`.

    Raises:
        TypeError: an argument is not a floating tensor.
        ValueError: the precision or backend is unknown, or shapes or devices do not fit.
        RuntimeError: `backend="native"`, but there is no kernel for the device or the width.
    """
    check_precision(precision)
    _check_parts(planes=planes, weights=weights, biases=biases, head=head)
    device, padding = planes.device, -planes.shape[-1] % PANEL
    native = _extension.use_native("query_triplane", device, backend)
    native = native and _has_width(device, planes.shape[-1] + padding, backend)
    with torch.no_grad():
        exact = F.pad(planes.detach().float(), (0, padding)).contiguous()
        weights = F.pad(weights.detach().float(), (0, padding, 0, padding)).contiguous()
        biases = F.pad(biases.detach().float(), (0, padding)).contiguous()
        head = head.detach().float()
        head = torch.cat([F.pad(head[:-1], (0, padding)), head[-1:]])
        if precision is None:
            precision = "fp16" if native and device.type == "cuda" else "fp32"
        dtype = _DTYPES[precision]
        rounded_planes, rounded = exact.to(dtype), weights.to(dtype)
        if precision != "fp32" and not _are_finite(rounded_planes, rounded):
            warn_once(
                f"query_triplane runs in fp32: a plane or weight is beyond the range of {precision}"
            )
            precision, rounded_planes, rounded = "fp32", exact, weights
        exact_weights = _panels(weights) if native else weights
        if precision == "fp32":
            packed_weights = exact_weights
        else:
            packed_weights = _pairs(rounded) if native else rounded.float()
    path = "native" if native else "reference"
    return PackedTriplane(
        rounded_planes, packed_weights, exact, exact_weights, biases, head, precision, path
    )


_MOST_CUDA_CHANNELS = 128  # kMostTriplaneChannels of csrc/query_triplane.h


def _has_width(device: torch.device, channels: int, backend: str) -> bool:
    """Whether a kernel of the device supports this many channels. If not, it warns once.

    Raises:
        RuntimeError: no kernel supports them, and `backend` is "native".
    """
    if device.type != "cuda" or channels <= _MOST_CUDA_CHANNELS:
        return True
    reason = f"CUDA kernels take at most {_MOST_CUDA_CHANNELS} channels, this decoder has"
    if backend == "native":
        raise RuntimeError(f"query_triplane has no kernel for this decoder: {reason} {channels}")
    warn_once(f"query_triplane runs its slow PyTorch reference: {reason} {channels}")
    return False


def _check_parts(**parts: Tensor) -> None:
    for name, part in parts.items():
        check_is_tensor(name, part)
        if not part.dtype.is_floating_point:
            raise TypeError(f"{name} must have a floating dtype; got {part.dtype}")
        if part.device != parts["planes"].device:
            raise ValueError(f"{name} is on {part.device} but planes on {parts['planes'].device}")
    shape = parts["planes"].shape
    if len(shape) != 5 or shape[1] != 3 or shape[2] != shape[3] or shape[2] < 2 or 0 in shape:
        raise ValueError(f"planes must be (B, 3, R, R, C) with R >= 2; got {tuple(shape)}")
    channels, layers = shape[-1], len(parts["weights"])
    wanted = dict(weights=(layers, channels, channels), biases=(layers, channels))
    for name, expected in dict(**wanted, head=(channels + 1,)).items():
        if parts[name].shape != expected:
            raise ValueError(
                f"{name} must be {expected} for {channels} channels and {layers} layers; "
                f"got {tuple(parts[name].shape)}"
            )


def _are_finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _panels(weights: Tensor) -> Tensor:
    """Packs (L, C, C) as panels of 32 output channels, (L, C / 32, C, 32)."""
    layers, channels, _ = weights.shape
    panels = weights.reshape(layers, channels // PANEL, PANEL, channels)
    return panels.transpose(2, 3).contiguous()


def _pairs(weights: Tensor) -> Tensor:
    """Packs (L, C, C) as panels with pairs of input channels, (L, C / 32, C / 2, 32, 2)."""
    layers, channels, _ = weights.shape
    pairs = weights.reshape(layers, channels // PANEL, PANEL, channels // 2, 2)
    return pairs.transpose(2, 3).contiguous()


def _query(points: Tensor, offsets: Tensor, packed: PackedTriplane) -> Tensor:
    run = _op if packed.path == "native" else _reference
    return run(
        points,
        offsets,
        packed.planes,
        packed.weights,
        packed.exact_planes,
        packed.exact_weights,
        packed.biases,
        packed.head,
    )


def _fake(points: Tensor, *others: object) -> Tensor:
    return points.new_empty(len(points))


def _save_inputs(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
    points, offsets, _, _, exact_planes, exact_weights, biases, head = inputs
    ctx.save_for_backward(points, offsets, exact_planes, exact_weights, biases, head)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    points, offsets, exact_planes, exact_weights, biases, head = ctx.saved_tensors
    of_points = triplane_reference.triplane_gradient(
        gradient, points, offsets, exact_planes, unpack_panels(exact_weights), biases, head
    )
    return of_points, None, None, None, None, None, None, None


_SIGNATURE = (
    "(Tensor points, Tensor offsets, Tensor planes, Tensor weights, Tensor exact_planes,"
    " Tensor exact_weights, Tensor biases, Tensor head) -> Tensor"
)
_op, _reference = (
    _extension.declare(name + _SIGNATURE, triplane_reference.query_triplane, _fake)
    for name in ("query_triplane", "_triplane_reference")
)
# The reference is an op of its own, so that it too has the gradient of the fp32 function.
for _each in (_op, _reference):
    torch.library.register_autograd(_each, _backward, setup_context=_save_inputs)
