"""Batch norm whose statistics span all ranks, plain and conditional, on CPU and GPU alike.

torch.nn.SyncBatchNorm refuses CPU tensors; here N ranks of batch B equal one rank of batch N*B
wherever the process group runs.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # Every rank's loss depends on every rank's statistics.
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over (M, C, ...) with statistics of all ranks; same state as nn.BatchNorm."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (M, C, ...), got shape {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        mean, centred, variance, count = self._global_statistics(input.float())
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
        shape = (1, -1) + (1,) * (input.dim() - 2)
        output = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = torch.addcmul(self.bias.view(shape), output, self.weight.view(shape))
        return output.to(input.dtype)

    def _global_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean (C,), x less the mean, biased variance (C,) and sample count, over all ranks.

        The mean is reduced before the squares so that they are of centred values: the difference
        of two large sums would lose the variance of features far from zero.
        """
        dims = [dim for dim in range(x.dim()) if dim != 1]
        local = torch.cat([x.sum(dims), x.new_tensor([x.numel() / x.shape[1]])])
        total = _AllReduceSum.apply(local)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean.view((1, -1) + (1,) * (x.dim() - 2))
        variance = _AllReduceSum.apply(centred.square().sum(dims)) / count
        return mean, centred, variance, count


class SyncBatchNormAct(SyncBatchNorm):
    """The same for timm's batch norm that carries its dropout and activation."""

    def __init__(self, num_features: int, *arguments, drop: nn.Module, act: nn.Module, **options):
        super().__init__(num_features, *arguments, **options)
        self.drop, self.act = drop, act

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replaces every torch batch norm inside `module` by `SyncBatchNorm`, keeping its state."""
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            parts = dict(child.named_children())
            synchronised = (SyncBatchNormAct if parts else SyncBatchNorm)(
                child.num_features, child.eps, child.momentum, affine=child.affine, **parts
            )
            synchronised.load_state_dict(child.state_dict())
            synchronised.train(child.training)
            setattr(module, name, synchronised)
        else:
            synchronise_batch_norm(child)
    return module


class ConditionalBatchNorm(nn.Module):
    """gamma(c) * BN(x) + beta(c), gamma and beta linear in the conditioning.

    Occupancy Networks, Mescheder et al. 2019, supplementary 1.1. Starts as plain batch norm.

    Shapes: features (B, N, C), conditioning (B, E) -> (B, N, C). Statistics over B, N and ranks.
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
        normalised = self.norm(features.flatten(0, 1)).view_as(features)
        gamma = self.gamma(conditioning)[:, None].to(normalised.dtype)
        beta = self.beta(conditioning)[:, None].to(normalised.dtype)
        return torch.addcmul(beta, normalised, gamma)


def conditional_relu(norm: ConditionalBatchNorm, features: Tensor, conditioning: Tensor) -> Tensor:
    """The pair that every layer of the decoders begins with."""
    return F.relu_(norm(features, conditioning))
