"""Image models of autonomousvision/occupancy_networks (Mescheder et al. 2019).

Their decoder uses 1x1 convolutions over points, which compute the same as our linear layers. There
are two layouts. In the legacy one, the affine maps of the conditional batch norms have other names
and shapes.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from occvae.convert.checkpoint import PREFIXES, Rules, fit, tensors_of
from occvae.errors import UserError
from occvae.models.protocol import Model
from occvae.models.registry import create_model

THRESHOLD = 0.2  # as published
WEIGHTS = ("model",)
TRAINING_STATE = ("optimizer",)
SPLITS = "onet"

_RULES: Rules = (
    (r"encoder\.features\.(.+)", r"encoder.backbone.\1"),
    (r"encoder\.fc\.(.+)", r"encoder.backbone.fc.\1"),
    (r"decoder\.fc_p\.(.+)", r"decoder.linear_in.\1"),
    (
        r"decoder\.block(\d+)\.bn_([01])\.(?:conv|fc)_(gamma|beta)\.(.+)",
        r"decoder.blocks.\1.norm_\2.\3.\4",
    ),
    (r"decoder\.block(\d+)\.bn_([01])\.bn\.(.+)", r"decoder.blocks.\1.norm_\2.norm.\3"),
    (r"decoder\.block(\d+)\.fc_([01])\.(.+)", r"decoder.blocks.\1.linear_\2.\3"),
    (r"decoder\.bn\.(?:conv|fc)_(gamma|beta)\.(.+)", r"decoder.norm_out.\1.\2"),
    (r"decoder\.bn\.bn\.(.+)", r"decoder.norm_out.norm.\1"),
    (r"decoder\.fc_out\.(.+)", r"decoder.linear_out.\1"),
)
# By the number of residual blocks per stage, and whether a block has three convolutions.
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
}


def recognize(checkpoint: Mapping[str, Any]) -> bool:
    """Whether this is a checkpoint of occupancy_networks, or the state dict of its model."""
    state = checkpoint.get("model", checkpoint)
    if not isinstance(state, Mapping):
        return False
    return not state.keys().isdisjoint({f"{prefix}decoder.fc_p.weight" for prefix in PREFIXES})


def convert(checkpoint: Mapping[str, Any]) -> tuple[Model, str]:
    """Converts to the architecture `onet`.

    Returns:
        The model, and a description of the source for people.

    Raises:
        UserError: The model is not conditioned on an image, or its tensors do not fit.
    """
    state = tensors_of(checkpoint.get("model", checkpoint), "its model")
    if not any(name.startswith("encoder.features.") for name in state):
        raise UserError(
            "a model of occupancy_networks without image encoder (point clouds, voxels or "
            "unconditional); only models conditioned on an image can be converted"
        )
    layout = "legacy" if "decoder.bn.fc_gamma.weight" in state else "current"
    options = _options(state)
    model = fit(
        lambda: create_model("onet", **options),
        state,
        _RULES,
        f"this model of occupancy_networks ({layout} layout)",
    )
    return model, f"occupancy_networks, {layout} layout"


def _options(state: dict[str, Tensor]) -> dict[str, Any]:
    """Derives the options from some tensors. `fit` then checks that all tensors agree."""
    blocks = {name.split(".")[1] for name in state if name.startswith("decoder.block")}
    return {
        "encoder": _resnet_of(state),
        "threshold": THRESHOLD,
        "embedding_size": _rows(state, "encoder.fc.bias"),
        "hidden_size": _rows(state, "decoder.fc_p.bias"),
        "num_blocks": len(blocks),
    }


def _rows(state: dict[str, Tensor], name: str) -> int:
    if name not in state or state[name].dim() == 0 or len(state[name]) == 0:
        raise UserError(f"this model of occupancy_networks does not fit; missing or empty: {name}")
    return state[name].shape[0]


def _resnet_of(state: dict[str, Tensor]) -> str:
    stages = tuple(
        len(
            {name.split(".")[3] for name in state if name.startswith(f"encoder.features.layer{k}.")}
        )
        for k in (1, 2, 3, 4)
    )
    three = "encoder.features.layer1.0.conv3.weight" in state
    if (stages, three) not in _RESNETS:
        raise UserError(
            f"its image encoder has {stages} residual blocks; only "
            f"{', '.join(_RESNETS.values())} can be converted"
        )
    return _RESNETS[stages, three]
