"""Image encoders: images (B, 3, S, S) in [0, 1] to embeddings (B, E).

torchvision and timm are imported when an encoder is built. Decoders, kernels and meshing therefore
work without them.
"""

import difflib
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.positional_encoding import check_position, fix_positions
from occvae.models.weights import no_weights, read_weights, timm_arguments, wrong_weights
from occvae.system.deferred_import import without_dynamo

if TYPE_CHECKING:
    from torchvision.models import ResNet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalized(nn.Module):
    """Base of modules that normalize images as their backbone expects.

    Args:
        mean: Mean per channel, subtracted from images in [0, 1].
        std: Standard deviation per channel, by which the difference is divided.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class ImageEncoder(Normalized):
    """A backbone behind the input normalization that it was designed for.

    Args:
        backbone: Takes normalized images (M, 3, S, S).
        mean: As in `Normalized`.
        std: As in `Normalized`.
    """

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__(mean, std)
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(self.normalize(images))


class HybridEncoder(ImageEncoder):
    """A vision transformer whose tokens are the positions of a convolutional feature map.

    This is the hybrid of Dosovitskiy et al. (2021).

    Args:
        trunk: Takes normalized images (M, 3, S, S), returns feature maps. The last one is used.
        backbone: A transformer with patches of one position of that map.
        mean: As in `Normalized`.
        std: As in `Normalized`.
    """

    def __init__(
        self,
        trunk: "Trunk",
        backbone: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        super().__init__(backbone, mean, std)
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(self.trunk(self.normalize(images))[-1])


@without_dynamo()
def resnet_encoder(
    name: str, embedding_size: int, pretrained: bool, weights_file: str | None
) -> ImageEncoder:
    """Builds a torchvision ResNet with a linear embedding instead of the classifier.

    Args:
        name: Name in torchvision that starts with `resnet`.
        embedding_size: E.
        pretrained: Whether to download torchvision's default weights.
        weights_file: Local ImageNet weights, or None. The file's classifier is ignored.

    Raises:
        UserError: The name is unknown, or the weights cannot be read or do not fit.
    """
    backbone = load_resnet(name, pretrained, weights_file)
    backbone.fc = nn.Linear(backbone.fc.in_features, embedding_size)
    return ImageEncoder(backbone, IMAGENET_MEAN, IMAGENET_STD)


def load_resnet(name: str, pretrained: bool, weights_file: str | None) -> "ResNet":
    """Builds a torchvision ResNet. The arguments are those of `resnet_encoder`."""
    from torchvision.models import get_model, list_models

    if not name.startswith("resnet") or name not in list_models():
        raise UserError(f"unknown ResNet {name!r}; choose e.g. resnet18, resnet34, resnet50")
    try:
        backbone = get_model(name, weights="DEFAULT" if pretrained else None)
    except OSError as error:
        raise no_weights(name, error) from None
    if weights_file is not None:
        state = {
            key: value
            for key, value in read_weights(weights_file).items()
            if not key.startswith("fc.")
        }
        try:
            missing, unexpected = backbone.load_state_dict(state, strict=False)
        except RuntimeError as error:  # tensors of other shapes
            raise wrong_weights(weights_file, name, error) from None
        if unexpected or any(not key.startswith("fc.") for key in missing):
            raise UserError(f"{weights_file}: not the weights of {name}")
    return backbone


@without_dynamo()
def timm_encoder(
    name: str,
    embedding_size: int,
    image_size: int,
    pretrained: bool,
    weights_file: str | None,
    options: dict[str, Any],
    position: str = "learned",
) -> ImageEncoder:
    """Builds a timm model, for example a vision transformer, with the embedding as its head.

    Args:
        name: Any model name of timm.
        embedding_size: E.
        image_size: Passed to timm as `img_size`, unless the model accepts any size.
        pretrained: Whether to use ImageNet weights, see `timm_arguments`.
        weights_file: Local timm weights, or None.
        options: Further arguments of `timm.create_model`.
        position: Positional encoding of a vision transformer: `learned`, as timm builds it, or one
            of `fix_positions`.

    Raises:
        UserError: The name or the position is unknown, timm rejects the options, the model has no
            positions to replace, or the weights cannot be read or do not fit.
    """
    from timm.data.config import resolve_model_data_config

    check_position(position)
    refuse_reserved(options)
    options = {"num_classes": embedding_size, **options}
    backbone = create_timm(name, image_size, options, pretrained, weights_file)
    if position != "learned":
        fix_positions(backbone, position, name)
    data = resolve_model_data_config(backbone)
    return ImageEncoder(backbone, data["mean"], data["std"])


@without_dynamo()
def hybrid_encoder(
    name: str,
    trunk: str,
    embedding_size: int,
    image_size: int,
    pretrained: bool,
    weights_file: str | None,
    options: dict[str, Any],
    position: str = "learned",
) -> HybridEncoder:
    """Builds a vision transformer on the last feature map of a convolutional network.

    If the trunk has ImageNet weights, the encoder learns from far fewer images.

    Args:
        name: A vision transformer of timm, for example `vit_tiny_patch16_224`. It starts from
            random weights, and its patch size has no effect.
        trunk: A convolutional network of timm, for example `efficientnet_lite0`.
        embedding_size: E.
        image_size: Edge of the images in pixels.
        pretrained: Whether the trunk uses ImageNet weights, see `timm_arguments`.
        weights_file: Local timm weights of the trunk, or None.
        options: Further arguments of `timm.create_model` for the transformer, for example `depth`.
        position: Positional encoding of the transformer, as for `timm_encoder`.

    Raises:
        UserError: As for `timm_encoder`, or the two models cannot be combined.
    """
    from timm.data.config import resolve_model_data_config

    check_position(position)
    refuse_reserved(options)
    features = create_timm(trunk, image_size, {"features_only": True}, pretrained, weights_file)
    channels, edge = _last_map(features, image_size)
    shape = {"in_chans": channels, "patch_size": 1}
    try:
        backbone = create_timm(name, edge, {"num_classes": embedding_size, **shape, **options})
    except UserError as error:
        raise UserError(
            f"{error}; only plain vision transformers take a trunk, e.g. vit_tiny_patch16_224"
        ) from None
    if position != "learned":
        fix_positions(backbone, position, name)
    data = resolve_model_data_config(features)
    return HybridEncoder(Trunk(features), backbone, data["mean"], data["std"])


def _last_map(features: nn.Module, image_size: int) -> tuple[int, int]:
    """Channels and edge in positions of the last feature map."""
    features.eval()
    with torch.no_grad():
        shape = features(torch.zeros(1, 3, image_size, image_size))[-1].shape
    features.train()
    return shape[1], shape[-1]


class Trunk(nn.Module):
    """Returns the feature maps (M, C, H, W) of a convolutional network of timm.

    On CPUs it always runs in fp32, because the gradients of depthwise convolutions take twice as
    long in bf16, and with channels last, which takes half the time.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.device.type != "cpu":
            return self.network(images)
        with torch.autocast("cpu", enabled=False):
            return self.network(images.contiguous(memory_format=torch.channels_last))


