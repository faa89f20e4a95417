"""Models of autonomousvision/occupancy_networks (Mescheder et al. 2019).

Its configs have four tasks: `img`, `pointcloud`, `voxels` and `unconditional`. The encoder tells
which one a checkpoint is of. The decoder of the first three uses 1x1 convolutions over points,
which compute the same as our linear layers. It has two layouts. In the legacy one, the affine maps
of the conditional batch norms have other names and shapes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from occvae.convert.checkpoint import PREFIXES, Rules, fit, tensors_of
from occvae.errors import UserError
from occvae.models.protocol import Model
from occvae.models.registry import create_model

THRESHOLD = 0.2  # as published
WEIGHTS = ("model",)
TRAINING_STATE = ("optimizer",)
SPLITS = "onet"

_CBN_RULES: Rules = (
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
_IMAGE_RULES: Rules = (
    (r"encoder\.features\.(.+)", r"encoder.backbone.\1"),
    (r"encoder\.fc\.(.+)", r"encoder.backbone.fc.\1"),
    *_CBN_RULES,
)
_POINT_RULES: Rules = (
    (r"encoder\.fc_pos\.(.+)", r"encoder.linear_in.\1"),
    (r"encoder\.block_(\d+)\.fc_([01])\.(.+)", r"encoder.blocks.\1.linear_\2.\3"),
    (r"encoder\.block_(\d+)\.shortcut\.(.+)", r"encoder.blocks.\1.shortcut.\2"),
    (r"encoder\.fc_c\.(.+)", r"encoder.linear_out.\1"),
    *_CBN_RULES,
)
_VOXEL_RULES: Rules = (
    (r"encoder\.conv_in\.(.+)", r"encoder.convolutions.0.\1"),
    (r"encoder\.conv_0\.(.+)", r"encoder.convolutions.1.\1"),
    (r"encoder\.conv_1\.(.+)", r"encoder.convolutions.2.\1"),
    (r"encoder\.conv_2\.(.+)", r"encoder.convolutions.3.\1"),
    (r"encoder\.conv_3\.(.+)", r"encoder.convolutions.4.\1"),
    (r"encoder\.fc\.(.+)", r"encoder.linear_out.\1"),
    *_CBN_RULES,
)
_LATENT_RULES: Rules = (
    (r"encoder_latent\.fc_pos\.(.+)", r"encoder.linear_points.\1"),
    (r"encoder_latent\.fc_0\.(.+)", r"encoder.linear_labels.\1"),
    (r"encoder_latent\.fc_1\.(.+)", r"encoder.linears.0.\1"),
    (r"encoder_latent\.fc_2\.(.+)", r"encoder.linears.1.\1"),
    (r"encoder_latent\.fc_3\.(.+)", r"encoder.linears.2.\1"),
    (r"encoder_latent\.fc_mean\.(.+)", r"encoder.linear_mean.\1"),
    (r"encoder_latent\.fc_logstd\.(.+)", r"encoder.linear_log_std.\1"),
    (r"decoder\.fc_p\.(.+)", r"decoder.linear_in.\1"),
    (r"decoder\.fc_z\.(.+)", r"decoder.linear_conditioning.\1"),
    (r"decoder\.block(\d+)\.fc_([01])\.(.+)", r"decoder.blocks.\1.linear_\2.\3"),
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
    """Converts to `onet`, `onet-points`, `onet-voxels` or `onet-vae`.

    Returns:
        The model, and a description of the source for people.

    Raises:
        UserError: The encoder is of none of the four tasks, or the tensors do not fit.
    """
    state = tensors_of(checkpoint.get("model", checkpoint), "its model")
    task = _task_of(state)
    options = {"threshold": THRESHOLD, **task.options(state)}
    layout = "legacy" if "decoder.bn.fc_gamma.weight" in state else "current"
    kind = f"{task.name}{layout} layout"
    model = fit(
        lambda: create_model(task.arch, **options),
        state,
        task.rules,
        f"this model of occupancy_networks ({kind})",
    )
    return model, f"occupancy_networks, {kind}"


class _Task(NamedTuple):
    name: str  # for the description of the source
    sign: str  # the beginning of the name of a tensor that only this task has
    arch: str
    rules: Rules
    options: Callable[[dict[str, Tensor]], dict[str, Any]]


def _task_of(state: dict[str, Tensor]) -> _Task:
    for task in _TASKS:
        if any(name.startswith(task.sign) for name in state):
            return task
    encoder = sorted({name.split(".")[1] for name in state if name.startswith("encoder.")})
    found = f"its encoder has the layers {', '.join(encoder[:8])}" if encoder else "it has none"
    raise UserError(
        "a model of occupancy_networks without image encoder (ResNet), point cloud encoder "
        f"(pointnet_resnet), voxel encoder (voxel_simple) or latent encoder; {found}; only models "
        "with one of these can be converted"
    )


def _image_options(state: dict[str, Tensor]) -> dict[str, Any]:
    """Derives the options from some tensors. `fit` then checks that all tensors agree."""
    return {
        "encoder": _resnet_of(state),
        "embedding_size": _rows(state, "encoder.fc.bias"),
        **_decoder_options(state),
    }


def _point_options(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "encoder_size": _rows(state, "encoder.block_0.fc_0.bias"),
        "embedding_size": _rows(state, "encoder.fc_c.bias"),
        **_decoder_options(state),
    }


def _voxel_options(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "encoder_channels": _rows(state, "encoder.conv_in.bias"),
        "embedding_size": _rows(state, "encoder.fc.bias"),
        **_decoder_options(state),
    }


def _latent_options(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "latent_size": _rows(state, "encoder_latent.fc_mean.bias"),
        "encoder_size": _rows(state, "encoder_latent.fc_pos.bias"),
        **_decoder_options(state),
    }


def _decoder_options(state: dict[str, Tensor]) -> dict[str, Any]:
    blocks = {name.split(".")[1] for name in state if name.startswith("decoder.block")}
    return {"hidden_size": _rows(state, "decoder.fc_p.bias"), "num_blocks": len(blocks)}


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


_TASKS = (
    _Task("", "encoder.features.", "onet", _IMAGE_RULES, _image_options),
    _Task("point cloud, ", "encoder.block_", "onet-points", _POINT_RULES, _point_options),
    _Task("voxels, ", "encoder.conv_in.", "onet-voxels", _VOXEL_RULES, _voxel_options),
    _Task("unconditional, ", "encoder_latent.", "onet-vae", _LATENT_RULES, _latent_options),
)
