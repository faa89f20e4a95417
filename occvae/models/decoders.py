"""Occupancy decoders: points and a conditioning vector to logits. Points never see each other."""

from torch import Tensor, nn
from torch.nn import functional as F

from occvae.errors import UserError
from occvae.models.batch_norm import ConditionalBatchNorm, SyncBatchNorm, conditional_relu


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


class CbnDecoder(nn.Module):
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


class CnnDecoder(nn.Module):
    """The tapering decoder of ViTOcNet: one conditional norm, then 256-128-64-32-16-4-1.

    The original normalises groups of channels over whatever points are queried together, so a
    point's value depends on its neighbours in the call; true (conditional) batch norm does not.

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
