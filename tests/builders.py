"""Inputs that tests and benchmarks share."""

import numpy as np
import torch
from torch import Tensor


def random_grids(
    batch: int, shape: tuple[int, ...], *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """A prediction (B, *shape) uniform in [0, 1) and a bool target that it mostly agrees with."""
    generator = torch.Generator().manual_seed(seed)
    pred = torch.rand(batch, *shape, generator=generator)
    noise = torch.rand(batch, *shape, generator=generator)
    return pred.to(dtype), 0.7 * pred + 0.3 * noise > 0.6


def pack_bits(target: Tensor) -> Tensor:
    """(B, ...) bool -> (B, ceil(n / 8)) uint8, by numpy.packbits."""
    rows = target.cpu().numpy().reshape(target.shape[0], -1)
    return torch.from_numpy(np.packbits(rows, axis=1)).to(target.device)
