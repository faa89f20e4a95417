"""onet-voxels: the model of Occupancy Networks that refines coarse voxels."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from occvae.errors import UserError
from occvae.models.decoders import create_decoder
from occvae.models.occupancy import EncoderDecoder
from occvae.models.presets import GENERAL, register_presets
from occvae.models.registry import register_model
from occvae.models.voxel_encoder import VoxelEncoder
from occvae.observations.kinds import VoxelGrid


class VoxelGridModel(EncoderDecoder):
    """A voxel encoder and an implicit decoder.

    Args:
        encoder: Module from grids (B, R, R, R) to embeddings (B, E).
        decoder: Module from points (B, N, 3) and embeddings (B, E) to logits (B, N).
        threshold: Probability from which a point counts as occupied when no other is given.

    Shapes: grid (B, R, R, R) bool or in [0, 1], points (B, N, 3) -> logits (B, N).
    """

    encoder: VoxelEncoder

    @property
    def observation(self) -> VoxelGrid:
        return VoxelGrid(self.encoder.resolution)

    def encode(self, grid: Tensor) -> Tensor:
        """Conditioning (B, E) from grids (B, R, R, R), bool or floating point in [0, 1]."""
        check_grid_batch(grid, self.encoder.resolution)
        return self.encoder(grid)

    def to_batch(self, grids: Any) -> Tensor:
        """Returns voxel grids as one tensor (B, R, R, R) on the model's device.

        Args:
            grids: One array or tensor (R, R, R), a list of them, or a batch (B, R, R, R).

        Raises:
            UserError: A grid has another resolution.
        """
        return grids_to_batch(grids, self.encoder.resolution, self.arch).to(self.device)


def check_grid_batch(grid: Tensor, resolution: int) -> None:
    """Raises a ValueError unless grids are (B, R, R, R) of this resolution."""
    if grid.dim() != 4 or grid.shape[1:] != 3 * (resolution,):
        edges = ", ".join(3 * [str(resolution)])
        raise ValueError(f"grid must be (B, {edges}), got {tuple(grid.shape)}")


def grids_to_batch(grids: Any, resolution: int, arch: str) -> Tensor:
    """Returns voxel grids as one tensor (B, R, R, R), see `VoxelGridModel.to_batch`.

    Args:
        grids: One grid, a list of grids, or a batch.
        resolution: R.
        arch: Name of the architecture, for messages.
    """
    several = grids if isinstance(grids, list | tuple) else [grids]
    tensors = [
        torch.as_tensor(np.asarray(grid) if not isinstance(grid, Tensor) else grid)
        for grid in several
    ]
    batch = tensors[0] if tensors and tensors[0].dim() == 4 else torch.stack(tensors)
    if batch.shape[1:] != 3 * (resolution,):
        raise UserError(
            f"{arch} observes voxel grids of {resolution}^3, got {tuple(batch.shape[1:])}"
        )
    return batch


@register_model
def onet_voxels(
    *,
    grid_resolution: int = 32,
    encoder_channels: int = 32,
    embedding_size: int = 256,
    decoder: str = "cbn",
    hidden_size: int = 256,
    num_blocks: int = 5,
    threshold: float = 0.3,
) -> VoxelGridModel:
    """The voxel model of Occupancy Networks: super-resolution of a grid of 32^3.

    Source: Mescheder et al., Occupancy Networks, CVPR 2019. The layers are the published ones. As
    in `onet`, batch norm statistics span all ranks, and the threshold is 0.3 instead of 0.2;
    converted weights keep 0.2.
    7,857,473 parameters.

    Args:
        grid_resolution: R, edge of the observed grid, a multiple of 16. The dataset must store it.
        encoder_channels: Channels after the first convolution of the `VoxelEncoder`.
        embedding_size: E, size of the conditioning vector.
        decoder: `cbn`, `cnn` or `simple`, see `create_decoder`.
        hidden_size: Width of the decoder.
        num_blocks: Number of residual blocks of the decoder.
        threshold: Probability from which a point counts as occupied.

    Shapes: grid (B, R, R, R), points (B, N, 3) in [-0.55, 0.55] -> logits (B, N).
    """
    encoder = VoxelEncoder(embedding_size, grid_resolution, encoder_channels)
    implicit = create_decoder(decoder, embedding_size, hidden_size, num_blocks)
    return VoxelGridModel(encoder, implicit, threshold=threshold)


_SMALL_MODEL = {"encoder_channels": 8, "hidden_size": 128, "num_blocks": 3}
register_presets("onet-voxels", {"cpu-small": {**GENERAL["cpu-small"], "model": _SMALL_MODEL}})
