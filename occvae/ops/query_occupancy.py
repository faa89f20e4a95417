"""query_occupancy(): logits of a packed decoder at many points, fused."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from occvae.ops import _extension
from occvae.ops import query_occupancy_reference as query_reference
from occvae.ops.validation import check_tensor

PRECISIONS = ("fp32", "fp16", "bf16")  # in the order of csrc/query_occupancy.h
PANEL = 32  # channels come in multiples of it


@dataclass(frozen=True, eq=False)
class PackedDecoder:
    """A decoder's weights and, for each of B shapes, its affines, as the kernels want them.

    Made by `CbnDecoder.pack`, or by `pack_decoder`. L blocks, C channels padded with zeros.

    Attributes:
        input: (3, C) float32.
        weights, exact_weights: opaque, for `precision` and for fp32.
        affines: (B, 2L + 1, 2, C) float32, scale and shift.
        head: (C + 1,) float32.
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
        return len(self.affines)


def query_occupancy(points: Tensor, packed: PackedDecoder) -> Tensor:
    """Logits of a packed decoder (Occupancy Networks, Mescheder et al. 2019) at points.

    The activations of a tile of points never leave the cache (CPU) or the chip (CUDA). A value of
    the kernels depends on its point, its shape and the weights only, bit for bit: not on the other
    points, their number or order, nor on the number of threads. NaN coordinates give NaN.

    In fp16 and bf16 weights and activations between the layers are rounded to 16 bits; sums, the
    residual stream and the affines are float32. A point whose activations leave the range of fp16
    is computed in fp32. Autocast changes nothing.

    Differentiable with respect to points. The backward pass is PyTorch and of the fp32 function,
    whatever the precision and path; it can be differentiated again, and as the logit is piecewise
    linear the second derivative is 0.

    Args:
        points: (B, N, 3) float32 in world units, B the number of shapes that were packed.
        packed: from `decoder.pack(conditioning)`.

    Returns:
        (B, N) float32.

    Raises:
        TypeError: points are no tensor, or not float32.
        ValueError: their shape or device does not fit `packed`.
    """
    _check_points(points, packed)
    if points.dim() != 3 or points.shape[2] != 3 or len(points) != packed.num_shapes:
        raise ValueError(
            f"points must be (B, N, 3) with B = {packed.num_shapes} packed shapes; "
            f"got {tuple(points.shape)}"
        )
    shapes, count, _ = points.shape
    values = _query(points.reshape(-1, 3), _equal_offsets(shapes, count, points), packed)
    return values.view(points.shape[:2])


def query_shapes(points: Tensor, shape_index: Tensor, packed: PackedDecoder) -> Tensor:
    """The same for points in any order, each with its shape: a field for mise() and extract_mesh().

    Args:
        points: (N, 3) float32.
        shape_index: (N,) integers in [0, B). On a GPU that is not checked: the check would wait.
        packed: from `decoder.pack(conditioning)`.

    Returns:
        (N,) float32.

    Raises:
        TypeError: points are no float32 tensor, or shape_index is none of integers.
        ValueError: their shapes, devices or numbers do not fit `packed` or each other.
    """
    _check_points(points, packed)
    _check_shape_index(shape_index, points, packed)
    if packed.num_shapes == 1:
        return _query(points, _equal_offsets(1, len(points), points), packed)
    shapes, order = shape_index.long().sort(stable=True)
    numbers = torch.arange(packed.num_shapes + 1, device=points.device)
    values = _query(points[order], torch.searchsorted(shapes, numbers), packed)
    return torch.empty_like(values).index_copy(0, order, values)


