"""Reference implementation of voxel_iou in PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def voxel_iou_counts(
    pred: Tensor, target: Tensor, thresholds: Sequence[float], packed: bool = False
) -> Tensor:
    """Reference implementation of `occvae::voxel_iou_counts`; see `occvae.ops.voxel_iou`."""
    pred = pred.flatten(1)  # (B, n)
    target = _unpack_bits(target, pred.shape[1]) if packed else target.flatten(1) >= 0.5
    counts = pred.new_empty((pred.shape[0], len(thresholds), 2), dtype=torch.int64)
    levels = torch.tensor(thresholds, dtype=pred.dtype, device=pred.device)
    for k, level in enumerate(levels):
        hits = pred >= level
        counts[:, k, 0] = (hits & target).sum(1)
        counts[:, k, 1] = (hits | target).sum(1)
    return counts


def _unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Unpacks (B, ceil(count / 8)) bytes of numpy.packbits to (B, count) bool."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = (packed[..., None] >> shifts) & 1
    return bits.flatten(1)[:, :count].bool()
