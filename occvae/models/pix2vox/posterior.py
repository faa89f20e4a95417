"""Diagonal Gaussians over the latent vector: one for each view, and what they say together."""

from typing import NamedTuple

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """q(z | views) of B objects, and what each of their M views says by itself."""

    mean: Tensor
    """(B, D)"""
    log_variance: Tensor
    """(B, D)"""
    view_means: Tensor
    """(M, D)"""
    mask: Tensor
    """(B, V) bool with M true entries, which views there are."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(B, D), differentiable in mean and variance (Kingma and Welling 2014)."""
        noise = torch.randn(
            self.mean.shape, device=self.mean.device, dtype=self.mean.dtype, generator=generator
        )
        return self.mean + (0.5 * self.log_variance).exp() * noise


def item_of_view(mask: Tensor) -> Tensor:
    """(M,) int64: the item that each view belongs to, of a mask (B, V) with M true entries."""
    return mask.nonzero()[:, 0]


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
    total = values.new_zeros(len(mask), values.shape[1])
    return total.index_add(0, item_of_view(mask), values)
