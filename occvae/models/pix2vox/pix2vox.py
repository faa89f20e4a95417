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
    """Pix2Vox and Pix2Vox++: decodes each view by itself, then merges and refines the volumes.

    Sources: Xie et al., Pix2Vox, ICCV 2019, and Pix2Vox++, IJCV 2020. The layers are the published
    ones. These things differ from the published code:

    - Pretrained weights of the backbone are kept. The original overwrites them with random ones
      after loading them. `legacy_init=True` of the builders does the same.
    - Images are normalized as for ImageNet, because the backbones' weights expect that. The
      original maps them to [-1, 1] (`normalization="symmetric"`).
    - The last layers are initialized such that volumes start almost empty, see
      `occvae.models.pix2vox.blocks.start_empty`.
    - Views may be missing, and the resolution may also be 64 or 128.

    `pix2vox_a`, `pix2vox_f`, `pix2voxpp_a` and `pix2voxpp_f` build the four published sizes.

    Shapes: images (B, V, 3, H, W) and volumes (B, R, R, R) in [0, 1], view_mask (B, V) bool.
    """

    def encode(self, images: Tensor, view_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encodes RGB images (B, V, 3, H, W) in [0, 1]. Returns the result of `encode_views`."""
        return self.encode_views(images, view_mask)

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> VoxelOutput:
        """Predicts volumes from images (B, V, 3, H, W), see `MultiViewModel.forward`."""
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
    """Builds the backbone and the layers after it; arguments as in `pix2vox_a`."""
    if not 0.0 < width < math.inf:
        raise UserError(f"width must be a positive factor, got {width}")
    network, channels = create_backbone(backbone, pretrained, encoder_weights, normalization)
    return ViewEncoder(network, channels, layers, activation, image_size, width, crop)


def build_decoder(
    num_features: int, channels: tuple[int, ...], resolution: int, width: float
) -> VolumeDecoder:
    """Builds the decoder, with all channels scaled by `width`."""
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
    """Pix2Vox-A, the large version of Pix2Vox: VGG-16, context-aware merger, and refiner.

    Source: Xie et al., ICCV 2019. `Pix2Vox` lists the differences from the published code.
    114,244,467 parameters.

    Args:
        backbone: `vgg16_bn` (its first 27 layers), a torchvision ResNet (up to layer2), or any timm
            network with a feature map of stride 8.
        pretrained: Whether to download ImageNet weights of the backbone.
        encoder_weights: Local .pth or .safetensors file with ImageNet weights of the backbone.
        image_size: Edge in pixels that images are resized to. Minus twice the crop, it must be a
            multiple of 8.
        resolution: R, edge of the grid: 32, 64 or 128.
        width: Factor of all channels except those of the backbone and the merger.
        threshold: Probability from which a voxel counts as occupied.
        legacy_init: Whether to overwrite the backbone's weights with random ones, as the original
            does.
        normalization: Normalization of images: `imagenet`, or `symmetric`, to [-1, 1], as in the
            original. timm networks have their own.
        crop: Pixels to remove on each side of the resized image.
        background_gray: Gray level, 0 to 255, on which transparent images are composited.

    Shapes: images (B, V, 3, H, W) in [0, 1] -> volumes (B, R, R, R) in [0, 1].
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
    """Pix2Vox-F, the small version of Pix2Vox: VGG-16 and context-aware merger, no refiner.

    Source: Xie et al., ICCV 2019. `Pix2Vox` lists the differences from the published code. The
    arguments and shapes are those of `pix2vox_a`. 7,436,307 parameters.
    """
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
    """Pix2Vox++/A, the large version of Pix2Vox++: ResNet-50, multi-scale merger, and refiner.

    Source: Xie et al., IJCV 2020. `Pix2Vox` lists the differences from the published code. The
    arguments and shapes are those of `pix2vox_a`. 96,329,421 parameters.
    """
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
    """Pix2Vox++/F, the small version of Pix2Vox++: ResNet-18 and multi-scale merger, no refiner.

    Source: Xie et al., IJCV 2020. `Pix2Vox` lists the differences from the published code. The
    arguments and shapes are those of `pix2vox_a`. 4,843,245 parameters.
    """
    return _pix2vox(
        LAYERS_PP_F,
        CHANNELS_F,
        activation=nn.ReLU,
        merger=MultiScaleMerger(),
        refined=False,
        **locals(),
    )
