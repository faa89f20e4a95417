"""Pix2Vox-VAE: a variational model of the shapes that views show, and of all shapes."""

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.aggregate_posterior import AggregatePosterior
from occvae.models.inference import evaluation_mode
from occvae.models.inputs import ImageInput
from occvae.models.pix2vox.base import Pix2VoxBase
from occvae.models.pix2vox.blocks import ContextMerger, Refiner
from occvae.models.pix2vox.pix2vox import CHANNELS_A, LAYERS_A, build_decoder, build_encoder
from occvae.models.posterior import Posterior, mean_of_views, product_of_experts
from occvae.models.protocol import LatentModel, VariationalModel, VoxelOutput, resample
from occvae.models.registry import register_model
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress

FUSIONS = {"poe": product_of_experts, "mean": mean_of_views}
_FIRST_LOG_VARIANCE = -4.0
# Limit of a view's log variance in either direction. Far beyond it, float32 exponentials overflow.
_LARGEST_LOG_VARIANCE = 20.0


class Pix2VoxVae(Pix2VoxBase, VariationalModel, LatentModel):
    """Encodes views to a Gaussian over latents, and decodes a latent to a volume.

    Sources: variational autoencoders (Kingma and Welling 2014) and the layers of Pix2Vox-A (Xie et
    al. 2019). Public code under the name Pix2Vox-VAE exists, without a paper. Four things differ:

    - The posteriors of the views are multiplied, as experts. The original averages features.
    - There is no merger. The original decodes one latent into as many equal volumes as there are
      views, and merging equal volumes is an identity.
    - The KL term is averaged over the batch. The original sums it, so its weight depends on the
      batch size.
    - In eval mode the latent is the posterior's mean. The original draws it at random, so its
      metrics vary from run to run.

    All information from images to volumes passes through the latent, so the KL term limits all of
    it. New shapes are drawn from `AggregatePosterior`.

    Args:
        latent_size: D, size of the latent.
        fusion: How posteriors of views are combined: `poe`, the product of experts, or `mean`.
        parity: Whether to behave as the original in the last three points.
        **parts: Arguments of `Pix2VoxBase`.

    Shapes: images (B, V, 3, H, W) and volumes (B, R, R, R) in [0, 1], view_mask (B, V) bool.
    """

    def __init__(self, *, latent_size: int, fusion: str, parity: bool, **parts: Any):
        super().__init__(**parts)
        num_features = self.encoder.num_features
        self.to_mean = nn.Linear(num_features, latent_size)
        self.to_log_variance = nn.Linear(num_features, latent_size)
        self.from_latent = nn.Linear(latent_size, num_features)
        self.aggregate = AggregatePosterior(latent_size)
        if not parity:
            # The decoder learns to ignore latents that start as noise. Posteriors therefore start
            # narrow, with means that depend on the image, and the KL term widens them.
            nn.init.zeros_(self.to_log_variance.weight)
            nn.init.constant_(self.to_log_variance.bias, _FIRST_LOG_VARIANCE)
        self.latent_size, self.fusion = latent_size, fusion
        self.parity = self.sum_kl = parity

    def encode(self, images: Tensor, view_mask: Tensor | None = None) -> Posterior:
        """Encodes RGB images (B, V, 3, H, W) in [0, 1] to the posterior q(z | views).

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            view_mask: (B, V) bool, True for the views that exist; None if all do.
        """
        return self._fuse(*self._encode_each(images, view_mask))

    def _encode_each(
        self, images: Tensor, view_mask: Tensor | None = None
    ) -> tuple[Posterior, Tensor]:
        """Returns the Gaussians of the M views that exist, and the mask (B, V) of these views."""
        features, mask = self.encode_views(images, view_mask)
        log_variances = self.to_log_variance(features).float()
        log_variances = log_variances.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
        return Posterior(self.to_mean(features).float(), log_variances), mask

    def _fuse(self, views: Posterior, mask: Tensor) -> Posterior:
        return Posterior(*FUSIONS[self.fusion](*views, mask))

    def decode(self, latents: Tensor, num_copies: int = 1) -> VoxelOutput:
        """Decodes latents (B, D) to volumes.

        Args:
            latents: (B, D).
            num_copies: Volumes per latent for the merger; other than 1 only with `parity`.
        """
        mask = torch.ones(len(latents), num_copies, dtype=torch.bool, device=latents.device)
        features = self.from_latent(latents)
        return self.decode_views(features.repeat_interleave(num_copies, dim=0), mask)

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> VoxelOutput:
        """Predicts volumes, from a random latent in training mode and from the mean in eval mode.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            view_mask: (B, V) bool, True for the views that exist; None if all do.
        """
        views, mask = self._encode_each(images, view_mask)
        posterior = self._fuse(views, mask)
        if self.aggregate.training:
            self.aggregate.update(posterior)
        is_random = self.training or self.parity
        noise = posterior.noise() if is_random else torch.zeros_like(posterior.mean)
        return self._decode_posterior(posterior, views, mask, noise)

    def _decode_posterior(
        self, posterior: Posterior, views: Posterior, mask: Tensor, noise: Tensor
    ) -> VoxelOutput:
        """Decodes the latents (B, D) that are `noise` standard deviations from the means."""
        output = self.decode(posterior.at(noise), mask.shape[1] if self.parity else 1)
        return output._replace(mean=posterior.mean, log_variance=posterior.log_variance)

    @torch.no_grad()
    def sample(
        self, count: int, resolution: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws new shapes: probabilities (count, R, R, R).

        Latents come from the `AggregatePosterior` of the training shapes, with `parity` too. Pass
        other latents, for example from the prior N(0, 1), to `decode`.

        Args:
            count: Number of shapes.
            resolution: R. None selects the model's own.
            generator: Random generator on the model's device.
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
        """Draws hypotheses of the shape that the images show, each from a random latent.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            num_samples: Number of hypotheses per item.
            view_mask: (B, V) bool, True for the views that exist; None if all do.
            generator: Random generator on the model's device.

        Returns:
            Probabilities (B, num_samples, R, R, R).
        """
        check_count("num_samples", num_samples)
        with evaluation_mode(self):
            views, mask = self._encode_each(images, view_mask)
            posterior = self._fuse(views, mask)
            draws = (posterior.noise(generator) for _ in range(num_samples))
            outputs = [self._decode_posterior(posterior, views, mask, noise) for noise in draws]
        return torch.stack([output.refined for output in outputs], dim=1)

    @torch.no_grad()
    def interpolate(self, first: Tensor, second: Tensor, steps: int = 8) -> Tensor:
        """Decodes the straight line in latent space between two sets of images.

        Args:
            first: (B, V, 3, H, W) RGB in [0, 1]; the line starts at the posterior's mean.
            second: (B, W, 3, H, W) RGB in [0, 1]; the number of views may differ.
            steps: Number of volumes, both ends included.

        Returns:
            Probabilities (B, steps, R, R, R).

        Raises:
            ValueError: The batch sizes differ, or steps is less than 1.
        """
        check_count("steps", steps)
        if len(first) != len(second):
            raise ValueError(
                f"first and second must have one batch size, got {len(first)}, {len(second)}"
            )
        with evaluation_mode(self):
            start, end = self.encode(first).mean, self.encode(second).mean
            weights = torch.linspace(0.0, 1.0, steps, device=start.device)
            volumes = [self.decode(torch.lerp(start, end, weight)).refined for weight in weights]
        return torch.stack(volumes, dim=1)

    @torch.no_grad()
    def encode_latents(self, images: Tensor) -> Tensor:
        """Returns the means (B, D) of the posteriors of images (B, V, 3, H, W) in [0, 1]."""
        with evaluation_mode(self):
            return self.encode(images).mean

    def latent_axes(self, count: int) -> Tensor:
        """Returns principal axes (count, D) of the `AggregatePosterior`, see `LatentModel`."""
        return self.aggregate.principal_axes(check_count("count", count))

    def mean_latent(self) -> Tensor:
        """Returns the mean (D,) of the `AggregatePosterior`."""
        return self.aggregate.mean.clone()

    @torch.no_grad()
    def mesh_latents(
        self,
        latents: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        progress: "Progress | None" = None,
    ) -> "list[trimesh.Trimesh]":
        """Returns the mesh of each latent (B, D), see `LatentModel.mesh_latents`."""
        with evaluation_mode(self):
            volumes = self.decode(latents).refined
        return self.mesh(volumes, resolution, threshold, progress=progress)

    @overload
    def reconstruct(
        self,
        images: ImageInput,
        resolution: int = ...,
        threshold: float | None = ...,
        *,
        num_samples: None = ...,
        **options: Any,
    ) -> "list[trimesh.Trimesh]": ...

    @overload
    def reconstruct(
        self,
        images: ImageInput,
        resolution: int = ...,
        threshold: float | None = ...,
        *,
        num_samples: int,
        **options: Any,
    ) -> "list[list[trimesh.Trimesh]]": ...

    def reconstruct(
        self,
        images: ImageInput,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        num_samples: int | None = None,
        view_mask: Tensor | None = None,
        **options: Any,
    ) -> "list[trimesh.Trimesh] | list[list[trimesh.Trimesh]]":
        """One mesh per object, or with `num_samples` a list of hypotheses per object.

        Args:
            images: As in `Model.reconstruct`.
            resolution: As in `VoxelModel.reconstruct`.
            threshold: As in `VoxelModel.reconstruct`.
            num_samples: Number of hypotheses per object; None for the mesh of the posterior's mean.
            view_mask: (B, V) bool, True for the views that exist; None if all do.
            **options: Further arguments of `VoxelModel.reconstruct`.
        """
        surface = (resolution, threshold)
        if num_samples is None:
            return super().reconstruct(images, *surface, view_mask=view_mask, **options)
        samples = self.predict_samples(self.to_batch(images), num_samples, view_mask=view_mask)
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

    `Pix2VoxVae` gives the sources and the differences from public code.
    117,398,136 parameters.

    Args:
        backbone: See `occvae.models.pix2vox.pix2vox.pix2vox_a`, as for all arguments up to `width`.
        pretrained: Whether to download ImageNet weights of the backbone.
        encoder_weights: Local .pth or .safetensors file with ImageNet weights of the backbone.
        image_size: Edge in pixels that images are resized to, a multiple of 8.
        resolution: R, edge of the grid: 32, 64 or 128.
        width: Factor of all channels except those of the backbone and the merger.
        latent_size: D, size of the latent.
        fusion: How posteriors of views are combined: `poe`, the product of experts, or `mean`.
        parity: Whether to build the original with its defects: fusion `mean`, a merger of equal
            volumes, images mapped to [-1, 1], the KL term summed over the batch, and a random
            latent in eval mode. The original was trained with `optim.lr=1e-4 optim.kl_weight=1e-4
            optim.dice_weight=0 frozen=["encoder.backbone"]`.
        threshold: Probability from which a voxel counts as occupied.

    Shapes: images (B, V, 3, H, W) in [0, 1] -> volumes (B, R, R, R) in [0, 1].
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