def pack_decoder(
    input: Tensor,
    weights: Tensor,
    affines: Tensor,
    head: Tensor,
    *,
    precision: str | None = None,
    backend: str = "auto",
) -> PackedDecoder:
    """Rounds, pads and lays out a folded decoder (formula: csrc/query_occupancy.h) for its device.

    Args:
        input: (3, C); weights: (2L, C, C); affines: (B, 2L + 1, 2, C); head: (C + 1,); any floating
            dtype, rounded once to float32, and any C.
        precision: "fp32", "fp16" or "bf16"; None takes fp16 on a GPU with the kernel, else fp32.
            Weights that are not finite in 16 bits are packed for fp32, said by one warning.
        backend: "auto", "native" or "reference".

    Raises:
        ValueError: an unknown precision or backend.
        RuntimeError: backend="native" where there is no kernel.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
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


_CUDA_WIDTHS = (128, 256)  # channels for which there are kernels of 16 bits
_MOST_CUDA_CHANNELS = 1024  # of any kernel: kMostChannels of csrc/cuda/query_kernels.cuh
_warned: set[str] = set()


def _warn_once(message: str) -> None:
    """For what pack_decoder calls; names the caller of `decoder.pack`."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=5)


def _warn_of_width(precision: str, channels: int) -> None:
    widths = " and ".join(map(str, _CUDA_WIDTHS))
    _warn_once(
        f"query_occupancy runs in fp32: {precision} kernels are for widths {widths}, on GPUs of "
        f"compute capability 8.0 or later; this decoder's width is {channels}"
    )


def _has_width(device: torch.device, channels: int, backend: str) -> bool:
    """Whether a kernel of the device is wide enough."""
    if device.type != "cuda" or channels <= _MOST_CUDA_CHANNELS:
        return True
    reason = f"CUDA kernels are for at most {_MOST_CUDA_CHANNELS} channels, this decoder's are"
    if backend == "native":
        raise RuntimeError(f"query_occupancy has no kernel for this decoder: {reason} {channels}")
    _warn_once(f"query_occupancy runs its slow PyTorch reference: {reason} {channels}")
    return False


def _precision_in_range(weights: Tensor, precision: str) -> str:
    """The precision, or fp32 where a weight would become infinite."""
    rounded = query_reference.pack_query_weights(weights, PRECISIONS.index(precision))
    if rounded.isfinite().all():
        return precision
    _warn_once(f"query_occupancy runs in fp32: a weight is beyond the range of {precision}")
    return "fp32"


def _check_points(points: Tensor, packed: PackedDecoder) -> None:
    check_tensor("points", points, (torch.float32,))
    if points.device != packed.head.device:
        raise ValueError(f"points are on {points.device} but the decoder on {packed.head.device}")


def _check_shape_index(shape_index: Tensor, points: Tensor, packed: PackedDecoder) -> None:
    if not isinstance(shape_index, Tensor):
        raise TypeError(f"shape_index must be a torch.Tensor; got {type(shape_index).__name__}")
    dtype, device = shape_index.dtype, shape_index.device
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(f"shape_index must be of integers; got {dtype}")
    if points.dim() != 2 or points.shape[1] != 3 or shape_index.shape != points.shape[:1]:
        raise ValueError(
            "points must be (N, 3) and shape_index (N,); "
            f"got {tuple(points.shape)} and {tuple(shape_index.shape)}"
        )
    if device != points.device:
        raise ValueError(f"shape_index is on {device} but the decoder on {points.device}")
    if device.type != "cpu" or torch.compiler.is_compiling() or len(shape_index) == 0:
        return
    lowest, highest = (int(bound) for bound in shape_index.aminmax())
    if lowest < 0 or highest >= packed.num_shapes:
        raise ValueError(
            f"shape_index must be in [0, {packed.num_shapes}), the packed shapes; "
            f"got {lowest if lowest < 0 else highest}"
        )


def _equal_offsets(shapes: int, count: int, like: Tensor) -> Tensor:
    return torch.arange(shapes + 1, device=like.device) * count


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


def _unpack(weights: Tensor) -> Tensor:
    """fp32 weights as (2L, C, C), from that layout or from panels (2L, C / 32, C, 32)."""
    return weights if weights.dim() == 3 else weights.transpose(2, 3).flatten(1, 2)


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
        chunk = 16384 if kernel == 3 and channels == 256 else 8192
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
        gradient, points, offsets, input, _unpack(exact_weights), affines, head
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
    for name in ("query_occupancy", "_query_reference")  # the second where there is a kernel too
)
for _each in (_op, _reference):  # an op, too, so that the twin's gradient is not rounded with it
    torch.library.register_autograd(_each, _backward, setup_context=_save_inputs)
