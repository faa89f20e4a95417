"""Pix2Vox-VAE: a distribution over objects that look like the views, and one over all objects."""

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.inference import evaluation_mode
from occvae.models.pix2vox.aggregate_posterior import AggregatePosterior
from occvae.models.pix2vox.base import Pix2VoxBase
from occvae.models.pix2vox.blocks import ContextMerger, Refiner
from occvae.models.pix2vox.pix2vox import CHANNELS_A, LAYERS_A, build_decoder, build_encoder
from occvae.models.pix2vox.posterior import Posterior, mean_of_views, product_of_experts
from occvae.models.protocol import VariationalModel, VoxelOutput, resample
from occvae.models.registry import register_model
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

FUSIONS = {"poe": product_of_experts, "mean": mean_of_views}
_FIRST_LOG_VARIANCE = -4.0
# Of a view: what is beyond it cannot be told apart in float32, and its exponential overflows.
_LARGEST_LOG_VARIANCE = 20.0


class Pix2VoxVae(Pix2VoxBase, VariationalModel):
    """Views to a Gaussian over latent vectors, and a latent vector to a volume.

    The views meet in the latent space, where their posteriors become one; z is the only way from
    images to volumes, so that what the KL term weighs is all that is known of the images.

    Args:
        fusion: of the posteriors: `poe`, the product of experts, or `mean`.
        parity: as the seed: a merger of as many copies of the volume as there are views, which is
            an identity; KL summed over the batch; z drawn at random in evaluation too.
        **parts: see `Pix2VoxBase`.
    """

    def __init__(self, *, latent_size: int, fusion: str, parity: bool, **parts: Any):
        super().__init__(**parts)
        num_features = self.encoder.num_features
        self.to_mean = nn.Linear(num_features, latent_size)
        self.to_log_variance = nn.Linear(num_features, latent_size)
        self.from_latent = nn.Linear(latent_size, num_features)
        self.aggregate = AggregatePosterior(latent_size)
        if not parity:
            # Latents that begin as noise are soon ignored: the first posteriors differ from image
            # to image and are narrow, and the KL term widens them.
            nn.init.zeros_(self.to_log_variance.weight)
            nn.init.constant_(self.to_log_variance.bias, _FIRST_LOG_VARIANCE)
        self.latent_size, self.fusion = latent_size, fusion
        self.parity = self.sum_kl = parity

    def encode(self, images: Tensor, view_mask: Tensor | None = None) -> Posterior:
        """RGB images (B, V, 3, H, W) in [0, 1], and which views are there, to q(z | views)."""
        features, mask = self.encode_views(images, view_mask)
        means = self.to_mean(features).float()
        log_variances = self.to_log_variance(features).float()
        log_variances = log_variances.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
        return Posterior(*FUSIONS[self.fusion](means, log_variances, mask))

    def decode(self, latents: Tensor, num_copies: int = 1) -> VoxelOutput:
        """Latent vectors (B, D) to volumes; the merger of the seed is given copies of each."""
        mask = torch.ones(len(latents), num_copies, dtype=torch.bool, device=latents.device)
        features = self.from_latent(latents)
        return self.decode_views(features.repeat_interleave(num_copies, dim=0), mask)

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> VoxelOutput:
        """Images (B, V, 3, H, W) to volumes, from a random z in training, else from its mean."""
        posterior = self.encode(images, view_mask)
        if self.aggregate.training:
            self.aggregate.update(posterior)
        latents = posterior.sample() if self.training or self.parity else posterior.mean
        output = self.decode(latents, images.shape[1] if self.parity else 1)
        return output._replace(mean=posterior.mean, log_variance=posterior.log_variance)

    @torch.no_grad()
    def sample(
        self, count: int, resolution: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Objects nobody has seen: probabilities (count, R, R, R).

        Of latents from where those of all objects seen in training are, see `AggregatePosterior`,
        in parity, too; `decode` takes others, of N(0, 1) for example.
        """
        check_count("count", count)
        with evaluation_mode(self):
            latents = self.aggregate.draw(count, generator)
            return resample(self.decode(latents).refined, resolution)

    @torch.no_grad()
    def predict_samples(
        self,
        images: Tensor,
        num_samples: int,
        *,
        view_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Hypotheses (B, num_samples, R, R, R) of what images (B, V, 3, H, W) show."""
        check_count("num_samples", num_samples)
        with evaluation_mode(self):
            posterior = self.encode(images, view_mask)
            volumes = [self.decode(posterior.sample(generator)).refined for _ in range(num_samples)]
        return torch.stack(volumes, dim=1)

    @torch.no_grad()
    def interpolate(self, first: Tensor, second: Tensor, steps: int = 8) -> Tensor:
        """Volumes (B, steps, R, R, R) on the straight line between what two sets of images show.

        Args:
            first, second: (B, V, 3, H, W); their numbers of views may differ.
        """
        check_count("steps", steps)
        if len(first) != len(second):
            raise ValueError(f"first and second must be as many, got {len(first)}, {len(second)}")
        with evaluation_mode(self):
            start, end = self.encode(first).mean, self.encode(second).mean
            weights = torch.linspace(0.0, 1.0, steps, device=start.device)
            volumes = [self.decode(torch.lerp(start, end, weight)).refined for weight in weights]
        return torch.stack(volumes, dim=1)

    @overload
    def reconstruct(
        self,
        images: Tensor,
        resolution: int = ...,
        threshold: float | None = ...,
        *,
        num_samples: None = ...,
        **options: Any,
    ) -> "list[trimesh.Trimesh]": ...

    @overload
    def reconstruct(
        self,
        images: Tensor,
        resolution: int = ...,
        threshold: float | None = ...,
        *,
        num_samples: int,
        **options: Any,
    ) -> "list[list[trimesh.Trimesh]]": ...

    def reconstruct(
        self,
        images: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        num_samples: int | None = None,
        view_mask: Tensor | None = None,
        **options: Any,
    ) -> "list[trimesh.Trimesh] | list[list[trimesh.Trimesh]]":
        """As `VoxelModel.reconstruct`; with `num_samples` a list of hypotheses for each item."""
        surface = (resolution, threshold)
        if num_samples is None:
            return super().reconstruct(images, *surface, view_mask=view_mask, **options)
        samples = self.predict_samples(images, num_samples, view_mask=view_mask)
        return [self.mesh(volumes, *surface, **options) for volumes in samples]


@register_model
def pix2vox_vae(
    *,
    backbone: str = "vgg16_bn",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    image_size: int = 224,
    resolution: int = 32,
    width: float = 1.0,
    latent_size: int = 64,
    fusion: Literal["poe", "mean"] = "poe",
    parity: bool = False,
    threshold: float = 0.3,
) -> Pix2VoxVae:
    """Pix2Vox-VAE: the layers of Pix2Vox-A around a latent vector.

    Args:
        backbone, pretrained, encoder_weights, image_size, resolution, width, threshold: see
            `occvae.models.pix2vox.pix2vox.pix2vox_a`.
        latent_size: D.
        fusion: `poe`, product of experts, or `mean`, over the views as the seed.
        parity: the seed with its defects: fusion `mean`, a merger of copies, which is an identity,
            KL summed over the batch and so dependent on its size, and a random z in evaluation,
            whose figures then differ from time to time. It was trained with `optim.lr=1e-4
            optim.kl_weight=1e-4 optim.dice_weight=0 frozen=["encoder.backbone"]`.
    """
    if fusion not in FUSIONS:
        raise UserError(f"unknown fusion {fusion!r}; choose from {', '.join(FUSIONS)}")
    if latent_size < 1:
        raise UserError(f"latent_size must be positive, got {latent_size}")
    encoder = build_encoder(
        LAYERS_A,
        nn.ELU,
        backbone=backbone,
        pretrained=pretrained,
        encoder_weights=encoder_weights,
        image_size=image_size,
        width=width,
        normalization="symmetric" if parity else "imagenet",
    )
    return Pix2VoxVae(
        encoder=encoder,
        decoder=build_decoder(encoder.num_features, CHANNELS_A, resolution, width),
        merger=ContextMerger() if parity else None,
        refiner=Refiner(resolution, width),
        image_size=image_size,
        resolution=resolution,
        threshold=threshold,
        latent_size=latent_size,
        fusion="mean" if parity else fusion,
        parity=parity,
    )
