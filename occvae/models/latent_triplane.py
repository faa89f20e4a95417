"""Triplanes of latent vectors, for models that have no feature maps to attend to."""

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.triplane import SIZES, PlaneQueries, TriplaneDecoder, plane_sizes
from occvae.ops.query_triplane import PackedTriplane

LATENT_SIZES = {**SIZES, "num_tokens": 16}
"""The default sizes: those of `SIZES`, and the number of tokens that a latent becomes."""


class LatentPlanes(PlaneQueries):
    """Plane queries that attend to tokens of a latent vector, made by a linear layer.

    The summary is the latent vector itself.

    Args:
        latent_size: D.
        num_tokens: Number of tokens.
        plane_size: As in `PlaneQueries`, like all further arguments.
        plane_channels: Channels of a plane.
        patches: Patches along each edge of a plane.
        width: Width of the queries and of the tokens.
        num_layers: Number of layers.

    Shapes: latents (B, D) -> planes (B, 3, R, R, plane_channels).
    """

    def __init__(
        self,
        latent_size: int,
        num_tokens: int,
        plane_size: int,
        plane_channels: int,
        patches: int,
        width: int,
        num_layers: int,
    ):
        super().__init__(latent_size, plane_size, plane_channels, patches, width, num_layers)
        if num_tokens < 1:
            raise UserError(f"num_tokens must be positive, got {num_tokens}")
        self.to_tokens = nn.Linear(latent_size, num_tokens * width)

    def forward(self, latents: Tensor) -> Tensor:
        return self.attend(self.to_tokens(latents).unflatten(1, (-1, self.width)), latents)


class LatentTriplaneDecoder(TriplaneDecoder):
    """Three feature planes of a latent vector, then a `TriplaneDecoder`.

    Args:
        planes: Module from latents (B, D) to planes (B, 3, R, R, C).
        plane_channels: As in `TriplaneDecoder`, like all further arguments.
        hidden_size: Width of the hidden layers.
        num_layers: Number of hidden layers.

    Shapes: points (B, N, 3), latents (B, D) -> logits (B, N).
    """

    def __init__(
        self, planes: LatentPlanes, plane_channels: int, hidden_size: int, num_layers: int
    ):
        super().__init__(plane_channels, hidden_size, num_layers)
        self.planes = planes

    def forward(self, points: Tensor, latents: Tensor) -> Tensor:
        return super().forward(points, self.planes(latents).to(points.dtype))

    @torch.no_grad()
    def pack(
        self, conditioning: Tensor, precision: str | None = None, backend: str = "auto"
    ) -> PackedTriplane:
        """Packs the decoder for `occvae.query_triplane`.

        Args:
            conditioning: Latents (B, D).
            precision: As in `FusedDecoder.pack`.
            backend: As in `pack_triplane`.
        """
        return super().pack(self.planes(conditioning), precision, backend)


def latent_triplane_decoder(
    latent_size: int, options: dict[str, int] | None
) -> LatentTriplaneDecoder:
    """Builds a triplane decoder of latent vectors.

    Args:
        latent_size: D.
        options: Sizes that replace those of `LATENT_SIZES`.

    Raises:
        UserError: An option is unknown, or the sizes do not fit together.
    """
    sizes = plane_sizes(options, LATENT_SIZES)
    planes = LatentPlanes(
        latent_size,
        sizes["num_tokens"],
        plane_size=sizes["size"],
        plane_channels=sizes["channels"],
        patches=sizes["patches"],
        width=sizes["width"],
        num_layers=sizes["num_layers"],
    )
    return LatentTriplaneDecoder(
        planes, sizes["channels"], sizes["hidden_size"], sizes["num_hidden"]
    )
