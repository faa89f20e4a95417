"""Image encoders: images (B, 3, S, S) in [0, 1] to embeddings (B, E).

torchvision and timm are imported when an encoder is built. Decoders, kernels and meshing therefore
work without them.
"""

import difflib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.system.deferred_import import without_dynamo

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageEncoder(nn.Module):
    """A backbone behind the input normalization that it was designed for.

    Args:
        backbone: Takes normalized images (M, 3, S, S).
        mean: Mean per channel, subtracted from images in [0, 1].
        std: Standard deviation per channel, by which the difference is divided.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone((images - self.mean) / self.std)


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
    backbone.fc = nn.Linear(backbone.fc.in_features, embedding_size)
    return ImageEncoder(backbone, IMAGENET_MEAN, IMAGENET_STD)


@without_dynamo()
def timm_encoder(
    name: str,
    embedding_size: int,
    image_size: int,
    pretrained: bool,
    weights_file: str | None,
    options: dict[str, Any],
) -> ImageEncoder:
    """Builds a timm model, for example a vision transformer, with the embedding as its head.

    Args:
        name: Any model name of timm.
        embedding_size: E.
        image_size: Passed to timm as `img_size`, unless the model accepts any size.
        pretrained: Whether to download timm's weights.
        weights_file: Local timm weights, or None.
        options: Further arguments of `timm.create_model`.

    Raises:
        UserError: The name is unknown, timm rejects the options, or the weights cannot be read or
            do not fit.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    if name.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models()) or ["vit_small_patch16_224"]
        raise UserError(f"unknown timm model {name!r}; near names: {', '.join(near)}")
    if reserved := options.keys() & {"img_size", "num_classes", "pretrained"}:
        raise UserError(
            f"encoder_options must not contain {', '.join(sorted(reserved))}; set image_size, "
            "embedding_size or pretrained instead"
        )
    arguments = {"num_classes": embedding_size, "pretrained": pretrained, **options}
    try:
        if weights_file is not None:
            arguments |= timm_weights(name, weights_file, **options)
        backbone = _create_timm(name, image_size, arguments)
    except (TypeError, AssertionError) as error:
        raise UserError(f"timm model {name!r} rejects encoder_options {options}: {error}") from None
    except (OSError, RuntimeError) as error:
        if weights_file is not None:
            raise wrong_weights(weights_file, name, error) from None
        if not pretrained:
            raise UserError(f"timm model {name!r} cannot be built: {error}") from None
        raise no_weights(name, error) from None
    data = resolve_model_data_config(backbone)
    return ImageEncoder(backbone, data["mean"], data["std"])


def timm_weights(name: str, weights_file: str, **options: Any) -> dict[str, Any]:
    """Returns the arguments that make `timm.create_model` load weights from a file.

    timm silently skips tensors that the file lacks, even if it lacks all of them. This function
    therefore checks first that the file has at least half of the model's parameters.

    Raises:
        UserError: The file cannot be read, or has too few of the model's parameters.
    """
    import timm

    state = read_weights(weights_file)
    with torch.device("meta"):
        wanted = {key for key, _ in timm.create_model(name, **options).named_parameters()}
    if len(wanted & state.keys()) < len(wanted) / 2:
        raise UserError(f"{weights_file}: not the weights of {name}")
    # No file has a head of this size. timm then drops the file's head instead of rejecting it.
    overlay = {"file": str(weights_file), "num_classes": -1}
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _create_timm(name: str, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, img_size=image_size, **arguments)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        logging.getLogger(__name__).debug("%s accepts any image size", name)
        return timm.create_model(name, **arguments)


def read_weights(path: str) -> dict[str, Tensor]:
    """Reads the state dict of a .safetensors file, or of a .pth file without running its code.

    Removes the prefix `module.` from the names. A state dict under the key `state_dict` or `model`
    is found.

    Raises:
        UserError: The file is missing, cannot be read, or has no named tensors.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's message recommends weights_only=False
        raise UserError(
            f"{path}: not a readable weights file ({type(error).__name__}); expected tensors in "
            ".safetensors, or in .pth as torch.save writes a state dict"
        ) from None
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise UserError(f"{path}: contains a {type(state).__name__} instead of named weights")
    return {key.removeprefix("module."): value for key, value in state.items()}


def wrong_weights(path: str, name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: not the weights of {name} ({reason})")


def no_weights(name: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"pretrained weights of {name} are not available ({reason}); pass a local file with "
        "encoder_weights=PATH, or train from scratch with pretrained=false"
    )
