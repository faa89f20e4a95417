"""Builds inputs that tests and benchmarks share."""

import numpy as np
import torch
from torch import Tensor

from occvae.models.decoders import CbnDecoder


def random_grids(
    batch: int, shape: tuple[int, ...], *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Returns a prediction (B, *shape), uniform in [0, 1), and a bool target that mostly agrees."""
    generator = torch.Generator().manual_seed(seed)
    pred = torch.rand(batch, *shape, generator=generator)
    noise = torch.rand(batch, *shape, generator=generator)
    return pred.to(dtype), 0.7 * pred + 0.3 * noise > 0.6


def pack_bits(target: Tensor) -> Tensor:
    """Packs (B, ...) bool into (B, ceil(n / 8)) uint8, as numpy.packbits does."""
    rows = target.cpu().numpy().reshape(target.shape[0], -1)
    return torch.from_numpy(np.packbits(rows, axis=1)).to(target.device)


def random_decoder(
    hidden_size: int, num_blocks: int, *, embedding_size: int = 16, seed: int = 1
) -> CbnDecoder:
    """Returns a decoder in eval mode that resembles a trained one.

    No statistic, norm or weight has its initial value.
    """
    generator = torch.Generator().manual_seed(seed)
    decoder = CbnDecoder(embedding_size, hidden_size, num_blocks).eval()
    for name, value in [*decoder.named_parameters(), *decoder.named_buffers()]:
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            noise = noise.abs() + 0.5
        elif name.endswith("gamma.bias"):
            noise = 1 + 0.2 * noise
        elif name.endswith("linear_1.weight"):  # updates are smaller than the residual stream
            noise = 0.25 * noise / hidden_size**0.5
        elif name.endswith(("gamma.weight", "beta.weight")):
            noise = 0.3 * noise / embedding_size**0.5
        elif name == "linear_in.weight":
            noise = 2 * noise
        elif name.endswith("weight"):
            noise = noise / value.shape[1] ** 0.5
        else:
            noise = 0.2 * noise
        value.data.copy_(noise)
    decoder.linear_out.weight.data *= 4
    return decoder
