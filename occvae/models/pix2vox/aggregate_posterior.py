"""What the posteriors of all objects are together: where the latents of new objects come from."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from occvae.models.pix2vox.posterior import Posterior

# Share of a batch in the moments: those of the last 100 or so count.
_MOMENTUM = 0.01


class AggregatePosterior(nn.Module):
    """The mean over objects of q(z | views), as one Gaussian of full covariance.

    A KL term weak enough for latents to tell objects apart does not make them N(0, 1): much of that
    is far from every object, and decodes to fragments. So new objects are drawn from where the
    objects are, as density estimation after training does (Ghosh et al. 2020); the moments are kept
    up in training instead, like a batch norm's. N(0, 1) until something has been seen.
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
        """Takes in a batch; collective, of as many objects on every rank."""
        mean = posterior.mean.double()
        second_moment = mean.T @ mean / len(mean)
        second_moment += posterior.log_variance.double().exp().mean(dim=0).diag()
        moments = torch.cat([mean.mean(dim=0)[None], second_moment])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(moments)
            moments /= dist.get_world_size()
        self.num_batches += 1
        share = (1.0 / self.num_batches).clamp(min=_MOMENTUM)  # a plain mean in the beginning
        self.mean.lerp_(moments[0].to(self.mean), share)
        self.second_moment.lerp_(moments[1:].to(self.second_moment), share)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Latent vectors (count, D)."""
        mean, device = self.mean.double(), self.mean.device
        covariance = self.second_moment.double() - mean.outer(mean)
        variances, axes = torch.linalg.eigh(covariance)
        # Of all square roots of the covariance the one that does not depend on signs of the axes.
        root = axes * variances.clamp(min=0.0).sqrt() @ axes.T
        noise = torch.randn(count, len(mean), generator=generator, device=device)
        return (mean + noise.double() @ root).to(self.mean.dtype)
