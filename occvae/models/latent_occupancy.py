"""Implicit models with a latent vector, and `onet-vae` of Occupancy Networks."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.decoders import create_decoder
from occvae.models.inference import evaluation_mode
from occvae.models.label_encoder import LabelEncoder
from occvae.models.occupancy import EncoderDecoder
from occvae.models.posterior import Posterior
from occvae.models.presets import CPU_SMALL_OPTIM, GENERAL, register_presets
from occvae.models.protocol import HypothesisModel, ImplicitOutput
from occvae.models.registry import register_model
from occvae.observations.kinds import LabeledPoints
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress


class ImplicitLatentModel(EncoderDecoder, HypothesisModel):
    """An implicit model with a posterior over a latent vector.

    It draws hypotheses from the posterior, and new shapes from `draw_latents`.

    Args:
        encoder: As in `EncoderDecoder`.
        decoder: Module from points (B, M, 3) and latents (B, D) to logits (B, M).
        latent_size: D.
        **settings: Arguments of `Model`.
    """

    target = "points-and-posterior"

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, latent_size: int, **settings: Any
    ) -> None:
        if latent_size < 1:
            raise UserError(f"latent_size must be positive, got {latent_size}")
        super().__init__(encoder, decoder, **settings)
        self.latent_size = latent_size

    @abstractmethod
    def posterior(self, observed: Any, /) -> Posterior:
        """The posterior of the latents, from a batch of the observation."""

    @abstractmethod
    def draw_latents(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws latents (count, D) of new shapes."""

    @torch.no_grad()
    def predict_samples(
        self,
        observed: Any,
        /,
        num_samples: int,
        *,
        resolution: int = 32,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws hypotheses: probabilities (B, num_samples, R, R, R), see `HypothesisModel`.

        Args:
            observed: Batch of the observation.
            num_samples: Number of hypotheses per item.
            resolution: R.
            generator: Random generator on the model's device.
        """
        with evaluation_mode(self):
            latents = self._hypotheses(observed, num_samples, generator)
            return torch.stack([self._voxels(part, resolution) for part in latents], dim=1)

    @torch.no_grad()
    def mesh_samples(
        self,
        observed: Any,
        /,
        num_samples: int,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        generator: torch.Generator | None = None,
        **extraction: Any,
    ) -> "list[list[trimesh.Trimesh]]":
        """Meshes of hypotheses, a list per item, see `HypothesisModel`."""
        with evaluation_mode(self):
            latents = self._hypotheses(observed, num_samples, generator)
        by_sample = [
            self.mesh_latents(part, resolution, threshold, **extraction) for part in latents
        ]
        return [list(meshes) for meshes in zip(*by_sample, strict=True)]

    def _hypotheses(
        self, observed: Any, num_samples: int, generator: torch.Generator | None
    ) -> list[Tensor]:
        """Latents (B, D) for each of the hypotheses."""
        check_count("num_samples", num_samples)
        posterior = self.posterior(observed)
        return [posterior.sample(generator) for _ in range(num_samples)]

    @torch.no_grad()
    def query_latents(self, latents: Tensor, points: Tensor) -> Tensor:
        """Logits (B, N) at points (B, N, 3) of the shapes of latents (B, D), in eval mode."""
        with evaluation_mode(self):
            return self._query(points, latents.float())

    @torch.no_grad()
    def mesh_latents(
        self,
        latents: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        progress: "Progress | None" = None,
        **extraction: Any,
    ) -> "list[trimesh.Trimesh]":
        """One watertight mesh per latent (B, D).

        Args:
            latents: (B, D), for example from `encode` or `draw_latents`.
            resolution: As in `OccupancyModel.reconstruct`, like all further arguments.
            threshold: Probability at the surface. None selects the model's own.
            progress: As in `occvae.mise`.
            **extraction: `refine_vertices` and `normals`.
        """
        with evaluation_mode(self):
            return self._mesh(latents.float(), resolution, threshold, progress, **extraction)

    @torch.no_grad()
    def sample(
        self, count: int, resolution: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws new shapes: probabilities (count, R, R, R), R = 32 by default."""
        check_count("count", count)
        with evaluation_mode(self):
            return self._voxels(self.draw_latents(count, generator), resolution or 32)

    @torch.no_grad()
    def sample_meshes(
        self,
        count: int,
        resolution: int = 128,
        threshold: float | None = None,
        generator: torch.Generator | None = None,
        *,
        progress: "Progress | None" = None,
    ) -> "list[trimesh.Trimesh]":
        """Draws new shapes as watertight meshes, see `GenerativeModel`."""
        check_count("count", count)
        latents = self.draw_latents(count, generator)
        return self.mesh_latents(latents, resolution, threshold, progress)


class LatentOccupancyModel(ImplicitLatentModel):
    """A latent encoder of labeled points and an implicit decoder of the latent vector.

    It is trained as a variational autoencoder. Predictions use the mean of the posterior. The prior
    is N(0, I), and new shapes are drawn from it.

    Args:
        encoder: Module from labeled points (B, N, 4) to mean and log variance (B, D) each.
        decoder: Module from points (B, M, 3) and latents (B, D) to logits (B, M).
        observation: Number of labeled points that a dataset delivers.
        latent_size: D.
        threshold: Probability from which a point counts as occupied when no other is given.

    Shapes: labeled points (B, N, 4), points (B, M, 3) -> `ImplicitOutput` with logits (B, M).
    """

    def __init__(
        self,
        encoder: LabelEncoder,
        decoder: nn.Module,
        observation: LabeledPoints,
        latent_size: int,
        threshold: float,
    ):
        super().__init__(encoder, decoder, latent_size, threshold=threshold)
        self._observation = observation

    @property
    def observation(self) -> LabeledPoints:
        return self._observation

    def posterior(self, labeled: Tensor) -> Posterior:
        """Mean and log variance (B, D) of the latents, from labeled points (B, N, 4)."""
        if labeled.dim() != 3 or labeled.shape[2] != 4 or labeled.numel() == 0:
            raise ValueError(f"labeled points must be (B, N, 4), got {tuple(labeled.shape)}")
        return Posterior(*self.encoder(labeled))

    def encode(self, labeled: Tensor) -> Tensor:
        """Mean of the posterior (B, D), from labeled points (B, N, 4)."""
        return self.posterior(labeled).mean

    def forward(self, labeled: Tensor, points: Tensor) -> ImplicitOutput:
        """Logits at points for latents drawn from the posterior, with that posterior."""
        posterior = self.posterior(labeled)
        return ImplicitOutput(self.decode(points, posterior.sample()), *posterior)

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

    def draw_latents(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws latents (count, D) from the prior."""
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
