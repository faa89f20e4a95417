"""The average posterior over all training shapes, from which latents of new shapes are drawn."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from occvae.models.posterior import Posterior

# Weight of a new batch in the running moments, which average over about the last 100 batches.
_MOMENTUM = 0.01


class AggregatePosterior(nn.Module):
    """Approximates the mean of q(z | views) over the training shapes by one Gaussian.

    With a KL weight small enough for useful latents, their distribution is not the prior N(0, 1).
    Most latents drawn from the prior are far from those of every shape and decode to fragments.
    This class therefore estimates the distribution of the latents, with a full covariance. Ghosh et
    al. 2020 fit a density after training. Here running moments are updated during training, like
    those of a batch norm. Before the first update the Gaussian is N(0, 1).

    Args:
        latent_size: D.
    """

    mean: Tensor
    second_moment: Tensor
    num_batches: Tensor

    def __init__(self, latent_size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_size))
        self.register_buffer("second_moment", torch.eye(latent_size))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, posterior: Posterior) -> None:
        """Updates the moments with a batch.

        This is a collective call. Every rank must pass the same number of shapes.
        """
        mean = posterior.mean.double()
        second_moment = mean.T @ mean / len(mean)
        second_moment += posterior.log_variance.double().exp().mean(dim=0).diag()
        moments = torch.cat([mean.mean(dim=0)[None], second_moment])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(moments)
            moments /= dist.get_world_size()
        self.num_batches += 1
        share = (1.0 / self.num_batches).clamp(
            min=_MOMENTUM
        )  # at first the plain mean of all batches
        self.mean.lerp_(moments[0].to(self.mean), share)
        self.second_moment.lerp_(moments[1:].to(self.second_moment), share)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws latents (count, D)."""
        mean, device = self.mean.double(), self.mean.device
        stds, axes = self._eigen()
        # The symmetric square root, because it does not depend on the signs of the eigenvectors.
        root = axes * stds @ axes.T
        noise = torch.randn(count, len(mean), generator=generator, device=device)
        return (mean + noise.double() @ root).to(self.mean.dtype)

    def principal_axes(self, count: int) -> Tensor:
        """Returns the axes (count, D) of the largest variance, as long as a standard deviation.

        The largest component of each is positive.

        Args:
            count: Number of axes, at most D.
        """
        stds, axes = self._eigen()
        largest = (axes * stds).T.flip(0)[:count]
        heads = largest.gather(1, largest.abs().argmax(dim=1, keepdim=True))
        return torch.where(heads < 0, -largest, largest).to(self.mean.dtype)

    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Standard deviations (D,) float64, ascending, and their axes, the columns of (D, D)."""
        mean = self.mean.double()
        variances, axes = torch.linalg.eigh(self.second_moment.double() - mean.outer(mean))
        return variances.clamp(min=0.0).sqrt(), axes
