"""voxel_iou(): intersection over union of occupancy grids at many thresholds in one pass."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occvae.ops import _extension
from occvae.ops import voxel_iou_reference as reference
from occvae.ops.validation import check_tensor

_PRED_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
_TARGET_DTYPES = (torch.bool, torch.uint8, *_INTEGERS, *_PRED_DTYPES)


def voxel_iou(
    pred: Tensor,
    target: Tensor,
    thresholds: float | Sequence[float] = (0.5,),
    empty: float = 1.0,
    *,
    packed: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """Intersection over union of each predicted grid with its target, at every threshold.

    The kernel reads the prediction once for all thresholds. Counts are exact integers, so the
    result is deterministic and does not depend on the number of threads. It is not differentiable.

    Args:
        pred: (B, ...) float32, float16, bfloat16 or float64, probabilities or logits. A voxel is
            occupied if pred >= threshold, with the threshold rounded to pred's dtype. NaN is never
            occupied.
        target: the true grids, in one of these forms:

            - (B, ...) bool, of pred's shape
            - (B, ...) numbers, of pred's shape, occupied if >= 0.5
            - (B, ceil(n / 8)) uint8, the n voxels of each grid in C order, packed by
              `numpy.packbits`: the first voxel is the highest bit, and padding bits are ignored
        thresholds: one number or a sequence of T numbers, finite, in pred's units.
        empty: value for an empty union, that is if neither grid has an occupied voxel.
        packed: whether target holds packed bits. None decides by its shape. Only grids of a single
            voxel with a uint8 target (B, 1) are ambiguous.
        backend: "auto", "native" (compiled kernel) or "reference" (PyTorch).

    Returns:
        (B, T) float64 on pred's device. T is 1 for a single number.

    Raises:
        TypeError: an input is not a tensor, or its dtype is not listed above.
        ValueError: shapes or devices do not fit, a threshold is not finite, or the backend is
            unknown.
        RuntimeError: `backend="native"`, but there is no kernel for the device.

    Example:
        >>> pred, target = torch.tensor([[0.9, 0.6, 0.2]]), torch.tensor([[True, False, False]])
        >>> voxel_iou(pred, target, (0.5, 0.8))
        tensor([[0.5000, 1.0000]], dtype=torch.float64)
    """
    counts = voxel_iou_counts(pred, target, thresholds, packed=packed, backend=backend)
    return iou_from_counts(counts, empty)


def iou_from_counts(counts: Tensor, empty: float = 1.0) -> Tensor:
    """Converts counts of `voxel_iou_counts` to IoU.

    Args:
        counts: (..., 2) integers, sizes of intersection and union.
        empty: value where the union is 0.

    Returns:
        (...) float64.
    """
    intersection, union = counts.double().unbind(-1)
    return torch.where(union > 0, intersection / union, float(empty))


def voxel_iou_counts(
    pred: Tensor,
    target: Tensor,
    thresholds: float | Sequence[float] = (0.5,),
    *,
    packed: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """Sizes of intersection and union of each predicted grid with its target.

    Unlike ratios, counts can be summed over batches and processes. `iou_from_counts` converts them
    to IoU. Arguments and errors are those of `voxel_iou`.

    Returns:
        (B, T, 2) int64 on pred's device, intersection and union.
    """
    levels = _check_thresholds(thresholds)
    _check_tensors(pred, target)
    packed = _resolve_packed(pred, target, packed)
    if target.dtype in _INTEGERS:
        target = target > 0
    native = _extension.use_native("voxel_iou_counts", pred.device, backend)
    count = _op if native else reference.voxel_iou_counts
    return count(pred, target, levels, packed)


def _check_thresholds(thresholds: Any) -> list[float]:
    is_array = isinstance(thresholds, Tensor | np.ndarray)
    if isinstance(thresholds, int | float | np.number) or (is_array and thresholds.ndim == 0):
        thresholds = (thresholds,)
    levels = [float(level) for level in thresholds]
    if not levels or not all(math.isfinite(level) for level in levels):
        raise ValueError(f"thresholds must be one or more finite numbers; got {levels}")
    return levels


def _check_tensors(pred: Tensor, target: Tensor) -> None:
    check_tensor("pred", pred, _PRED_DTYPES)
    check_tensor("target", target, _TARGET_DTYPES)
    if pred.dim() < 2:
        raise ValueError(f"pred must be (B, ...) with two or more axes; got {tuple(pred.shape)}")
    if pred.device != target.device:
        raise ValueError(f"pred is on {pred.device} but target on {target.device}")


def _resolve_packed(pred: Tensor, target: Tensor, packed: bool | None) -> bool:
    voxels = math.prod(pred.shape[1:])
    packed_shape = (pred.shape[0], (voxels + 7) // 8)
    fits_packed = target.dtype == torch.uint8 and target.shape == packed_shape
    fits_plain = target.shape == pred.shape
    if packed is None:
        if fits_packed and fits_plain and voxels == 1:
            raise ValueError(
                f"a uint8 target of shape {tuple(target.shape)} may be packed bits or numbers; "
                "pass packed=True or packed=False"
            )
        packed = fits_packed and not fits_plain
    if packed and not fits_packed:
        raise ValueError(
            f"a packed target must be uint8 of shape {packed_shape}; "
            f"got {target.dtype} of shape {tuple(target.shape)}"
        )
    if not packed and not fits_plain:
        raise ValueError(
            f"target must have pred's shape {tuple(pred.shape)}, or be uint8 of shape "
            f"{packed_shape} for packed bits; got {target.dtype} of shape {tuple(target.shape)}"
        )
    return packed


def _fake(pred: Tensor, target: Tensor, thresholds: list[float], packed: bool = False) -> Tensor:
    return pred.new_empty((pred.shape[0], len(thresholds), 2), dtype=torch.int64)


# Integer outputs carry no gradient, so the op needs no autograd formula.
_op = _extension.declare(
    "voxel_iou_counts(Tensor pred, Tensor target, float[] thresholds, bool packed=False) -> Tensor",
    reference.voxel_iou_counts,
    _fake,
)
