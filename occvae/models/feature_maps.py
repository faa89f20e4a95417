"""Image encoders that return feature maps: images (M, 3, S, S) in [0, 1] to maps (M, C, h, w)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from occvae.models.encoders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    HybridEncoder,
    Normalized,
    create_timm,
    hybrid_encoder,
    load_resnet,
    refuse_reserved,
)
from occvae.models.positional_encoding import check_position, fix_positions
from occvae.system.deferred_import import without_dynamo


class FeatureMaps(Normalized):
    """A backbone that returns its last two feature maps, the finer one first.

    Args:
        backbone: Takes normalized images (M, 3, S, S), and returns a list or a dictionary of maps
            (M, C, h, w) or (M, h, w, C).
        channels: C of each map.
        mean: As in `Normalized`.
        std: As in `Normalized`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        super().__init__(mean, std)
        self.backbone = backbone
        self.channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone(self.normalize(images))
        if isinstance(maps, dict):
            maps = maps.values()
        return [
            found if found.shape[1] == channels else found.permute(0, 3, 1, 2)
            for found, channels in zip(maps, self.channels, strict=True)
        ]


class HybridMaps(Normalized):
    """The maps of a hybrid: the second to last of its trunk, and the tokens of its transformer.

    Args:
        hybrid: A hybrid whose transformer neither pools its tokens nor has a head.
        channels: C of each map.
    """

    backbone: Any

    def __init__(self, hybrid: HybridEncoder, channels: Sequence[int]):
        super().__init__(tuple(hybrid.mean.flatten()), tuple(hybrid.std.flatten()))
        self.trunk, self.backbone = hybrid.trunk, hybrid.backbone
        self.channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        *_, fine, coarse = self.trunk(self.normalize(images))
        tokens = self.backbone.forward_features(coarse)
        tokens = tokens[:, -coarse.shape[-2] * coarse.shape[-1] :]  # class tokens come first
        return [fine, tokens.transpose(1, 2).unflatten(2, coarse.shape[-2:])]


@without_dynamo()
def resnet_maps(name: str, pretrained: bool, weights_file: str | None) -> FeatureMaps:
    """The maps of a torchvision ResNet. The arguments are those of `resnet_encoder`."""
    from torchvision.models.feature_extraction import create_feature_extractor

    backbone = load_resnet(name, pretrained, weights_file)
    channels = (backbone.fc.in_features // 2, backbone.fc.in_features)
    layers = create_feature_extractor(backbone, ["layer3", "layer4"])
    return FeatureMaps(layers, channels, IMAGENET_MEAN, IMAGENET_STD)


@without_dynamo()
def timm_maps(
    name: str,
    image_size: int,
    pretrained: bool,
    weights_file: str | None,
    options: dict[str, Any],
    position: str = "learned",
) -> FeatureMaps:
    """The maps of a timm model. The arguments are those of `timm_encoder`."""
    from timm.data.config import resolve_model_data_config
    from timm.models.vision_transformer import VisionTransformer

    check_position(position)
    refuse_reserved(options)
    options = {**options, "features_only": True, "out_indices": (-2, -1)}
    backbone: Any = create_timm(name, image_size, options, pretrained, weights_file)
    if position != "learned":
        transformers = (m for m in backbone.modules() if isinstance(m, VisionTransformer))
        fix_positions(next(transformers, backbone), position, name)
    data = resolve_model_data_config(backbone)
    return FeatureMaps(backbone, backbone.feature_info.channels(), data["mean"], data["std"])


def hybrid_maps(
    name: str,
    trunk: str,
    image_size: int,
    pretrained: bool,
    weights_file: str | None,
    options: dict[str, Any],
    position: str = "learned",
) -> HybridMaps:
    """The maps of a hybrid. The arguments are those of `hybrid_encoder`."""
    whole = {**options, "global_pool": ""}
    hybrid = hybrid_encoder(name, trunk, 0, image_size, pretrained, weights_file, whole, position)
    network: Any = hybrid.trunk.network
    transformer: Any = hybrid.backbone
    return HybridMaps(hybrid, (network.feature_info.channels()[-2], transformer.embed_dim))
