"""The latent encoder of Occupancy Networks: from labeled points to a posterior."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LabelEncoder(nn.Module):
    """Encodes points with their occupancies to the mean and log variance of a Gaussian.

    Source: Mescheder et al., Occupancy Networks, CVPR 2019. A small PointNet: after each layer but
    the last, the maximum over all points is appended to the features of every point.
    116,096 parameters at the default sizes.

    Args:
        latent_size: D, size of the latent vector.
        hidden_size: Width of the layers.

    Shapes: labeled points (B, N, 4) with x, y, z and 0 or 1 -> mean (B, D), log variance (B, D).
    """

    def __init__(self, latent_size: int = 128, hidden_size: int = 128):
        super().__init__()
        self.linear_points = nn.Linear(3, hidden_size)
        self.linear_labels = nn.Linear(1, hidden_size)
        self.linears = nn.ModuleList(
            nn.Linear(inputs, hidden_size)
            for inputs in (hidden_size, 2 * hidden_size, 2 * hidden_size)
        )
        self.linear_mean = nn.Linear(hidden_size, latent_size)
        self.linear_log_std = nn.Linear(hidden_size, latent_size)

    def forward(self, labeled: Tensor) -> tuple[Tensor, Tensor]:
        features = self.linear_points(labeled[..., :3]) + self.linear_labels(labeled[..., 3:])
        first, *others = self.linears
        features = first(F.relu(features))
        for linear in others:
            maxima = features.amax(dim=1, keepdim=True).expand_as(features)
            features = linear(F.relu(torch.cat([features, maxima], dim=2)))
        pooled = features.amax(dim=1)
        return self.linear_mean(pooled).float(), 2.0 * self.linear_log_std(pooled).float()
