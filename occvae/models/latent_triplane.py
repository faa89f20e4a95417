"""Triplanes of latent vectors, for models that have no feature maps to attend to."""

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.triplane import SIZES, PlaneQueries, TriplaneDecoder, plane_sizes
from occvae.ops.query_triplane import PackedTriplane

LATENT_SIZES = {**SIZES, "num_tokens": 16}
"""The default sizes: those of `SIZES`, and the number of tokens that a latent becomes."""


class LatentTriplaneDecoder(TriplaneDecoder):
    """Tokens from a latent vector, three feature planes from the tokens, then a `TriplaneDecoder`.

    A linear layer makes the tokens, which have the width of the plane queries.

    Args:
        latent_size: D.
        num_tokens: Number of tokens.
        planes: Module from tokens (B, num_tokens, width) to planes (B, 3, R, R, C).
        plane_channels: As in `TriplaneDecoder`, like all further arguments.
        hidden_size: Width of the hidden layers.
        num_layers: Number of hidden layers.

    Shapes: points (B, N, 3), latents (B, D) -> logits (B, N).
    """

    def __init__(
        self,
        latent_size: int,
        num_tokens: int,
        planes: PlaneQueries,
        plane_channels: int,
        hidden_size: int,
        num_layers: int,
    ):
        super().__init__(plane_channels, hidden_size, num_layers)
        self.num_tokens = num_tokens
        self.to_tokens = nn.Linear(latent_size, num_tokens * planes.width)
        self.planes = planes

    def forward(self, points: Tensor, latents: Tensor) -> Tensor:
        return super().forward(points, self._make_planes(latents).to(points.dtype))

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
        return super().pack(self._make_planes(conditioning), precision, backend)

    def _make_planes(self, latents: Tensor) -> Tensor:
        """Planes (B, 3, R, R, C) from latents (B, D)."""
        tokens = self.to_tokens(latents).unflatten(1, (self.num_tokens, -1))
        return self.planes(tokens)


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
    if sizes["num_tokens"] < 1:
        raise UserError(f"num_tokens must be positive, got {sizes['num_tokens']}")
    planes = PlaneQueries(
        sizes["size"], sizes["channels"], sizes["patches"], sizes["width"], sizes["num_layers"]
    )
    return LatentTriplaneDecoder(
        latent_size,
        sizes["num_tokens"],
        planes,
        sizes["channels"],
        sizes["hidden_size"],
        sizes["num_hidden"],
    )
