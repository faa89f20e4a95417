"""Pix2Vox-A and -F, Pix2Vox++/A and /F."""

from typing import NamedTuple

import numpy as np
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


class Spec(NamedTuple):
    """What differs between the four models.

    `layers` has (channels, kernel, padding, pooling) of the three layers after the backbone.
    `decoder` has the decoder's channels, from its first cube on.
    """

    resnet: list[int] | None
    bottleneck: bool
    layers: tuple[tuple[int, int, int, int], ...]
    decoder: tuple[int, ...]
    refined: bool


SPECS = {
    "pix2vox-a": Spec(
        None, False, ((512, 3, 0, 1), (512, 3, 0, 3), (256, 1, 0, 1)), (2048, 512, 128, 32, 8), True
    ),
    "pix2vox-f": Spec(
        None, False, ((512, 1, 0, 1), (256, 3, 0, 4), (128, 3, 0, 1)), (256, 128, 64, 32, 8), False
    ),
    "pix2voxpp-a": Spec(
        [3, 4],
        True,
        ((512, 3, 1, 1), (256, 3, 1, 2), (256, 3, 1, 2)),
        (1568, 512, 128, 32, 8),
        True,
    ),
    "pix2voxpp-f": Spec(
        [2, 2], False, ((128, 3, 1, 1), (64, 3, 1, 2), (64, 3, 1, 2)), (392, 128, 64, 32, 8), False
    ),
}
# Channels of the VGG's convolutions by their index, and the indices of its poolings.
VGG = {0: 64, 3: 64, 7: 128, 10: 128, 14: 256, 17: 256, 20: 256, 24: 512}
VGG_POOLS = (6, 13, 23)
MERGER = (9, 16, 8, 4, 2, 1)


def pix2vox_states(arch: str, names_only: bool = False) -> dict[str, dict[str, Tensor]]:
    """State dicts of encoder, decoder, merger and, if the model has one, refiner."""
    spec = SPECS[arch]
    states = {
        "encoder": _encoder(spec, Weights(1, names_only)),
        "decoder": _decoder(spec, Weights(2, names_only)),
        "merger": _merger(spec, Weights(3, names_only)),
    }
    return states | ({"refiner": _refiner(Weights(4, names_only))} if spec.refined else {})


def _encoder(spec: Spec, weights: Weights) -> Weights:
    into = 3
    if spec.resnet is None:
        for place, out in VGG.items():
            weights.conv(f"vgg.{place}", out, into, 3, 3)
            weights.norm(f"vgg.{place + 1}", out)
            into = out
    else:
        weights.conv("resnet.0", 64, 3, 7, 7, bias=False)
        weights.norm("resnet.1", 64)
        residual_stages(weights, ["resnet.4", "resnet.5"], spec.resnet, spec.bottleneck)
        into = 512 if spec.bottleneck else 128
    for number, (out, kernel, _, _) in enumerate(spec.layers, 1):
        weights.conv(f"layer{number}.0", out, into, kernel, kernel)
        weights.norm(f"layer{number}.1", out)
        into = out
    return weights


def _decoder(spec: Spec, weights: Weights) -> Weights:
    for number, (into, out) in enumerate(zip(spec.decoder, spec.decoder[1:], strict=False), 1):
        weights.transposed(f"layer{number}.0", into, out, 4)
        weights.norm(f"layer{number}.1", out)
    weights.transposed("layer5.0", 8, 1, 1)
    return weights


def _merger(spec: Spec, weights: Weights) -> Weights:
    chain = MERGER if spec.resnet is None else (9, 9, 9, 9, 9)
    pairs = list(zip(chain, chain[1:], strict=False))
    for number, (into, out) in enumerate(pairs + [(36, 9), (9, 1)] * bool(spec.resnet), 1):
        weights.conv(f"layer{number}.0", out, into, 3, 3, 3)
        weights.norm(f"layer{number}.1", out)
    return weights


def _refiner(weights: Weights) -> Weights:
    for number, (into, out) in enumerate(((1, 32), (32, 64), (64, 128)), 1):
        weights.conv(f"layer{number}.0", out, into, 4, 4, 4)
        weights.norm(f"layer{number}.1", out)
    weights.affine("layer4.0", 2048, 8192, fan_in=8192)
    weights.affine("layer5.0", 8192, 2048, fan_in=2048)
    for number, (into, out) in enumerate(((128, 64), (64, 32)), 6):
        weights.transposed(f"layer{number}.0", into, out, 4)
        weights.norm(f"layer{number}.1", out)
    weights.transposed("layer8.0", 32, 1, 4)
    return weights


