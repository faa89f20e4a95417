"""onet and vitocc: occupancy networks that observe images."""

from typing import Any, Literal

from occvae.models.decoders import create_decoder
from occvae.models.encoders import ImageEncoder, hybrid_encoder, resnet_encoder, timm_encoder
from occvae.models.feature_maps import (
    FeatureMaps,
    HybridMaps,
    hybrid_maps,
    resnet_maps,
    timm_maps,
)
from occvae.models.occupancy import OccupancyModel
from occvae.models.presets import GENERAL, Settings, register_presets
from occvae.models.pretrained import DEFAULT_MODEL, load_encoder, names_model
from occvae.models.registry import register_model
from occvae.models.triplane import triplane_model


@register_model
def onet(
    *,
    encoder: str = "resnet18",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    image_size: int = 224,
    embedding_size: int = 256,
    decoder: str = "cbn",
    hidden_size: int = 256,
    num_blocks: int = 5,
    plane_options: dict[str, int] | None = None,
    threshold: float = 0.3,
) -> OccupancyModel:
    """The image model of Occupancy Networks: a ResNet-18 and the conditional batch norm decoder.

    Source: Mescheder et al., Occupancy Networks, CVPR 2019. The layers are the published ones.
    Three defaults differ. Batch norm statistics span all ranks. The encoder starts at random unless
    `pretrained` or `encoder_weights` is given. The threshold is 0.3 instead of 0.2; converted
    weights keep 0.2.
    13,414,465 parameters.

    Args:
        encoder: Name of a torchvision ResNet.
        pretrained: Whether to download ImageNet weights of the encoder.
        encoder_weights: Local .pth or .safetensors file with ImageNet weights of the encoder.
        image_size: Edge in pixels that images are resized to.
        embedding_size: E, size of the conditioning vector. The `triplane` decoder has none.
        decoder: `cbn`, `cnn`, whose widths are fixed, or `triplane`.
        hidden_size: Width of the `cbn` decoder.
        num_blocks: Number of residual blocks of the `cbn` decoder.
        plane_options: Sizes of the `triplane` decoder that replace those of
            `occvae.models.triplane.SIZES`.
        threshold: Probability from which a point counts as occupied.

    Shapes: images (B, V, 3, H, W) in [0, 1], points (B, N, 3) in [-0.55, 0.55] -> logits (B, N).
    """
    if decoder == "triplane":
        maps = resnet_maps(encoder, pretrained, encoder_weights)
        return triplane_model(maps, plane_options, image_size, threshold)
    image_encoder = resnet_encoder(encoder, embedding_size, pretrained, encoder_weights)
    implicit = create_decoder(decoder, embedding_size, hidden_size, num_blocks)
    return OccupancyModel(image_encoder, implicit, image_size, threshold)


def build_image_encoder(
    encoder: str,
    trunk: str | None,
    image_size: int,
    embedding_size: int,
    pretrained: bool,
    encoder_weights: str | None,
    encoder_options: dict[str, Any] | None,
    position: str = "learned",
) -> ImageEncoder:
    """Builds the image encoder of `vitocc`, which describes the arguments."""
    source, file = _source_of(encoder_weights)
    weights = (pretrained, file, encoder_options or {}, position)
    if trunk is None:
        built = timm_encoder(encoder, embedding_size, image_size, *weights)
    else:
        built = hybrid_encoder(encoder, trunk, embedding_size, image_size, *weights)
    if source is not None:
        load_encoder(built, source)
    return built


# Layers of a transformer that follow its tokens, or change with the pooling.
_HEAD = ("backbone.norm.", "backbone.fc_norm.", "backbone.head.")


def build_feature_maps(
    encoder: str,
    trunk: str | None,
    image_size: int,
    pretrained: bool,
    encoder_weights: str | None,
    encoder_options: dict[str, Any] | None,
    position: str = "learned",
) -> FeatureMaps | HybridMaps:
    """Builds the encoder of `vitocc` without its head, to return feature maps."""
    source, file = _source_of(encoder_weights)
    weights = (pretrained, file, encoder_options or {}, position)
    built: FeatureMaps | HybridMaps
    if trunk is None:
        built = timm_maps(encoder, image_size, *weights)
    else:
        built = hybrid_maps(encoder, trunk, image_size, *weights)
    if source is not None:
        load_encoder(built, source, without=_HEAD)
    return built


def _source_of(encoder_weights: str | None) -> tuple[str | None, str | None]:
    """The model whose encoder is copied, and the file with weights. At most one is not None."""
    if encoder_weights and names_model(encoder_weights):
        return encoder_weights, None
    return None, encoder_weights


