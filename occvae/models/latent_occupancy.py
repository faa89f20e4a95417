"""onet-vae: the unconditional model of Occupancy Networks, a variational autoencoder."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from occvae.errors import UserError
from occvae.models.decoders import create_decoder
from occvae.models.inference import evaluation_mode
from occvae.models.label_encoder import LabelEncoder
from occvae.models.occupancy import EncoderDecoder
from occvae.models.presets import CPU_SMALL_OPTIM, GENERAL, register_presets
from occvae.models.protocol import GenerativeModel, ImplicitOutput
from occvae.models.registry import register_model
from occvae.observations.kinds import LabeledPoints

if TYPE_CHECKING:
    import trimesh


class LatentOccupancyModel(EncoderDecoder, GenerativeModel):
    """A latent encoder of labeled points and an implicit decoder of the latent vector.

    It is trained as a variational autoencoder. Predictions use the mean of the posterior. The prior
    is N(0, I).

    Args:
        encoder: Module from labeled points (B, N, 4) to mean and log variance (B, D) each.
        decoder: Module from points (B, M, 3) and latents (B, D) to logits (B, M).
        observation: Number of labeled points that a dataset delivers.
        latent_size: D.
        threshold: Probability from which a point counts as occupied when no other is given.

    Shapes: labeled points (B, N, 4), points (B, M, 3) -> `ImplicitOutput` with logits (B, M).
    """

    target = "points-and-posterior"

    def __init__(
        self,
        encoder: LabelEncoder,
        decoder: torch.nn.Module,
        observation: LabeledPoints,
        latent_size: int,
        threshold: float,
    ):
        super().__init__(encoder, decoder, threshold=threshold)
        self._observation = observation
        self.latent_size = latent_size

    @property
    def observation(self) -> LabeledPoints:
        return self._observation

    def posterior(self, labeled: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, D) of the latents, from labeled points (B, N, 4)."""
        if labeled.dim() != 3 or labeled.shape[2] != 4 or labeled.numel() == 0:
            raise ValueError(f"labeled points must be (B, N, 4), got {tuple(labeled.shape)}")
        mean, log_variance = self.encoder(labeled)
        return mean, log_variance

    def encode(self, labeled: Tensor) -> Tensor:
        """Mean of the posterior (B, D), from labeled points (B, N, 4)."""
        return self.posterior(labeled)[0]

    def forward(self, labeled: Tensor, points: Tensor) -> ImplicitOutput:
        """Logits at points for latents drawn from the posterior, with that posterior."""
        mean, log_variance = self.posterior(labeled)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return ImplicitOutput(self.decode(points, latents), mean, log_variance)

    def to_batch(self, labeled: Any) -> Tensor:
        """Returns labeled points (N, 4) or (B, N, 4) as a batch on the model's device.

        Raises:
            UserError: They are something else. New shapes come from `sample`.
        """
        if not isinstance(labeled, Tensor) or labeled.dim() not in (2, 3):
            raise UserError(
                f"{self.arch} observes points with occupancies, as a tensor (B, N, 4); draw new "
                "shapes with model.sample_meshes"
            )
        batch = labeled if labeled.dim() == 3 else labeled[None]
        return batch.float().to(self.device)

    @torch.no_grad()
    def sample(
        self, count: int, resolution: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws new shapes from the prior: probabilities (count, R, R, R), R = 32 by default."""
        with evaluation_mode(self):
            return self._voxels(self._prior(count, generator), resolution or 32)

    @torch.no_grad()
    def sample_meshes(
        self,
        count: int,
        resolution: int = 128,
        threshold: float | None = None,
        generator: torch.Generator | None = None,
    ) -> "list[trimesh.Trimesh]":
        """Draws new shapes from the prior as watertight meshes.

        Args:
            count: Number of shapes.
            resolution: As in `OccupancyModel.reconstruct`.
            threshold: Probability at the surface. None selects the model's own.
            generator: Random generator on the model's device.
        """
        with evaluation_mode(self):
            return self._mesh(self._prior(count, generator), resolution, threshold)

    def _prior(self, count: int, generator: torch.Generator | None) -> Tensor:
        return torch.randn(count, self.latent_size, generator=generator, device=self.device)


@register_model
def onet_vae(
    *,
    num_points: int = 2048,
    latent_size: int = 128,
    encoder_size: int = 128,
    decoder: str = "simple",
    hidden_size: int = 128,
    num_blocks: int = 5,
    threshold: float = 0.3,
) -> LatentOccupancyModel:
    """The unconditional model of Occupancy Networks: a variational autoencoder of shapes.

    Source: Mescheder et al., Occupancy Networks, CVPR 2019. The layers are the published ones. Two
    things differ. The encoder sees other points than the loss is computed at; in the published code
    they are the same. The threshold is 0.3 instead of 0.2; converted weights keep 0.2. The presets
    weigh the KL by 1/2048, which equals the published sum over 2048 points.
    298,369 parameters.

    Args:
        num_points: Labeled points per shape that the encoder sees.
        latent_size: D, size of the latent vector.
        encoder_size: Width of the `LabelEncoder`.
        decoder: `simple`, which runs in PyTorch, or `cbn`, which has fused kernels.
        hidden_size: Width of the decoder.
        num_blocks: Number of residual blocks of the decoder.
        threshold: Probability from which a point counts as occupied.

    Shapes: labeled points (B, N, 4), points (B, M, 3) in [-0.55, 0.55] -> logits (B, M).
    """
    return LatentOccupancyModel(
        LabelEncoder(latent_size, encoder_size),
        create_decoder(decoder, latent_size, hidden_size, num_blocks),
        LabeledPoints(num_points),
        latent_size,
        threshold,
    )


_KL_WEIGHT = 1 / 2048
register_presets(
    "onet-vae",
    {
        "cpu-small": {
            **GENERAL["cpu-small"],
            "model": {"num_points": 512},
            "optim": {
                **CPU_SMALL_OPTIM,
                "lr": 1e-3,
                "dice_weight": 0.0,
                "kl_weight": _KL_WEIGHT,
                "kl_warmup_steps": 1000,
            },
        },
        "default": {"optim": {"kl_weight": _KL_WEIGHT}},
    },
)
