"""The encoder of voxel grids of Occupancy Networks, a stack of 3D convolutions."""

from torch import Tensor, nn
from torch.nn import functional as F

from occvae.errors import UserError


class VoxelEncoder(nn.Module):
    """Encodes voxel grids.

    Source: Mescheder et al., Occupancy Networks, CVPR 2019. The first convolution keeps the
    resolution. Four more halve it and double the channels.

    Args:
        embedding_size: E, size of the embedding.
        resolution: R, edge of the grid, a multiple of 16.
        channels: Channels after the first convolution.

    Raises:
        UserError: The resolution is not a positive multiple of 16.

    Shapes: grid (B, R, R, R) bool or floating point -> embeddings (B, E).
    """

    HALVINGS = 4

    def __init__(self, embedding_size: int = 256, resolution: int = 32, channels: int = 32):
        super().__init__()
        factor = 2**self.HALVINGS
        if resolution < 1 or resolution % factor:
            raise UserError(f"the grid must be a multiple of {factor} wide, got {resolution}")
        self.resolution = resolution
        widths = [channels << k for k in range(self.HALVINGS + 1)]
        self.convolutions = nn.ModuleList([nn.Conv3d(1, channels, 3, padding=1)])
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            self.convolutions.append(nn.Conv3d(inputs, outputs, 3, stride=2, padding=1))
        self.linear_out = nn.Linear(widths[-1] * (resolution // factor) ** 3, embedding_size)

    def forward(self, grid: Tensor) -> Tensor:
        features = grid[:, None].to(self.linear_out.weight.dtype)
        for convolution in self.convolutions:
            features = F.relu(convolution(features))
        return self.linear_out(features.flatten(1))
