"""Image encoders: images (B, 3, S, S) in [0, 1] to embeddings (B, E).

torchvision and timm are imported when an encoder is built, so that decoders, kernels and meshing
work without them.
"""

import difflib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from occvae.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageEncoder(nn.Module):
    """A backbone with its own input normalization."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone((images - self.mean) / self.std)


def resnet_encoder(
    name: str, embedding_size: int, pretrained: bool, weights_file: str | None
) -> ImageEncoder:
    """A torchvision ResNet with its classifier replaced by a linear embedding."""
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


def timm_encoder(
    name: str,
    embedding_size: int,
    image_size: int,
    pretrained: bool,
    weights_file: str | None,
    options: dict[str, Any],
) -> ImageEncoder:
    """A timm vision transformer (or any timm model) whose head is altered to the embedding."""
    import timm
    from timm.data.config import resolve_model_data_config

    if name.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models()) or ["vit_small_patch16_224"]
        raise UserError(f"unknown timm model {name!r}; near names: {', '.join(near)}")
    if reserved := options.keys() & {"img_size", "num_classes", "pretrained"}:
        raise UserError(
            f"encoder_options must leave out {', '.join(sorted(reserved))}; set image_size, "
            "embedding_size or pretrained instead"
        )
    arguments = {"num_classes": embedding_size, "pretrained": pretrained, **options}
    try:
        if weights_file is not None:
            arguments |= timm_weights(name, weights_file, **options)
        backbone = _create_timm(name, image_size, arguments)
    except (TypeError, AssertionError) as error:
        raise UserError(f"timm model {name!r} refuses encoder_options {options}: {error}") from None
    except (OSError, RuntimeError) as error:
        if weights_file is not None:
            raise wrong_weights(weights_file, name, error) from None
        if not pretrained:
            raise UserError(f"timm model {name!r} cannot be made: {error}") from None
        raise no_weights(name, error) from None
    data = resolve_model_data_config(backbone)
    return ImageEncoder(backbone, data["mean"], data["std"])


def timm_weights(name: str, weights_file: str, **options: Any) -> dict[str, Any]:
    """Arguments of `timm.create_model` for weights from a file, which is seen to be of the model.

    timm leaves out what it does not find, and says nothing when that is all of it.
    """
    import timm

    state = read_weights(weights_file)
    with torch.device("meta"):
        wanted = {key for key, _ in timm.create_model(name, **options).named_parameters()}
    if len(wanted & state.keys()) < len(wanted) / 2:
        raise UserError(f"{weights_file}: not the weights of {name}")
    # A head size that no file has makes timm drop the file's head instead of refusing it.
    overlay = {"file": str(weights_file), "num_classes": -1}
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _create_timm(name: str, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, img_size=image_size, **arguments)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        logging.getLogger(__name__).debug("%s adapts to any image size", name)
        return timm.create_model(name, **arguments)


def read_weights(path: str) -> dict[str, Tensor]:
    """State dict of a .safetensors or a weights-only .pth file."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own text would advise to load it unsafely
        raise UserError(
            f"{path}: not a readable weights file ({type(error).__name__}); expected tensors in "
            ".safetensors, or in .pth as torch.save writes a state dict"
        ) from None
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__} instead of named weights")
    return {key.removeprefix("module."): value for key, value in state.items()}


def wrong_weights(path: str, name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: not the weights of {name} ({reason})")


def no_weights(name: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"pretrained weights of {name} cannot be had ({reason}); pass a local file with "
        "encoder_weights=PATH, or train from scratch with pretrained=false"
    )
