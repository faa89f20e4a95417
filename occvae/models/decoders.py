"""Occupancy decoders: points and a conditioning vector to logits.

In eval mode the logit of a point does not depend on the other points of the call.
"""

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occvae.errors import UserError
from occvae.models.batch_norm import ConditionalBatchNorm, SyncBatchNorm, conditional_relu
from occvae.models.residual_block import ResidualBlock
from occvae.ops.query_occupancy import (
    PackedDecoder,
    pack_decoder,
    query_occupancy,
    query_shapes,
)


class CbnBlock(nn.Module):
    """Residual block: two times conditional batch norm, ReLU and linear.

    The second linear layer starts at zero, so a new block is an identity.

    Shapes: features (B, N, H), conditioning (B, E) -> (B, N, H).
    """

    def __init__(self, hidden_size: int, embedding_size: int):
        super().__init__()
        self.norm_0 = ConditionalBatchNorm(hidden_size, embedding_size)
        self.linear_0 = nn.Linear(hidden_size, hidden_size)
        self.norm_1 = ConditionalBatchNorm(hidden_size, embedding_size)
        self.linear_1 = nn.Linear(hidden_size, hidden_size)
        nn.init.zeros_(self.linear_1.weight)
        nn.init.zeros_(self.linear_1.bias)

    def forward(self, features: Tensor, conditioning: Tensor) -> Tensor:
        update = self.linear_0(conditional_relu(self.norm_0, features, conditioning))
        update = self.linear_1(conditional_relu(self.norm_1, update, conditioning))
        return features + update


class FusedDecoder(nn.Module, ABC):
    """A decoder that can be packed for the fused kernels of `occvae.ops`."""

    @abstractmethod
    def pack(self, conditioning: Tensor, precision: str | None = None) -> Any:
        """Packs the decoder, in eval mode, for B shapes.

        Args:
            conditioning: (B, ...), one row per shape.
            precision: Precision of the products: "fp32", "fp16" or "bf16". None selects the
                default of the device.
        """

    @abstractmethod
    def query(self, points: Tensor, packed: Any) -> Tensor:
        """Logits (B, N) of a packed decoder at points (B, N, 3) float32."""

    @abstractmethod
    def query_shapes(self, points: Tensor, shape_index: Tensor, packed: Any) -> Tensor:
        """Logits (N,) at points (N, 3) of the shapes (N,), which are in ascending order."""


class CbnDecoder(FusedDecoder):
    """The decoder of Occupancy Networks (Mescheder et al. 2019), as published.

    A linear layer, `num_blocks` residual blocks with conditional batch norm, and a linear output.
    The published code uses 1x1 convolutions over points, which compute the same as linear layers.
    2,106,625 parameters at the default sizes.

    Args:
        embedding_size: E, size of the conditioning vector.
        hidden_size: Width of the blocks.
        num_blocks: Number of residual blocks.

    Shapes: points (B, N, 3) in [-0.55, 0.55], conditioning (B, E) -> logits (B, N).
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
        """Packs the decoder, in eval mode, for `occvae.query_occupancy`.

        Each norm and the biases around it become one scale and one shift per channel and shape.
        They are folded in float64 and rounded once. The result is a copy: later changes of the
        weights do not affect it.

        Args:
            conditioning: (B, E), one row per shape.
            precision: Precision of the products: "fp32", "fp16" or "bf16". None selects fp16 on a
                GPU with the kernels, otherwise fp32. `occvae.query_occupancy` describes the
                rounding.
            backend: "native", "reference", or "auto", which warns once where there is no kernel.

        Returns:
            The decoder for B shapes.

        Raises:
            ValueError: The decoder is in training mode, where norms depend on the batch.
            ValueError: conditioning has another shape, or precision or backend is unknown.
            RuntimeError: backend="native" and there is no kernel.
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
        residual_bias = self.linear_in.bias.double()  # the kernels keep x without its biases
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

    def query(self, points: Tensor, packed: PackedDecoder) -> Tensor:
        return query_occupancy(points, packed)

    def query_shapes(self, points: Tensor, shape_index: Tensor, packed: PackedDecoder) -> Tensor:
        return query_shapes(points, shape_index, packed, is_sorted=True)


def _fold_norm(norm: ConditionalBatchNorm, conditioning: Tensor, bias: Tensor) -> Tensor:
    """Scale and shift (B, 2, C) float64, with scale * x + shift = norm(x + bias) in eval mode."""
    gamma, beta = (
        F.linear(conditioning, layer.weight.double(), layer.bias.double())
        for layer in (norm.gamma, norm.beta)
    )
    scale = gamma * (norm.norm.running_var.double() + norm.norm.eps).rsqrt()
    shift = beta + scale * (bias - norm.norm.running_mean.double())
    return torch.stack([scale, shift], dim=1)


class CnnDecoder(nn.Module):
    """The tapering decoder of ViTOcNet: one conditional norm, then layers 256-128-64-32-16-4-1.

    Source: ViTOcNet, a student project of 2023. Its code uses a group norm where it names a batch
    norm. The group norm computes statistics over all points of a call, in eval mode too, so a
    point's logit depends on the other points of the call. This class uses a conditional batch norm.
    176,929 parameters at E = 256.

    Args:
        embedding_size: E, size of the conditioning vector.

    Shapes: points (B, N, 3) in [-0.55, 0.55], conditioning (B, E) -> logits (B, N).
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


class SimpleDecoder(nn.Module):
    """The decoder of the unconditional models of Occupancy Networks, without any norm.

    Linear maps of the point and of the conditioning are added. Residual blocks follow. It runs in
    PyTorch, because the fused kernels evaluate conditional norms.
    182,273 parameters at E = 128 and the default sizes.

    Args:
        embedding_size: E, size of the conditioning vector.
        hidden_size: Width of the blocks.
        num_blocks: Number of residual blocks.

    Shapes: points (B, N, 3) in [-0.55, 0.55], conditioning (B, E) -> logits (B, N).
    """

    def __init__(self, embedding_size: int = 128, hidden_size: int = 128, num_blocks: int = 5):
        super().__init__()
        self.linear_in = nn.Linear(3, hidden_size)
        self.linear_conditioning = nn.Linear(embedding_size, hidden_size)
        self.blocks = nn.ModuleList(
            ResidualBlock(hidden_size, hidden_size) for _ in range(num_blocks)
        )
        self.linear_out = nn.Linear(hidden_size, 1)

    def forward(self, points: Tensor, conditioning: Tensor) -> Tensor:
        features = self.linear_in(points) + self.linear_conditioning(conditioning)[:, None]
        for block in self.blocks:
            features = block(features)
        return self.linear_out(F.relu(features)).squeeze(-1)


def create_decoder(name: str, embedding_size: int, hidden_size: int, num_blocks: int) -> nn.Module:
    """Builds a decoder by name: `cbn`, `simple`, or `cnn`, which ignores the width and the depth.

    Raises:
        UserError: The name is unknown.
    """
    if name == "cbn":
        return CbnDecoder(embedding_size, hidden_size, num_blocks)
    if name == "simple":
        return SimpleDecoder(embedding_size, hidden_size, num_blocks)
    if name == "cnn":
        return CnnDecoder(embedding_size)
    raise UserError(f"unknown decoder {name!r}; choose from cbn, cnn, simple")
