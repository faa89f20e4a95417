"""Occupancy decoders: points and a conditioning vector to logits. Points never see each other."""

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occvae.errors import UserError
from occvae.models.batch_norm import ConditionalBatchNorm, SyncBatchNorm, conditional_relu
from occvae.ops.query_occupancy import PackedDecoder, pack_decoder


class CbnBlock(nn.Module):
    """Two layers of conditional batch norm, ReLU, linear, around a skip connection."""

    def __init__(self, hidden_size: int, embedding_size: int):
        super().__init__()
        self.norm_0 = ConditionalBatchNorm(hidden_size, embedding_size)
        self.linear_0 = nn.Linear(hidden_size, hidden_size)
        self.norm_1 = ConditionalBatchNorm(hidden_size, embedding_size)
        self.linear_1 = nn.Linear(hidden_size, hidden_size)
        # Blocks start as identities.
        nn.init.zeros_(self.linear_1.weight)
        nn.init.zeros_(self.linear_1.bias)

    def forward(self, features: Tensor, conditioning: Tensor) -> Tensor:
        update = self.linear_0(conditional_relu(self.norm_0, features, conditioning))
        update = self.linear_1(conditional_relu(self.norm_1, update, conditioning))
        return features + update


class FusedDecoder(nn.Module, ABC):
    """A decoder that the fused kernels of `query_occupancy` evaluate."""

    @abstractmethod
    def pack(self, conditioning: Tensor, precision: str | None = None) -> PackedDecoder:
        """The decoder in eval mode for the shapes of conditioning (B, E).

        Args:
            precision: of the products, "fp32", "fp16" or "bf16"; None for the device's default.
        """


class CbnDecoder(FusedDecoder):
    """The published decoder of Occupancy Networks (Mescheder et al. 2019).

    Shapes: points (B, N, 3), conditioning (B, E) -> logits (B, N).
    """

    def __init__(self, embedding_size: int = 256, hidden_size: int = 256, num_blocks: int = 5):
        super().__init__()
        self.linear_in = nn.Linear(3, hidden_size)
        self.blocks = nn.ModuleList(
            CbnBlock(hidden_size, embedding_size) for _ in range(num_blocks)
        )
        self.norm_out = ConditionalBatchNorm(hidden_size, embedding_size)
        self.linear_out = nn.Linear(hidden_size, 1)

    def forward(self, points: Tensor, conditioning: Tensor) -> Tensor:
        features = self.linear_in(points)
        for block in self.blocks:
            features = block(features, conditioning)
        features = conditional_relu(self.norm_out, features, conditioning)
        return self.linear_out(features).squeeze(-1)

    @torch.no_grad()
    def pack(
        self, conditioning: Tensor, precision: str | None = None, backend: str = "auto"
    ) -> PackedDecoder:
        """The decoder in eval mode, for `occvae.query_occupancy` to evaluate.

        Each norm and the biases around it become one scale and shift a channel and shape, folded
        in float64 and rounded once. A copy: later changes of the weights do not enter it.

        Args:
            conditioning: (B, E), one row a shape.
            precision: "fp32", "fp16" or "bf16" of the products; None takes fp16 on a GPU with the
                kernels and otherwise fp32. Errors: `occvae.query_occupancy`.
            backend: "native", "reference" or "auto", which warns once without a kernel.

        Raises:
            ValueError: the decoder is in training mode, where norms depend on the batch; or
                conditioning, precision or backend are none of these.
            RuntimeError: backend="native" where there is no kernel.
        """
        if self.training:
            raise ValueError("pack() folds running statistics: call eval() first")
        expected = self.norm_out.gamma.in_features
        if conditioning.dim() != 2 or conditioning.shape[1] != expected or len(conditioning) == 0:
            raise ValueError(
                f"conditioning must be (B, {expected}), B > 0; got {tuple(conditioning.shape)}"
            )
        conditioning = conditioning.double()
        affines = []
        blocks = cast("list[CbnBlock]", list(self.blocks))
        residual_bias = self.linear_in.bias.double()  # of what the kernels leave out of x
        for block in blocks:
            inner_bias = block.linear_0.bias.double()
            affines.append(_fold_norm(block.norm_0, conditioning, residual_bias))
            affines.append(_fold_norm(block.norm_1, conditioning, inner_bias))
            residual_bias = residual_bias + block.linear_1.bias.double()
        affines.append(_fold_norm(self.norm_out, conditioning, residual_bias))
        layers = [linear.weight for block in blocks for linear in (block.linear_0, block.linear_1)]
        width = self.linear_in.weight.shape[0]
        return pack_decoder(
            self.linear_in.weight.T,
            torch.stack(layers) if layers else conditioning.new_zeros((0, width, width)),
            torch.stack(affines, dim=1),
            torch.cat([self.linear_out.weight[0], self.linear_out.bias]),
            precision=precision,
            backend=backend,
        )


def _fold_norm(norm: ConditionalBatchNorm, conditioning: Tensor, bias: Tensor) -> Tensor:
    """(B, 2, C) float64 scale and shift: scale x + shift = norm(x + bias) in eval mode."""
    gamma, beta = (
        F.linear(conditioning, layer.weight.double(), layer.bias.double())
        for layer in (norm.gamma, norm.beta)
    )
    scale = gamma * (norm.norm.running_var.double() + norm.norm.eps).rsqrt()
    shift = beta + scale * (bias - norm.norm.running_mean.double())
    return torch.stack([scale, shift], dim=1)


class CnnDecoder(nn.Module):
    """The tapering decoder of ViTOcNet: one conditional norm, then 256-128-64-32-16-4-1.

    The original normalizes groups of channels over whatever points are queried together, so a
    point's value depends on its neighbors in the call; true (conditional) batch norm does not.

    Shapes: points (B, N, 3), conditioning (B, E) -> logits (B, N).
    """

    WIDTHS = (256, 128, 64, 32, 16, 4)

    def __init__(self, embedding_size: int = 256):
        super().__init__()
        self.linear_in = nn.Linear(3, self.WIDTHS[0])
        self.norm_in = ConditionalBatchNorm(self.WIDTHS[0], embedding_size)
        pairs = list(zip(self.WIDTHS[:-1], self.WIDTHS[1:], strict=True))
        self.linears = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        self.norms = nn.ModuleList(SyncBatchNorm(width) for _, width in pairs)
        self.linear_out = nn.Linear(self.WIDTHS[-1], 1)

    def forward(self, points: Tensor, conditioning: Tensor) -> Tensor:
        features = conditional_relu(self.norm_in, self.linear_in(points), conditioning)
        features = features.flatten(0, 1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            features = F.leaky_relu(norm(linear(features)), 0.2)
        return self.linear_out(features).view(points.shape[:2])


def create_decoder(name: str, embedding_size: int, hidden_size: int, num_blocks: int) -> nn.Module:
    """`cbn` of any width and depth, or `cnn`, whose widths are fixed."""
    if name == "cbn":
        return CbnDecoder(embedding_size, hidden_size, num_blocks)
    if name == "cnn":
        return CnnDecoder(embedding_size)
    raise UserError(f"unknown decoder {name!r}; choose from cbn, cnn")
