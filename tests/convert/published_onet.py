"""The image model of occupancy_networks, and the decoder that it shares with other tasks."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.convert.published import (
    Weights,
    conv2d,
    linear,
    normalized,
    residual_stages,
    through_stages,
)

STAGES = [f"encoder.features.layer{k}" for k in (1, 2, 3, 4)]


def onet_state(legacy: bool, blocks=(2, 2, 2, 2), bottleneck=False, width=256) -> dict[str, Tensor]:
    """All tensors of encoder and decoder. `width` is that of points and of the conditioning."""
    weights = Weights()
    weights.conv("encoder.features.conv1", 64, 3, 7, 7, bias=False)
    weights.norm("encoder.features.bn1", 64)
    residual_stages(weights, STAGES, list(blocks), bottleneck)
    features = 2048 if bottleneck else 512
    weights.affine("encoder.fc", width, features, fan_in=features)
    add_cbn_decoder(weights, width, width, legacy)
    return dict(weights)


def add_cbn_decoder(weights: Weights, width: int, c_dim: int, legacy: bool) -> None:
    """Adds all tensors of the decoder `cbatchnorm`."""
    weights.conv("decoder.fc_p", width, 3, 1)
    for block in range(5):
        for k in (0, 1):
            _conditional_norm(weights, f"decoder.block{block}.bn_{k}", width, c_dim, legacy)
            weights.conv(f"decoder.block{block}.fc_{k}", width, width, 1)
    _conditional_norm(weights, "decoder.bn", width, c_dim, legacy)
    weights.conv("decoder.fc_out", 1, width, 1)


def _conditional_norm(weights: Weights, name: str, width: int, c_dim: int, legacy: bool) -> None:
    for kind, offset in (("gamma", 1.0), ("beta", 0.0)):
        layer = f"{name}.{'fc' if legacy else 'conv'}_{kind}"
        shape = (width, c_dim) if legacy else (width, c_dim, 1)
        weights[f"{layer}.weight"] = weights.normal(*shape, scale=0.2 / c_dim**0.5)
        weights[f"{layer}.bias"] = offset + weights.normal(width, scale=0.2)
    weights.norm(f"{name}.bn", width, affine=False)


def onet_logits(state: dict[str, Tensor], images: Tensor, points: Tensor) -> Tensor:
    """Images (B, 3, 224, 224) in [0, 1] and points (B, T, 3) to logits (B, T)."""
    x = images.clone()
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        x[:, channel] = (x[:, channel] - mean) / std
    x = conv2d(state, "encoder.features.conv1", x, 2, 3)
    x = F.max_pool2d(F.relu(normalized(state, "encoder.features.bn1", x)), 3, 2, 1)
    c = linear(state, "encoder.fc", through_stages(state, STAGES, x).mean(dim=(2, 3)))
    return cbn_logits(state, points, c)


def cbn_logits(state: dict[str, Tensor], points: Tensor, c: Tensor) -> Tensor:
    """Points (B, T, 3) and conditioning (B, c_dim) to logits (B, T)."""
    net = _pointwise(state, "decoder.fc_p", points.transpose(1, 2))
    for block in range(5):
        name = f"decoder.block{block}"
        update = _pointwise(state, f"{name}.fc_0", _activated(state, f"{name}.bn_0", net, c))
        net = net + _pointwise(state, f"{name}.fc_1", _activated(state, f"{name}.bn_1", update, c))
    return _pointwise(state, "decoder.fc_out", _activated(state, "decoder.bn", net, c))[:, 0]


def _pointwise(state: dict, name: str, x: Tensor) -> Tensor:
    return F.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _activated(state: dict, name: str, x: Tensor, c: Tensor) -> Tensor:
    x = normalized(state, f"{name}.bn", x)
    if f"{name}.fc_gamma.weight" in state:
        gamma, beta = (linear(state, f"{name}.fc_{kind}", c)[..., None] for kind in _AFFINE)
    else:
        gamma, beta = (_pointwise(state, f"{name}.conv_{kind}", c[..., None]) for kind in _AFFINE)
    return torch.relu(gamma * x + beta)


_AFFINE = ("gamma", "beta")
