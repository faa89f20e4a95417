"""Batch norm with statistics over all ranks, plain and conditional, on CPU and GPU.

torch.nn.SyncBatchNorm does not accept CPU tensors. The layers here work with every process group
backend. N ranks with B samples each compute the same as one rank with N * B samples.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class _Normalize(torch.autograd.Function):
    """Normalizes (M, C, ...) float32 by the mean and standard deviation over the rows of all ranks.

    On many ranks the number of collectives limits the speed, not their size. Forward and backward
    therefore use one all-reduce each. Also returns the mean (C,), the biased variance (C,) and the
    count per channel, all float64 and not differentiable.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        local_mean = x.mean(_all_but_channels(x))
        centered = x - _by_channel(local_mean, x)  # ten times as fast as torch.var_mean on CPUs
        variance = centered.square().mean(_all_but_channels(x)).double()
        local_mean = local_mean.double()
        # float64, because E[x^2] - E[x]^2 cancels where the mean is large beside the deviation.
        moments = torch.cat([local_mean, variance + local_mean.square(), variance.new_ones(1)])
        moments *= x.numel() // x.shape[1]
        dist.all_reduce(moments)
        count = moments[-1]
        mean, square = (moments[:-1] / count).chunk(2)
        variance = (square - mean.square()).clamp_(min=0.0)
        inverse = (variance + eps).rsqrt().to(x.dtype)
        shift = _by_channel((local_mean - mean).to(x.dtype), x)
        normalized = centered.add_(shift).mul_(_by_channel(inverse, x))
        ctx.save_for_backward(normalized, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalized, mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        normalized, inverse, count = ctx.saved_tensors
        dims = _all_but_channels(gradient)
        sums = torch.cat([gradient.sum(dims), (gradient * normalized).sum(dims)])
        dist.all_reduce(sums)  # every rank's loss depends on every rank's statistics
        mean, slope = (_by_channel(part, gradient) for part in (sums / count).float().chunk(2))
        centered = torch.addcmul(gradient - mean, normalized, slope, value=-1)
        return centered.mul_(_by_channel(inverse, gradient)), None


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """Reshapes (C,) to broadcast against (M, C, ...)."""
    return values.view((1, -1) + (1,) * (x.dim() - 2))


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over (M, C, ...) with statistics over all ranks.

    The state dict has the names of torch's batch norms. In eval mode, or on one rank, the layer is
    torch's own.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (M, C, ...), got shape {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _Normalize.apply(input.float(), self.eps)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        if self.affine:
            weight, bias = _by_channel(self.weight, output), _by_channel(self.bias, output)
            output = torch.addcmul(bias, output, weight)
        return output.to(input.dtype)


class SyncBatchNormAct(SyncBatchNorm):
    """`SyncBatchNorm` for timm's batch norm layers, which include a dropout and an activation."""

    def __init__(
        self, num_features: int, *arguments: Any, drop: nn.Module, act: nn.Module, **options: Any
    ):
        super().__init__(num_features, *arguments, **options)
        self.drop, self.act = drop, act

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Replaces every torch batch norm inside `module` by `SyncBatchNorm`, keeping its state."""
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            parts: dict[str, Any] = dict(child.named_children())
            synchronized = (SyncBatchNormAct if parts else SyncBatchNorm)(
                child.num_features, child.eps, child.momentum, affine=child.affine, **parts
            )
            synchronized.load_state_dict(child.state_dict())
            synchronized.train(child.training)
            setattr(module, name, synchronized)
        else:
            synchronize_batch_norm(child)
    return module


class ConditionalBatchNorm(nn.Module):
    """Computes gamma(c) * BN(x) + beta(c), with gamma and beta linear in the conditioning c.

    Source: Occupancy Networks (Mescheder et al. 2019), supplementary 1.1. At initialization gamma
    is 1 and beta is 0, so the layer is a plain batch norm. Statistics are over shapes, points and
    ranks.

    Shapes: features (B, N, C), conditioning (B, E) -> (B, N, C).
    """

    def __init__(self, num_features: int, embedding_size: int):
        super().__init__()
        self.gamma = nn.Linear(embedding_size, num_features)
        self.beta = nn.Linear(embedding_size, num_features)
        self.norm = SyncBatchNorm(num_features, affine=False)
        nn.init.zeros_(self.gamma.weight)
        nn.init.ones_(self.gamma.bias)
        nn.init.zeros_(self.beta.weight)
        nn.init.zeros_(self.beta.bias)

    def forward(self, features: Tensor, conditioning: Tensor) -> Tensor:
        normalized = self.norm(features.flatten(0, 1)).view_as(features)
        gamma = self.gamma(conditioning)[:, None].to(normalized.dtype)
        beta = self.beta(conditioning)[:, None].to(normalized.dtype)
        return torch.addcmul(beta, normalized, gamma)


def conditional_relu(norm: ConditionalBatchNorm, features: Tensor, conditioning: Tensor) -> Tensor:
    """Applies the conditional norm and a ReLU, the start of every decoder layer."""
    return F.relu_(norm(features, conditioning))
