"""Pix2Vox (Xie et al., ICCV 2019) and Pix2Vox++ (Xie et al., IJCV 2020)."""

import math
from typing import Any

from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.pix2vox.base import Pix2VoxBase
from occvae.models.pix2vox.blocks import (
    ContextMerger,
    MultiScaleMerger,
    Refiner,
    VolumeDecoder,
    initialize,
    scaled,
)
from occvae.models.pix2vox.encoder import ConvLayer, ViewEncoder, create_backbone
from occvae.models.protocol import VoxelOutput
from occvae.models.registry import register_model

LAYERS_A = (ConvLayer(512, 3), ConvLayer(512, 3, pool=3), ConvLayer(256, 1))
LAYERS_F = (ConvLayer(512, 1), ConvLayer(256, 3, pool=4), ConvLayer(128, 3))
LAYERS_PP_A = (
    ConvLayer(512, 3, padding=1),
    ConvLayer(256, 3, padding=1, pool=2),
    ConvLayer(256, 3, padding=1, pool=2),
)
LAYERS_PP_F = (
    ConvLayer(128, 3, padding=1),
    ConvLayer(64, 3, padding=1, pool=2),
    ConvLayer(64, 3, padding=1, pool=2),
)
CHANNELS_A = (512, 128, 32, 8)
CHANNELS_F = (128, 64, 32, 8)


class Pix2Vox(Pix2VoxBase):
    """Each view is decoded by itself, then the volumes are merged voxel by voxel and refined."""

    def encode(self, images: Tensor, view_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """RGB images (B, V, 3, H, W) in [0, 1] to conditioning: see `encode_views`."""
        return self.encode_views(images, view_mask)

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> VoxelOutput:
        """Images (B, V, 3, H, W), and which views are there, (B, V) bool or None for all."""
        return self.decode_views(*self.encode(images, view_mask))


def build_encoder(
    layers: tuple[ConvLayer, ...],
    activation: type[nn.Module],
    *,
    backbone: str,
    pretrained: bool,
    encoder_weights: str | None,
    image_size: int,
    width: float,
    normalization: str = "imagenet",
    crop: int = 0,
) -> ViewEncoder:
    if not 0.0 < width < math.inf:
        raise UserError(f"width must be a positive factor, got {width}")
    network, channels = create_backbone(backbone, pretrained, encoder_weights, normalization)
    return ViewEncoder(network, channels, layers, activation, image_size, width, crop)


def build_decoder(
    num_features: int, channels: tuple[int, ...], resolution: int, width: float
) -> VolumeDecoder:
    return VolumeDecoder(num_features, tuple(scaled(c, width) for c in channels), resolution)


def _pix2vox(
    layers: tuple[ConvLayer, ...],
    channels: tuple[int, ...],
    *,
    activation: type[nn.Module],
    merger: nn.Module,
    refined: bool,
    resolution: int,
    width: float,
    image_size: int,
    threshold: float,
    background_gray: int,
    legacy_init: bool = False,
    **seeing: Any,
) -> Pix2Vox:
    encoder = build_encoder(layers, activation, image_size=image_size, width=width, **seeing)
    if legacy_init:
        encoder.apply(initialize)
    return Pix2Vox(
        encoder,
        build_decoder(encoder.num_features, channels, resolution, width),
        merger,
        Refiner(resolution, width) if refined else None,
        image_size=image_size,
        resolution=resolution,
        threshold=threshold,
        background_gray=background_gray,
    )


@register_model
def pix2vox_a(
    *,
    backbone: str = "vgg16_bn",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    image_size: int = 224,
    resolution: int = 32,
    width: float = 1.0,
    threshold: float = 0.3,
    legacy_init: bool = False,
    normalization: str = "imagenet",
    crop: int = 0,
    background_gray: int = 255,
) -> Pix2Vox:
    """Pix2Vox-A: 114.2 M parameters at the published sizes.

    Args:
        backbone: `vgg16_bn` (its first 27 layers), a torchvision ResNet (up to layer2), or any timm
            network with a feature map of stride 8.
        pretrained: ImageNet weights from the hub.
        encoder_weights: ImageNet weights from a local .pth or .safetensors file.
        image_size: edge in pixels, without what is cropped a multiple of 8; other sizes are
            resized.
        resolution: of the grid: 32, 64 or 128.
        width: factor of all channels but the backbone's and the merger's.
        threshold: probability from which a voxel counts as occupied.
        legacy_init: as the original does, overwrite the pretrained backbone with random weights.
        normalization: of images, `imagenet` or `symmetric`, to [-1, 1] as in the original; timm's
            networks have their own.
        crop: pixels of `image_size` left out on each side.
        background_gray: the gray, 0 to 255, that transparent images are laid on.
    """
    return _pix2vox(
        LAYERS_A, CHANNELS_A, activation=nn.ELU, merger=ContextMerger(), refined=True, **locals()
    )


@register_model
def pix2vox_f(
    *,
    backbone: str = "vgg16_bn",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    image_size: int = 224,
    resolution: int = 32,
    width: float = 1.0,
    threshold: float = 0.3,
    legacy_init: bool = False,
    normalization: str = "imagenet",
    crop: int = 0,
    background_gray: int = 255,
) -> Pix2Vox:
    """Pix2Vox-F: 7.4 M parameters, without a refiner. Arguments as `pix2vox_a`."""
    return _pix2vox(
        LAYERS_F, CHANNELS_F, activation=nn.ELU, merger=ContextMerger(), refined=False, **locals()
    )


@register_model
def pix2voxpp_a(
    *,
    backbone: str = "resnet50",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    image_size: int = 224,
    resolution: int = 32,
    width: float = 1.0,
    threshold: float = 0.3,
    legacy_init: bool = False,
    normalization: str = "imagenet",
    crop: int = 0,
    background_gray: int = 255,
) -> Pix2Vox:
    """Pix2Vox++/A: 96.3 M parameters, multi-scale merger. Arguments as `pix2vox_a`."""
    return _pix2vox(
        LAYERS_PP_A,
        CHANNELS_A,
        activation=nn.ReLU,
        merger=MultiScaleMerger(),
        refined=True,
        **locals(),
    )


@register_model
def pix2voxpp_f(
    *,
    backbone: str = "resnet18",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    image_size: int = 224,
    resolution: int = 32,
    width: float = 1.0,
    threshold: float = 0.3,
    legacy_init: bool = False,
    normalization: str = "imagenet",
    crop: int = 0,
    background_gray: int = 255,
) -> Pix2Vox:
    """Pix2Vox++/F: 4.8 M parameters, without a refiner. Arguments as `pix2vox_a`."""
    return _pix2vox(
        LAYERS_PP_F,
        CHANNELS_F,
        activation=nn.ReLU,
        merger=MultiScaleMerger(),
        refined=False,
        **locals(),
    )
