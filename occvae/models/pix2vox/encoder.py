"""The image encoder: the first layers of an ImageNet network, and three convolutions."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.encoders import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder
from occvae.models.pix2vox.blocks import initialize, scaled
from occvae.models.weights import no_weights, read_weights, timm_arguments, wrong_weights
from occvae.system.deferred_import import without_dynamo

# Backbones end at a feature map of edge S / 8 for images of edge S.
STRIDE = 8
# Mean and standard deviation per channel: ImageNet's, or those of Pix2Vox, which map to [-1, 1].
NORMALIZATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True)
class ConvLayer:
    """Sizes of a layer: convolution, batch norm, activation, and max pooling if `pool` > 1."""

    channels: int
    kernel: int
    padding: int = 0
    pool: int = 1


class ViewEncoder(nn.Module):
    """Encodes every view by itself to a feature vector.

    Args:
        backbone: Network from images (M, 3, E, E) in [0, 1] to maps (M, C, E / 8, E / 8).
        in_channels: C.
        layers: The three convolutional layers after the backbone.
        activation: Activation of these layers.
        image_size: S.
        width: Factor of the channels of `layers`.
        crop: Pixels to remove on each side. E = S - 2 * crop must be a multiple of 8.

    Attributes:
        num_features: F, a multiple of 8.

    Raises:
        UserError: The sizes do not fit.

    Shapes: images (M, 3, S, S) in [0, 1] -> features (M, F).
    """

    def __init__(
        self,
        backbone: ImageEncoder,
        in_channels: int,
        layers: tuple[ConvLayer, ...],
        activation: type[nn.Module],
        image_size: int,
        width: float,
        crop: int,
    ):
        super().__init__()
        self.backbone = backbone
        self.layers = nn.Sequential()
        self.seen = slice(crop, image_size - crop)
        image_size -= 2 * crop
        edge = image_size // STRIDE
        for layer in layers:
            channels = scaled(layer.channels, width)
            self.layers.append(_conv_block(in_channels, channels, layer, activation))
            edge = (edge - layer.kernel + 2 * layer.padding + 1) // layer.pool
            in_channels = channels
        if crop < 0:
            raise UserError(f"crop must not be negative, got {crop}")
        if image_size % STRIDE or edge < 1:
            less = " minus twice the crop" if crop else ""
            raise UserError(
                f"image_size{less} must be a multiple of 8 and large enough, got {image_size}"
            )
        self.num_features = in_channels * edge * edge
        self.layers.apply(initialize)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.backbone(images[..., self.seen, self.seen])).flatten(1)


def _conv_block(
    in_channels: int, channels: int, layer: ConvLayer, activation: type[nn.Module]
) -> nn.Sequential:
    block = nn.Sequential(
        nn.Conv2d(in_channels, channels, layer.kernel, padding=layer.padding),
        nn.BatchNorm2d(channels),
        activation(),
    )
    if layer.pool > 1:
        block.append(nn.MaxPool2d(layer.pool))
    return block


@without_dynamo()
def create_backbone(
    name: str, pretrained: bool, weights_file: str | None, normalization: str = "imagenet"
) -> tuple[ImageEncoder, int]:
    """Builds the layers of a network up to stride 8.

    Args:
        name: `vgg16_bn` (its first 27 layers), a torchvision ResNet (up to layer2), or any timm
            network with a feature map of stride 8.
        pretrained: Whether to download ImageNet weights.
        weights_file: Local .pth or .safetensors file with ImageNet weights, or None.
        normalization: Key of `NORMALIZATIONS`; timm networks have their own.

    Returns:
        The network, and the number of its output channels.

    Raises:
        UserError: The name or the normalization is unknown, or weights cannot be loaded.
    """
    if name == "vgg16_bn":
        layers, prefix, channels = _vgg_layers(), "features.", 512
    elif _is_of_torchvision(name):
        prefix = ""
        layers, channels = _resnet_layers(name)
    else:
        return _timm_backbone(name, pretrained, weights_file)
    if weights_file is not None:
        _load(layers, read_weights(weights_file), prefix, weights_file, name)
    elif pretrained:
        _load(layers, _torchvision_weights(name), prefix, "torchvision", name)
    return ImageEncoder(layers, *_normalization(normalization)), channels


def _normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if name not in NORMALIZATIONS:
        raise UserError(f"unknown normalization {name!r}; choose from {', '.join(NORMALIZATIONS)}")
    return NORMALIZATIONS[name]


def _vgg_layers() -> nn.Sequential:
    from torchvision.models import vgg

    # The whole network is not built: most of its parameters are in the classifier.
    return vgg.make_layers(vgg.cfgs["D"], batch_norm=True)[:27]


def _is_of_torchvision(name: str) -> bool:
    from torchvision.models import list_models

    return name.startswith("resnet") and name in list_models()


def _resnet_layers(name: str) -> tuple[nn.Sequential, int]:
    """Returns the layers of a torchvision ResNet up to stride 8, and their output channels."""
    from torchvision.models import get_model

    network = get_model(name)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
    layers = nn.Sequential(OrderedDict((part, getattr(network, part)) for part in names))
    return layers, network.layer3[0].conv1.in_channels


def _torchvision_weights(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    except OSError as error:
        raise no_weights(name, error) from None


def _load(layers: nn.Module, state: dict[str, Tensor], prefix: str, source: str, name: str) -> None:
    try:
        layers.load_state_dict({key: state[prefix + key] for key in layers.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise wrong_weights(source, name, error) from None


def _timm_backbone(
    name: str, pretrained: bool, weights_file: str | None
) -> tuple[ImageEncoder, int]:
    import timm
    from timm.data.config import resolve_model_data_config

    if name.split(".")[0] not in timm.list_models():
        raise UserError(
            f"unknown backbone {name!r}; choose e.g. vgg16_bn, resnet18, or one of timm"
        )
    try:
        with torch.device("meta"):
            features: Any = timm.create_model(name, features_only=True)
        reductions = features.feature_info.reduction()
        if STRIDE not in reductions:
            raise UserError(
                f"backbone {name!r} has feature maps of strides {reductions}, but not of stride "
                f"{STRIDE}; choose another backbone"
            )
        weights = timm_arguments(name, pretrained, weights_file)
        last = (reductions.index(STRIDE),)
        network: Any = timm.create_model(name, features_only=True, out_indices=last, **weights)
    except (OSError, RuntimeError) as error:
        if weights_file is not None:
            raise wrong_weights(weights_file, name, error) from None
        raise no_weights(name, error) from None
    data = resolve_model_data_config(network)
    [channels] = network.feature_info.channels()
    return ImageEncoder(_OnlyMap(network), data["mean"], data["std"]), channels


class _OnlyMap(nn.Module):
    """Unpacks the list of one feature map that timm's networks return."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]
