"""query_occupancy(): evaluates a packed decoder at many points in one fused kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from occvae.ops import _extension
from occvae.ops import query_occupancy_reference as query_reference
from occvae.ops.query_points import (
    PANEL,
    PRECISIONS,
    check_precision,
    query_batch,
    query_by_shape,
    unpack_panels,
    warn_once,
)


@dataclass(frozen=True, eq=False)
class PackedDecoder:
    """Weights of a decoder of L blocks, laid out for the kernels, conditioned on B shapes.

    Made by `CbnDecoder.pack` or `pack_decoder`. It is a copy: later changes of the decoder have no
    effect on it. C is the number of channels, padded with zeros to a multiple of 32.

    Attributes:
        input: (3, C) float32, weights of the first layer.
        weights: rounded to `precision`, in a layout that only the kernels know.
        exact_weights: as `weights`, in float32.
        affines: (B, 2L + 1, 2, C) float32, scale and shift of each conditional batch norm.
        head: (C + 1,) float32, weights and bias of the last layer.
        precision: "fp32", "fp16" or "bf16".
        path: "native" (kernel) or "reference" (PyTorch).
    """

    input: Tensor
    weights: Tensor
    exact_weights: Tensor
    affines: Tensor
    head: Tensor
    precision: str
    path: str

    @property
    def num_shapes(self) -> int:
        """B, the number of packed shapes."""
        return len(self.affines)


def query_occupancy(points: Tensor, packed: PackedDecoder) -> Tensor:
    """Evaluates the logits of a packed decoder at points of each shape, in one fused kernel.

    The decoder is that of Occupancy Networks (Mescheder et al., CVPR 2019): residual blocks with
    conditional batch norm. The activations of a tile of points never leave the cache (CPU) or the
    chip (CUDA), so memory grows with the number of points only.

    A logit of the kernels depends bit for bit on its point, its shape and the weights only. Other
    points, their number and order, and the number of threads have no effect. NaN coordinates give
    NaN.

    In fp16 and bf16, weights and the activations between layers are rounded to 16 bits. Sums, the
    residual stream and the affines stay float32. A point whose activations leave the range of fp16
    is computed in fp32. Autocast has no effect.

    The logits are differentiable with respect to `points`. The backward pass runs in PyTorch and
    differentiates the fp32 function, for every precision and path. It can be differentiated again.
    That derivative is 0, because the logit is piecewise linear in the point.

    Args:
        points: (B, N, 3) float32 in world units, B the number of packed shapes.
        packed: from `CbnDecoder.pack` or `pack_decoder`.

    Returns:
        Logits (B, N) float32, on the device of the inputs.

    Raises:
        TypeError: `points` is not a float32 tensor.
        ValueError: the shape or device of `points` does not fit `packed`.

    Example:
        >>> from occvae.models.decoders import CbnDecoder
        >>> decoder = CbnDecoder(embedding_size=8, hidden_size=32, num_blocks=1).eval()
        >>> packed = decoder.pack(torch.zeros(2, 8))  # two shapes
        >>> query_occupancy(torch.zeros(2, 5, 3), packed).shape
        torch.Size([2, 5])
    """
    query = partial(_query, packed=packed)
    return query_batch(points, packed.num_shapes, packed.head.device, query)


def query_shapes(
    points: Tensor, shape_index: Tensor, packed: PackedDecoder, *, is_sorted: bool = False
) -> Tensor:
    """Evaluates the logits of a packed decoder at points that each name their shape.

    This is the form of a field for `mise` and `extract_mesh`. Precision, determinism and gradients
    are those of `query_occupancy`.

    Args:
        points: (N, 3) float32 in world units.
        shape_index: (N,) integers in [0, B), in any order. The range is checked on the CPU only,
            because the check would wait for a GPU.
        packed: from `CbnDecoder.pack` or `pack_decoder`.
        is_sorted: whether `shape_index` is in ascending order, as in all calls by `mise` and
            `extract_mesh`. Points are then not sorted again. Checked on the CPU only.

    Returns:
        Logits (N,) float32, on the device of the inputs.

    Raises:
        TypeError: `points` is not a float32 tensor, or `shape_index` is not an integer tensor.
        ValueError: shapes or devices do not fit, or `shape_index` is out of range, or not in
            ascending order although `is_sorted` is True.

    Example:
        >>> import occvae
        >>> from occvae.models.decoders import CbnDecoder
        >>> decoder = CbnDecoder(embedding_size=8, hidden_size=32, num_blocks=1).eval()
        >>> packed = decoder.pack(torch.zeros(2, 8))
        >>> grid = occvae.mise(
        ...     lambda points, shape: query_shapes(points, shape, packed, is_sorted=True),
        ...     resolution=8,
        ...     coarse_resolution=8,
        ...     num_shapes=2,
        ... )
        >>> len(grid.values)  # 9^3 lattice points of each shape
        1458
    """
    query = partial(_query, packed=packed)
    device = packed.head.device
    return query_by_shape(points, shape_index, packed.num_shapes, device, is_sorted, query)


def pack_decoder(
    input: Tensor,
    weights: Tensor,
    affines: Tensor,
    head: Tensor,
    *,
    precision: str | None = None,
    backend: str = "auto",
) -> PackedDecoder:
    """Rounds, pads and lays out the weights of a decoder for the kernels of its device.

    `CbnDecoder.pack` calls it for the package's own decoders. Use it for a decoder of another code
    base, after folding norms and biases into one scale and shift per channel and shape. For a point
    p of shape b, with W = weights and s, t = affines[b, :, 0], affines[b, :, 1], the logit is::

        x = p @ input
        for i in range(L):
            h = relu(s[2 * i] * x + t[2 * i])
            g = relu(s[2 * i + 1] * (W[2 * i] @ h) + t[2 * i + 1])
            x = x + W[2 * i + 1] @ g
        logit = head[:C] @ relu(s[2 * L] * x + t[2 * L]) + head[C]

    All tensors may have any floating dtype and are rounded once to float32. C may be any number:
    channels are padded with zeros.

    Args:
        input: (3, C), weights of the first layer.
        weights: (2L, C, C), two linear layers per block, indexed [layer, out, in].
        affines: (B, 2L + 1, 2, C), scale and shift per shape.
        head: (C + 1,), weights and bias of the last layer.
        precision: "fp32", "fp16" or "bf16". None takes fp16 on a GPU with kernels, otherwise fp32.
            Weights that are not finite in 16 bits are packed for fp32, with one warning. So are
            decoders whose width has no 16-bit kernel on the GPU.
        backend: "auto", "native" (compiled kernels) or "reference" (PyTorch).

    Returns:
        The packed decoder for `query_occupancy` and `query_shapes`, on the device of `weights`.

    Raises:
        ValueError: the precision or backend is unknown.
        RuntimeError: `backend="native"`, but there is no kernel for the device or the width.

    Example:
        >>> packed = pack_decoder(  # one block of 32 channels, two shapes
        ...     input=torch.randn(3, 32),
        ...     weights=torch.randn(2, 32, 32),
        ...     affines=torch.randn(2, 3, 2, 32),
        ...     head=torch.randn(33),
        ... )
        >>> packed.num_shapes, packed.precision
        (2, 'fp32')
    """
    check_precision(precision)
    device = weights.device
    padding = -input.shape[1] % PANEL
    native = _extension.use_native("query_occupancy", device, backend)
    native = native and _has_width(device, input.shape[1] + padding, backend)
    input, affines = (F.pad(part.float(), (0, padding)).contiguous() for part in (input, affines))
    weights = F.pad(weights.float(), (0, padding, 0, padding)).contiguous()
    head = torch.cat([F.pad(head[:-1], (0, padding)), head[-1:]]).float()
    if precision is None:
        precision = "fp16" if native and device.type == "cuda" else "fp32"
    if precision != "fp32":
        precision = _precision_in_range(weights, precision)
    pack = _pack if native else query_reference.pack_query_weights
    exact = pack(weights, 0)
    rounded = exact if precision == "fp32" else pack(weights, PRECISIONS.index(precision))
    if device.type == "cuda" and native and precision != "fp32" and rounded.dtype == torch.float32:
        _warn_of_width(precision, input.shape[1])
        precision, rounded = "fp32", exact
    path = "native" if native else "reference"
    return PackedDecoder(input, rounded, exact, affines, head, precision, path)


_CUDA_WIDTHS = (128, 256)  # numbers of channels with 16-bit kernels
_MOST_CUDA_CHANNELS = 1024  # kMostChannels of csrc/cuda/query_kernels.cuh, the limit of all kernels


def _warn_of_width(precision: str, channels: int) -> None:
    widths = " or ".join(map(str, _CUDA_WIDTHS))
    warn_once(
        f"query_occupancy runs in fp32: {precision} kernels need a width of {widths} and a GPU of "
        f"compute capability 8.0 or later; this decoder's width is {channels}"
    )


def _has_width(device: torch.device, channels: int, backend: str) -> bool:
    """Whether a kernel of the device supports this many channels. If not, it warns once.

    Raises:
        RuntimeError: no kernel supports them, and `backend` is "native".
    """
    if device.type != "cuda" or channels <= _MOST_CUDA_CHANNELS:
        return True
    reason = f"CUDA kernels take at most {_MOST_CUDA_CHANNELS} channels, this decoder has"
    if backend == "native":
        raise RuntimeError(f"query_occupancy has no kernel for this decoder: {reason} {channels}")
    warn_once(f"query_occupancy runs its slow PyTorch reference: {reason} {channels}")
    return False


def _precision_in_range(weights: Tensor, precision: str) -> str:
    """Returns `precision`, or warns and returns fp32 if a weight would become infinite in it."""
    rounded = query_reference.pack_query_weights(weights, PRECISIONS.index(precision))
    if rounded.isfinite().all():
        return precision
    warn_once(f"query_occupancy runs in fp32: a weight is beyond the range of {precision}")
    return "fp32"


def _query(points: Tensor, offsets: Tensor, packed: PackedDecoder) -> Tensor:
    run = _op if packed.path == "native" else _reference
    return run(
        points,
        offsets,
        packed.input,
        packed.weights,
        packed.exact_weights,
        packed.affines,
        packed.head,
        PRECISIONS.index(packed.precision),
    )


def _fake_pack(weights: Tensor, precision: int) -> Tensor:
    device = weights.device.type
    if not _extension.has_kernel("_pack_query_weights", device):
        return torch.empty_like(weights)
    layers, channels, _ = weights.shape
    panels = channels // PANEL
    name = PRECISIONS[precision]
    if device == "cpu" and name == "bf16":
        pairs = (layers, panels, channels // 2, PANEL, 2)
        return weights.new_empty(pairs, dtype=torch.bfloat16)
    if device == "cuda" and name != "fp32" and channels in _CUDA_WIDTHS:
        kernel = torch.ops.occvae._cuda_query_kernel()  # see csrc/cuda/query_kernels.cuh
        chunk = 16384 if kernel >= 3 and channels == 256 else 8192
        size = (layers // 2, 2 * channels * channels // chunk, chunk)
        dtype = torch.float16 if name == "fp16" else torch.bfloat16
        if kernel > 1:
            return weights.new_empty(size, dtype=dtype)
    return weights.new_empty((layers, panels, channels, PANEL))


def _fake(points: Tensor, *others: object) -> Tensor:
    return points.new_empty(len(points))


def _save_inputs(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
    points, offsets, input, _, exact_weights, affines, head, _ = inputs
    ctx.save_for_backward(points, offsets, input, exact_weights, affines, head)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    points, offsets, input, exact_weights, affines, head = ctx.saved_tensors
    of_points = query_reference.query_gradient(
        gradient, points, offsets, input, unpack_panels(exact_weights), affines, head
    )
    return of_points, None, None, None, None, None, None, None


_pack = _extension.declare(
    "_pack_query_weights(Tensor weights, int precision) -> Tensor",
    query_reference.pack_query_weights,
    _fake_pack,
)
_SIGNATURE = (
    "(Tensor points, Tensor offsets, Tensor input, Tensor weights,"
    " Tensor exact_weights, Tensor affines, Tensor head, int precision) -> Tensor"
)
_op, _reference = (
    _extension.declare(name + _SIGNATURE, query_reference.query_occupancy, _fake)
    for name in ("query_occupancy", "_query_reference")
)
# The reference is an op of its own, so that it too has the gradient of the fp32 function.
for _each in (_op, _reference):
    torch.library.register_autograd(_each, _backward, setup_context=_save_inputs)
