"""Diagonal Gaussian posteriors over the latent vector, and their combination."""

from typing import NamedTuple

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """Diagonal Gaussians over latents: q(z | observations) of B shapes, or single factors of it."""

    mean: Tensor
    """(B, D) means."""
    log_variance: Tensor
    """(B, D) logarithms of the variances."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draws latents (B, D), differentiable in mean and variance (Kingma and Welling 2014)."""
        return self.at(self.noise(generator))

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        """Draws standard normal noise (B, D)."""
        return torch.randn(
            self.mean.shape, device=self.mean.device, dtype=self.mean.dtype, generator=generator
        )

    def at(self, noise: Tensor) -> Tensor:
        """Returns the latents (B, D) that are `noise` (B, D) standard deviations from the mean."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


def mean_of_views(means: Tensor, log_variances: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Averages means and log variances over the views of each item.

    The published code averages the features before the two linear layers, which is the same.

    Args:
        means: (M, D), one row per view that exists.
        log_variances: (M, D).
        mask: (B, V) bool with M true entries.

    Returns:
        Mean and log variance, (B, D) each.
    """
    count = mask.sum(dim=1, keepdim=True)
    return _sum(means, mask) / count, _sum(log_variances, mask) / count


def product_of_experts(means: Tensor, log_variances: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Multiplies the Gaussians of the experts of each item with the prior N(0, 1).

    Source: product of experts (Wu and Goodman 2018). An expert is a view, or another observation of
    the item. Precisions add up. Every further expert makes the posterior narrower, and an expert
    with a large variance in a dimension has little weight there.

    Args:
        means: (M, D), one row per expert that exists.
        log_variances: (M, D).
        mask: (B, V) bool with M true entries.

    Returns:
        Mean and log variance, (B, D) each.
    """
    precisions = (-log_variances).exp()
    precision = 1.0 + _sum(precisions, mask)
    return _sum(precisions * means, mask) / precision, -precision.log()


def _sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sums values (M, D) over the rows of each item, for a mask (B, V) with M true entries."""
    total = values.new_zeros(len(mask), values.shape[1])
    return total.index_add(0, mask.nonzero()[:, 0], values)
