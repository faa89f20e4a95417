"""What the fused queries share: checks of points, their order by shape, and warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from occvae.ops.validation import check_tensor

PRECISIONS = ("fp32", "fp16", "bf16")  # in the order of csrc/query_points.h
PANEL = 32  # channels are padded to a multiple of it

# Computes logits (M,) from points (M, 3) in the order of their shapes, and offsets (B + 1,).
Query = Callable[[Tensor, Tensor], Tensor]


def query_batch(points: Tensor, num_shapes: int, device: torch.device, query: Query) -> Tensor:
    """Runs a query at equally many points per shape. Returns logits (B, N).

    Raises:
        TypeError: `points` is not a float32 tensor.
        ValueError: `points` is not (B, N, 3), or on another device.
    """
    _check_points(points, device)
    if points.dim() != 3 or points.shape[2] != 3 or len(points) != num_shapes:
        raise ValueError(
            f"points must be (B, N, 3) with B = {num_shapes} packed shapes; "
            f"got {tuple(points.shape)}"
        )
    shapes, count, _ = points.shape
    values = query(points.reshape(-1, 3), equal_offsets(shapes, count, points))
    return values.view(points.shape[:2])


def query_by_shape(
    points: Tensor,
    shape_index: Tensor,
    num_shapes: int,
    device: torch.device,
    is_sorted: bool,
    query: Query,
) -> Tensor:
    """Runs a query at points that each name their shape. Returns logits (N,).

    Raises:
        TypeError: `points` is not a float32 tensor, or `shape_index` is not an integer tensor.
        ValueError: shapes or devices do not fit, or `shape_index` is out of range, or not in
            ascending order although `is_sorted` is True.
    """
    _check_points(points, device)
    _check_shape_index(shape_index, points, num_shapes, is_sorted)
    if num_shapes == 1:
        return query(points, equal_offsets(1, len(points), points))
    numbers = torch.arange(num_shapes + 1, device=points.device)
    shapes = shape_index.long()
    if is_sorted:
        return query(points, torch.searchsorted(shapes, numbers))
    shapes, order = shapes.sort(stable=True)
    values = query(points[order], torch.searchsorted(shapes, numbers))
    return torch.empty_like(values).index_copy(0, order, values)


def equal_offsets(shapes: int, count: int, like: Tensor) -> Tensor:
    """First rows of `shapes` shapes of `count` points, and the end, (shapes + 1,) int64.

    Made by one operation. It is not kept, because a tensor made while a CUDA graph is captured
    belongs to that graph.
    """
    if count == 0:
        return torch.zeros(shapes + 1, dtype=torch.int64, device=like.device)
    return torch.arange(0, shapes * count + 1, count, device=like.device)


def shape_of_rows(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The shape of each row, and whether it belongs to one. Other rows get the last shape."""
    shape = torch.searchsorted(offsets[1:], rows, right=True)
    return shape.clamp_max(len(offsets) - 2), rows < offsets[-1]


def unpack_panels(weights: Tensor) -> Tensor:
    """Converts packed fp32 weights to (L, C, C), from that layout or (L, C / 32, C, 32)."""
    return weights if weights.dim() == 3 else weights.transpose(2, 3).flatten(1, 2)


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Warns once per process. The stack level is that of the caller of `decoder.pack`."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=5)


def check_precision(precision: str | None) -> None:
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")


def _check_points(points: Tensor, device: torch.device) -> None:
    check_tensor("points", points, (torch.float32,))
    if points.device != device:
        raise ValueError(f"points are on {points.device} but the decoder on {device}")


def _check_shape_index(
    shape_index: Tensor, points: Tensor, num_shapes: int, is_sorted: bool
) -> None:
    if not isinstance(shape_index, Tensor):
        raise TypeError(f"shape_index must be a torch.Tensor; got {type(shape_index).__name__}")
    dtype, device = shape_index.dtype, shape_index.device
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(f"shape_index must have an integer dtype; got {dtype}")
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
    if lowest < 0 or highest >= num_shapes:
        raise ValueError(
            f"shape_index must be in [0, {num_shapes}), the packed shapes; "
            f"got {lowest if lowest < 0 else highest}"
        )
    if is_sorted and bool((shape_index[1:] < shape_index[:-1]).any()):
        raise ValueError("shape_index must be in ascending order; or leave out is_sorted=True")