@register_model
def vitocc(
    *,
    encoder: str = "vit_small_patch16_224",
    trunk: str | None = None,
    pretrained: bool = False,
    encoder_weights: str | None = None,
    encoder_options: dict[str, Any] | None = None,
    position: Literal["learned", "fixed", "fixed-every-layer"] = "learned",
    image_size: int = 224,
    embedding_size: int = 256,
    decoder: str = "cbn",
    hidden_size: int = 256,
    num_blocks: int = 5,
    plane_options: dict[str, int] | None = None,
    threshold: float = 0.3,
) -> OccupancyModel:
    """ViTOcNet: a vision transformer that outputs the embedding, and an occupancy decoder.

    Source: ViTOcNet, a student project of 2023 that gives Occupancy Networks a vision transformer
    (Dosovitskiy et al. 2021). Two things differ. The encoder is a timm model with a linear head,
    for which pretrained weights exist. The original is a small transformer of its own, and almost
    all of its parameters are in a linear layer over all tokens. The default decoder is `cbn`. The
    original's is `cnn`, and `CnnDecoder` explains what is corrected in it.
    23,870,849 parameters with the default ViT-S/16.

    Args:
        encoder: Any model name of timm.
        trunk: Convolutional network of timm, for example efficientnet_lite0. Its last feature map
            gives the tokens of the encoder, as in the hybrid of Dosovitskiy et al. (2021). The
            encoder must then be a plain vision transformer, and starts from random weights.
        pretrained: Whether the trunk, or without one the encoder, uses ImageNet weights. They come
            from the package of `occvae[weights]` if it has them, or else from timm's download.
        encoder_weights: Local .pth or .safetensors file with timm's weights of the trunk, or
            without one of the encoder. Or a run, an export or a built-in model, whose whole encoder
            is copied. Its options for the encoder must be the same.
        encoder_options: Further arguments of `timm.create_model`, for example depth,
            drop_path_rate or global_pool.
        position: Positional encoding of the tokens: `learned`; `fixed`, sines and cosines of the
            row and the column; or `fixed-every-layer`, which also adds these to the input of every
            attention. The fixed ones need a plain vision transformer, with or without a trunk.
        image_size: Edge in pixels that images are resized to.
        embedding_size: E, size of the conditioning vector. The `triplane` decoder has none.
        decoder: `cbn` as in Occupancy Networks, `cnn`, whose widths are fixed, or `triplane`.
        hidden_size: Width of the `cbn` decoder.
        num_blocks: Number of residual blocks of the `cbn` decoder.
        plane_options: Sizes of the `triplane` decoder that replace those of
            `occvae.models.triplane.SIZES`.
        threshold: Probability from which a point counts as occupied.

    Shapes: images (B, V, 3, H, W) in [0, 1], points (B, N, 3) in [-0.55, 0.55] -> logits (B, N).
    """
    weights = (pretrained, encoder_weights, encoder_options, position)
    if decoder == "triplane":
        maps = build_feature_maps(encoder, trunk, image_size, *weights)
        return triplane_model(maps, plane_options, image_size, threshold)
    image_encoder = build_image_encoder(encoder, trunk, image_size, embedding_size, *weights)
    implicit = create_decoder(decoder, embedding_size, hidden_size, num_blocks)
    return OccupancyModel(image_encoder, implicit, image_size, threshold)


SMALL_DECODER = {"hidden_size": 128, "num_blocks": 3}
# The encoder of the built-in model. It has learned to see from ImageNet and then from the embedded
# shapes. Its first layers see edges and textures. Without their gradients a step is shorter.
BUILT_IN_ENCODER = {
    "encoder": "vit_tiny_patch16_224",
    "trunk": "efficientnet_lite0",
    # With layer scale the new blocks start as identities, and the embedding as a mean of features.
    "encoder_options": {
        "depth": 2,
        "class_token": False,
        "global_pool": "avg",
        "init_values": 1e-3,
    },
    "encoder_weights": DEFAULT_MODEL,
    "image_size": 96,
}
FIRST_LAYERS = tuple(
    f"trunk.network.{name}" for name in ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")
)
# LeViT learns fastest from scratch among timm's vision transformers: its convolutional stem
# already treats neighboring pixels as related.
_LEVIT_MODEL = {"encoder": "levit_128s", "image_size": 128, **SMALL_DECODER}

# For four minutes of one H200. docs/guides/training.md has the arithmetic. It is a prediction.
_PUBLISHED_DECODER = {"hidden_size": 256, "num_blocks": 5}
_H200_MINUTES: Settings = {
    "data": {"on_device": True, "augment": True, "num_points": 1024},
    "optim": {
        "steps": 4000,
        "batch_size": 256,
        "lr": 1e-3,
        "warmup_steps": 200,
        "dice_weight": 0.5,
    },
    "validate_every": 2000,
    "validate_shapes": 128,
    "save_every": 2000,
}

_SMALL = GENERAL["cpu-small"]
register_presets(
    "vitocc",
    {
        "cpu-small": {
            **_SMALL,
            "model": {**BUILT_IN_ENCODER, **SMALL_DECODER},
            "frozen": tuple(f"encoder.{name}" for name in FIRST_LAYERS),
        },
        "cpu-small-from-scratch": {**_SMALL, "model": _LEVIT_MODEL},
        "h200-minutes": {**_H200_MINUTES, "model": {**BUILT_IN_ENCODER, **_PUBLISHED_DECODER}},
        "h200-minutes-from-scratch": {
            **_H200_MINUTES,
            "model": {**_LEVIT_MODEL, **_PUBLISHED_DECODER},
        },
    },
)
register_presets("onet", {"cpu-small": {**_SMALL, "model": {"image_size": 96, **SMALL_DECODER}}})
