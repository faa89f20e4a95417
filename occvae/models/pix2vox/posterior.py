"""Diagonal Gaussians over the latent vector: one for each view, and what they say together."""

from typing import NamedTuple

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """q(z | views) of B objects."""

    mean: Tensor
    """(B, D)"""
    log_variance: Tensor
    """(B, D)"""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(B, D), differentiable in mean and variance (Kingma and Welling 2014)."""
        noise = torch.randn(
            self.mean.shape, device=self.mean.device, dtype=self.mean.dtype, generator=generator
        )
        return self.mean + (0.5 * self.log_variance).exp() * noise


def mean_of_views(means: Tensor, log_variances: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log variances (M, D) averaged over the views of each item: (B, D) twice.

    Averaging features before linear layers is the same: what Pix2Vox-VAE does.
    """
    count = mask.sum(dim=1, keepdim=True)
    return _sum(means, mask) / count, _sum(log_variances, mask) / count


def product_of_experts(means: Tensor, log_variances: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The product of the views' Gaussians (M, D) and of the prior N(0, 1): (B, D) twice.

    Precisions add up, so that every further view makes the posterior narrower and a view that is
    not sure of a dimension leaves it to others (Wu and Goodman 2018).
    """
    precisions = (-log_variances).exp()
    precision = 1.0 + _sum(precisions, mask)
    return _sum(precisions * means, mask) / precision, -precision.log()


def _sum(values: Tensor, mask: Tensor) -> Tensor:
    """Over the views of each item: (M, D), of a mask (B, V) with M true entries, to (B, D)."""
    total = values.new_zeros(len(mask), values.shape[1])
    return total.index_add(0, mask.nonzero()[:, 0], values)