def pix2vox_image(rendering: np.ndarray) -> Tensor:
    """Prepares a rendering (137, 137, 4) uint8 RGBA as published: (3, 224, 224) RGB in [0, 1]."""
    middle = torch.from_numpy(rendering[4:132, 4:132]).permute(2, 0, 1)[None] / 255
    [image] = F.interpolate(middle, (224, 224), mode="bilinear")
    return torch.where(image[3] == 0, 240 / 255, image[:3])


def pix2vox_volume(arch: str, states: dict, images: Tensor) -> Tensor:
    """RGB images (B, V, 3, 224, 224) in [0, 1] to probabilities (B, 32, 32, 32)."""
    bgr = (images.flip(2) - 0.5) / 0.5
    volumes, scores = [], []
    for view in bgr.unbind(1):
        features = _encode(SPECS[arch], states["encoder"], view)
        volume, raw = _decode(SPECS[arch], states["decoder"], features)
        volumes.append(volume)
        scores.append(_judge(SPECS[arch], states["merger"], raw))
    weights = torch.stack(scores).softmax(dim=0)
    volume = (weights * torch.stack(volumes)).sum(dim=0).clamp(0, 1)
    return _refine(states["refiner"], volume)[:, 0] if SPECS[arch].refined else volume[:, 0]


def _encode(spec: Spec, state: dict, x: Tensor) -> Tensor:
    if spec.resnet is None:
        for place in VGG:
            x = F.max_pool2d(x, 2) if place - 1 in VGG_POOLS else x
            x = F.relu(
                normalized(state, f"vgg.{place + 1}", conv2d(state, f"vgg.{place}", x, 1, 1))
            )
    else:
        x = F.relu(normalized(state, "resnet.1", conv2d(state, "resnet.0", x, 2, 3)))
        x = through_stages(state, ["resnet.4", "resnet.5"], F.max_pool2d(x, 3, 2, 1))
    activation = F.elu if spec.resnet is None else F.relu
    for number, (_, _, padding, pooling) in enumerate(spec.layers, 1):
        x = conv2d(state, f"layer{number}.0", x, 1, padding)
        x = F.max_pool2d(activation(normalized(state, f"layer{number}.1", x)), pooling)
    return x


def _decode(spec: Spec, state: dict, features: Tensor) -> tuple[Tensor, Tensor]:
    x = features.reshape(-1, spec.decoder[0], 2, 2, 2)
    for number in (1, 2, 3, 4):
        x = _doubled(state, f"layer{number}", x)
    volume = torch.sigmoid(F.conv_transpose3d(x, state["layer5.0.weight"]))
    return volume, torch.cat([x, volume], dim=1)


def _doubled(state: dict, name: str, x: Tensor) -> Tensor:
    x = F.conv_transpose3d(x, state[f"{name}.0.weight"], stride=2, padding=1)
    return F.relu(normalized(state, f"{name}.1", x))


def _convolved(state: dict, name: str, x: Tensor, padding: int) -> Tensor:
    x = F.conv3d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], padding=padding)
    return F.leaky_relu(normalized(state, f"{name}.1", x), 0.2)


def _judge(spec: Spec, state: dict, raw: Tensor) -> Tensor:
    contexts, x = [], raw
    for number in range(1, 6 if spec.resnet is None else 5):
        x = _convolved(state, f"layer{number}", x, 1)
        contexts.append(x)
    if spec.resnet is None:
        return x
    x = _convolved(state, "layer5", torch.cat(contexts, dim=1), 1)
    return _convolved(state, "layer6", x, 1)


def _refine(state: dict, volume: Tensor) -> Tensor:
    x16 = F.max_pool3d(_convolved(state, "layer1", volume, 2), 2)
    x8 = F.max_pool3d(_convolved(state, "layer2", x16, 2), 2)
    x4 = F.max_pool3d(_convolved(state, "layer3", x8, 2), 2)
    flat = F.relu(linear(state, "layer4.0", x4.reshape(-1, 8192)))
    x4 = x4 + F.relu(linear(state, "layer5.0", flat)).reshape(-1, 128, 4, 4, 4)
    x8 = x8 + _doubled(state, "layer6", x4)
    x16 = x16 + _doubled(state, "layer7", x8)
    refined = F.conv_transpose3d(x16, state["layer8.0.weight"], stride=2, padding=1)
    return (volume + torch.sigmoid(refined)) * 0.5
