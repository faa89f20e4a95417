"""The encoder of point clouds of Occupancy Networks, a PointNet with residual blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occvae.models.residual_block import ResidualBlock

_CHUNK = 32768


class PointEncoder(nn.Module):
    """Encodes point clouds. The order of the points has no effect, and any number is possible.

    Source: Mescheder et al., Occupancy Networks, CVPR 2019, after PointNet (Qi et al. 2017). Each
    block is followed by a maximum over all points, which is appended to the features of every
    point before the next block.

    Args:
        embedding_size: E, size of the embedding.
        hidden_size: H. Blocks map 2H features of a point to H.
        num_blocks: Number of residual blocks.

    Shapes: points (B, N, 3) -> embeddings (B, E).
    """

    def __init__(self, embedding_size: int = 512, hidden_size: int = 512, num_blocks: int = 5):
        super().__init__()
        self.linear_in = nn.Linear(3, 2 * hidden_size)
        self.blocks = nn.ModuleList(
            ResidualBlock(2 * hidden_size, hidden_size) for _ in range(num_blocks)
        )
        self.linear_out = nn.Linear(hidden_size, embedding_size)

    def forward(self, points: Tensor) -> Tensor:
        length = max(1, _CHUNK // len(points))
        if points.shape[1] <= length:
            return self.linear_out(F.relu(self._pool(points)))
        return self.linear_out(F.relu(self._pool_chunks(points.split(length, dim=1))))

    def _pool(self, points: Tensor) -> Tensor:
        """Maxima (B, H) after the last block."""
        features = self.linear_in(points)
        maxima: list[Tensor] = []
        for block in self.blocks:
            features = block(_append(features, maxima))
            maxima = [features.amax(dim=1, keepdim=True)]
        return maxima[0].squeeze(1)

    def _pool_chunks(self, chunks: tuple[Tensor, ...]) -> Tensor:
        """The same as `_pool` for a cloud in parts.

        Each block needs the maxima of all parts after the block before it. Only these are kept, and
        the features are computed again for every block. So memory does not grow with the cloud, and
        the time is three times as long.
        """
        maxima: list[Tensor] = []
        for depth in range(len(self.blocks)):
            parts = [self._features(chunk, maxima, depth).amax(dim=1) for chunk in chunks]
            maxima.append(torch.stack(parts).amax(dim=0)[:, None])
        return maxima[-1].squeeze(1)

    def _features(self, points: Tensor, maxima: list[Tensor], depth: int) -> Tensor:
        """Features after block `depth`, given the maxima after the blocks before it."""
        features = self.linear_in(points)
        for number in range(depth + 1):
            features = self.blocks[number](_append(features, maxima[max(0, number - 1) : number]))
        return features


def _append(features: Tensor, maxima: list[Tensor]) -> Tensor:
    """Appends maxima (B, 1, H) of the whole cloud to the features (B, N, H) of each point."""
    return torch.cat([features, *(part.expand_as(features) for part in maxima)], dim=2)