def refuse_reserved(options: dict[str, Any]) -> None:
    if reserved := options.keys() & {"img_size", "num_classes", "pretrained", "embed_layer"}:
        raise UserError(
            f"encoder_options must not contain {', '.join(sorted(reserved))}; set image_size, "
            "embedding_size, pretrained or trunk instead"
        )


def create_timm(
    name: str,
    image_size: int,
    options: dict[str, Any],
    pretrained: bool = False,
    weights_file: str | None = None,
) -> nn.Module:
    """Builds a timm model. Its errors become UserErrors of one line."""
    import timm

    if name.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models()) or ["vit_small_patch16_224"]
        raise UserError(f"unknown timm model {name!r}; near names: {', '.join(near)}")
    try:
        weights = timm_arguments(name, pretrained, weights_file, **options)
        return _with_image_size(name, image_size, options | weights)
    except (TypeError, AssertionError) as error:
        raise UserError(f"timm model {name!r} rejects encoder_options ({error})") from None
    except (OSError, RuntimeError) as error:
        if weights_file is not None:
            raise wrong_weights(weights_file, name, error) from None
        if not pretrained:
            raise UserError(f"timm model {name!r} cannot be built: {error}") from None
        raise no_weights(name, error) from None


def _with_image_size(name: str, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, img_size=image_size, **arguments)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        logging.getLogger(__name__).debug("%s accepts any image size", name)
        return timm.create_model(name, **arguments)
