"""Pix2Vox++-VAE: a variational model whose views also meet in the multi-scale merger."""

from typing import Any

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.pix2vox.blocks import MultiScaleMerger, Refiner
from occvae.models.pix2vox.pix2vox import CHANNELS_A, LAYERS_PP_A, build_decoder, build_encoder
from occvae.models.pix2vox.vae import Pix2VoxVae
from occvae.models.posterior import Posterior, product_of_experts
from occvae.models.protocol import VoxelOutput
from occvae.models.registry import register_model


class MultiScaleVae(Pix2VoxVae):
    """Decodes the posterior of all views and that of each view, and merges these volumes.

    Sources: the layers of Pix2Vox++/A (Xie et al. 2020) around the latent vector of `Pix2VoxVae`.
    In `Pix2VoxVae` a merger would have no effect, because one latent gives one volume. Here an
    item with V views has V + 1 latents: that of the product of all experts, and for each view that
    of its own expert and the prior. The multi-scale merger weights their volumes per voxel. It can
    therefore keep a detail that one view shows and the product loses. With one view both latents
    are the same, and so are the volumes.

    The latents of an item are drawn with the same noise, so hypotheses differ as a whole. The KL
    term is averaged over all latents of a batch. `encode`, `decode`, `sample` and `interpolate` use
    the posterior of all views alone.

    Args:
        **parts: Arguments of `Pix2VoxVae` other than `fusion` and `parity`.

    Shapes: images (B, V, 3, H, W) and volumes (B, R, R, R) in [0, 1], view_mask (B, V) bool.
    """

    def __init__(self, **parts: Any):
        super().__init__(fusion="poe", parity=False, **parts)

    def _decode_posterior(
        self, posterior: Posterior, views: Posterior, mask: Tensor, noise: Tensor
    ) -> VoxelOutput:
        if mask.shape[1] == 1:
            return super()._decode_posterior(posterior, views, mask, noise)
        single = mask.new_ones(len(views.mean), 1)
        own = Posterior(*product_of_experts(*views, single))
        candidates = nn.functional.pad(mask, (1, 0), value=True)
        latents = posterior.mean.new_zeros(*candidates.shape, self.latent_size)
        latents[:, 0] = posterior.at(noise)
        latents[:, 1:][mask] = own.at(noise[mask.nonzero()[:, 0]])
        output = self.decode_views(self.from_latent(latents[candidates]), candidates)
        mean = torch.cat([posterior.mean, own.mean])
        log_variance = torch.cat([posterior.log_variance, own.log_variance])
        return output._replace(mean=mean, log_variance=log_variance)


@register_model
def pix2voxpp_vae(
    *,
    backbone: str = "resnet50",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    image_size: int = 224,
    resolution: int = 32,
    width: float = 1.0,
    latent_size: int = 64,
    threshold: float = 0.3,
) -> MultiScaleVae:
    """Pix2Vox++-VAE: the layers of Pix2Vox++/A, multi-scale merger included, and a latent vector.

    `MultiScaleVae` gives the sources and explains how views meet.
    98,750,541 parameters.

    Args:
        backbone: See `occvae.models.pix2vox.pix2vox.pix2vox_a`, as for all arguments up to `width`.
        pretrained: Whether to download ImageNet weights of the backbone.
        encoder_weights: Local .pth or .safetensors file with ImageNet weights of the backbone.
        image_size: Edge in pixels that images are resized to, a multiple of 8.
        resolution: R, edge of the grid: 32, 64 or 128.
        width: Factor of all channels except those of the backbone and the merger.
        latent_size: D, size of the latent.
        threshold: Probability from which a voxel counts as occupied.

    Shapes: images (B, V, 3, H, W) in [0, 1] -> volumes (B, R, R, R) in [0, 1].
    """
    if latent_size < 1:
        raise UserError(f"latent_size must be positive, got {latent_size}")
    encoder = build_encoder(
        LAYERS_PP_A,
        nn.ReLU,
        backbone=backbone,
        pretrained=pretrained,
        encoder_weights=encoder_weights,
        image_size=image_size,
        width=width,
    )
    return MultiScaleVae(
        encoder=encoder,
        decoder=build_decoder(encoder.num_features, CHANNELS_A, resolution, width),
        merger=MultiScaleMerger(),
        refiner=Refiner(resolution, width),
        image_size=image_size,
        resolution=resolution,
        threshold=threshold,
        latent_size=latent_size,
    )
