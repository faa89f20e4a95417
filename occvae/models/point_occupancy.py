"""onet-points: the model of Occupancy Networks that completes point clouds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.decoders import create_decoder
from occvae.models.occupancy import EncoderDecoder
from occvae.models.point_encoder import PointEncoder
from occvae.models.presets import GENERAL, register_presets
from occvae.models.registry import register_model
from occvae.observations.kinds import PointCloud
from occvae.observations.scans import check_cloud, load_scan


class PointCloudModel(EncoderDecoder):
    """A point cloud encoder and an implicit decoder.

    Args:
        encoder: Module from points (B, N, 3) to embeddings (B, E).
        decoder: Module from points (B, N, 3) and embeddings (B, E) to logits (B, N).
        observation: Number of points and noise that a dataset delivers in training.
        threshold: Probability from which a point counts as occupied when no other is given.

    Shapes: cloud (B, N, 3) in the unit cube, points (B, M, 3) -> logits (B, M).
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, observation: PointCloud, threshold: float
    ):
        super().__init__(encoder, decoder, threshold=threshold)
        self._observation = observation

    @property
    def observation(self) -> PointCloud:
        return self._observation

    def encode(self, cloud: Tensor) -> Tensor:
        """Conditioning (B, E) from clouds (B, N, 3) in the unit cube, for any N."""
        check_cloud_batch(cloud)
        return self.encoder(cloud)

    def to_batch(self, clouds: Any) -> Tensor:
        """Returns point clouds as one tensor (B, N, 3) on the model's device.

        Args:
            clouds: One cloud, or a list of clouds with equal numbers of points. A path is read,
                centered and scaled by `occvae.observations.scans.load_scan`, with as many points as
                in training. An array or tensor (N, 3) is in the unit cube already. A tensor
                (B, N, 3) is a batch. Both may have any number of points.

        Raises:
            UserError: A file cannot be read, a cloud is not finite or outside the unit cube, or
                clouds differ in their number of points.
        """
        return clouds_to_batch(clouds, self._observation.num_points).to(self.device)


def check_cloud_batch(cloud: Tensor) -> None:
    """Raises a ValueError unless the clouds are (B, N, 3) and not empty."""
    if cloud.dim() != 3 or cloud.shape[2] != 3 or cloud.numel() == 0:
        raise ValueError(f"cloud must be (B, N, 3) and not empty, got {tuple(cloud.shape)}")


def clouds_to_batch(clouds: Any, num_points: int) -> Tensor:
    """Returns point clouds as one tensor (B, N, 3), see `PointCloudModel.to_batch`.

    Args:
        clouds: One cloud, a list of clouds, or a batch.
        num_points: Largest number of points to take from a file.
    """
    if isinstance(clouds, Tensor) and clouds.dim() == 3:
        return clouds.float()
    several = clouds if isinstance(clouds, list | tuple) else [clouds]
    tensors = [_cloud(cloud, num_points) for cloud in several]
    if len({len(tensor) for tensor in tensors}) != 1:
        counts = [len(tensor) for tensor in tensors]
        raise UserError(
            "there are no clouds: the list is empty"
            if not counts
            else f"all clouds must have the same number of points, got {min(counts)} to "
            f"{max(counts)}; reconstruct them one by one"
        )
    return torch.stack(tensors)


def _cloud(cloud: str | Path | np.ndarray | Tensor, num_points: int) -> Tensor:
    if isinstance(cloud, str | Path):
        return torch.from_numpy(load_scan(cloud, num_points=num_points).points)
    points = cloud.cpu().numpy() if isinstance(cloud, Tensor) else np.asarray(cloud)
    return torch.from_numpy(check_cloud(points))


@register_model
def onet_points(
    *,
    num_points: int = 300,
    noise: float = 0.005,
    encoder_size: int = 512,
    embedding_size: int = 512,
    decoder: str = "cbn",
    hidden_size: int = 256,
    num_blocks: int = 5,
    threshold: float = 0.3,
) -> PointCloudModel:
    """The point cloud model of Occupancy Networks: completes 300 noisy points to a solid.

    Source: Mescheder et al., Occupancy Networks, CVPR 2019. The layers, the number of points and
    their noise are the published ones. As in `onet`, batch norm statistics span all ranks, and the
    threshold is 0.3 instead of 0.2; converted weights keep 0.2.
    10,373,889 parameters.

    Args:
        num_points: Points on the surface per shape in training.
        noise: Standard deviation of their Gaussian noise per coordinate, in edges of the unit cube.
        encoder_size: H, width of the `PointEncoder`.
        embedding_size: E, size of the conditioning vector.
        decoder: `cbn`, `cnn` or `simple`, see `create_decoder`.
        hidden_size: Width of the decoder.
        num_blocks: Number of residual blocks of the decoder.
        threshold: Probability from which a point counts as occupied.

    Shapes: cloud (B, N, 3) in [-0.5, 0.5], points (B, M, 3) in [-0.55, 0.55] -> logits (B, M).
    """
    return PointCloudModel(
        PointEncoder(embedding_size, encoder_size),
        create_decoder(decoder, embedding_size, hidden_size, num_blocks),
        PointCloud(num_points, noise),
        threshold,
    )


_SMALL_MODEL = {"encoder_size": 128, "embedding_size": 256, "hidden_size": 128, "num_blocks": 3}
register_presets("onet-points", {"cpu-small": {**GENERAL["cpu-small"], "model": _SMALL_MODEL}})
