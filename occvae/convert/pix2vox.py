"""Pix2Vox-A and -F of hzxie/Pix2Vox (Xie et al. 2019), Pix2Vox++/A and /F (Xie et al. 2020).

Their images are BGR and normalized to [-1, 1]. Ours are RGB in [0, 1], and the model normalizes
them. The conversion reverses the channels of the first convolution's weights, which is exact. It
sets the model's option `normalization`. Folding the normalization into the weights would not be
exact, because the convolution pads with zeros after the normalization.

The published evaluation crops the middle 128 of the renderings' 137 pixels, resizes them to 224 and
composites on gray 240. The converted model does the same, to within one of the 224 pixels. One
difference remains: partly transparent pixels at the rim of an object are mixed with the gray here,
and keep their stored color there.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from occvae.convert.checkpoint import Rules, fit, tensors_of
from occvae.errors import UserError
from occvae.models.protocol import Model
from occvae.models.registry import create_model

# Pix2Vox crops the middle 128 of 137 pixels and resizes them to 224. Resizing 137 to 240 and
# cropping 8 on each side gives the same part of the image.
OPTIONS = {"normalization": "symmetric", "image_size": 240, "crop": 8, "background_gray": 240}

_PARTS = ("encoder", "decoder", "merger", "refiner")
WEIGHTS = tuple(f"{part}_state_dict" for part in _PARTS)
TRAINING_STATE = tuple(f"{part}_solver_state_dict" for part in _PARTS)
SPLITS = "pix2vox"

_VGG: Rules = ((r"encoder\.vgg\.(.+)", r"encoder.backbone.backbone.\1"),)
_RESNET: Rules = tuple(
    (rf"encoder\.resnet\.{number}\.(.+)", rf"encoder.backbone.backbone.{name}.\1")
    for number, name in ((0, "conv1"), (1, "bn1"), (4, "layer1"), (5, "layer2"))
)


def _layers(part: str, numbers: range, ours: str) -> Rules:
    """Returns rules that rename PART.layerN, for each N of `numbers`, to PART.OURS.0, .1, ..."""
    return tuple(
        (rf"{part}\.layer{number}\.(.+)", rf"{part}.{ours}.{index}.\1")
        for index, number in enumerate(numbers)
    )


_ENCODER = _layers("encoder", range(1, 4), "layers")
_DECODER: Rules = (
    *_layers("decoder", range(1, 5), "doublings"),
    (r"decoder\.layer5\.0\.(.+)", r"decoder.to_volume.\1"),
)
_MERGER = _layers("merger", range(1, 6), "layers")
_MULTI_SCALE_MERGER: Rules = (
    *_layers("merger", range(1, 5), "scales"),
    *_layers("merger", range(5, 7), "combine"),
)
_REFINER: Rules = (
    *_layers("refiner", range(1, 4), "down"),
    (r"refiner\.layer4\.0\.(.+)", r"refiner.bottom.0.\1"),
    (r"refiner\.layer5\.0\.(.+)", r"refiner.bottom.2.\1"),
    *_layers("refiner", range(6, 8), "up"),
    (r"refiner\.layer8\.0\.(.+)", r"refiner.to_volume.\1"),
)
RULES: dict[str, Rules] = {
    "pix2vox-a": (*_VGG, *_ENCODER, *_DECODER, *_MERGER, *_REFINER),
    "pix2vox-f": (*_VGG, *_ENCODER, *_DECODER, *_MERGER),
    "pix2voxpp-a": (*_RESNET, *_ENCODER, *_DECODER, *_MULTI_SCALE_MERGER, *_REFINER),
    "pix2voxpp-f": (*_RESNET, *_ENCODER, *_DECODER, *_MULTI_SCALE_MERGER),
}
_FIRST_CONVOLUTIONS = ("encoder.vgg.0.weight", "encoder.resnet.0.weight")


def recognize(checkpoint: Mapping[str, Any]) -> bool:
    """Whether this is a checkpoint of Pix2Vox or Pix2Vox++, by the names of its state dicts."""
    return {"encoder_state_dict", "decoder_state_dict"} <= checkpoint.keys()


def convert(checkpoint: Mapping[str, Any]) -> tuple[Model, str]:
    """Converts to one of the architectures `pix2vox-a`, `pix2vox-f`, `pix2voxpp-a`, `pix2voxpp-f`.

    Returns:
        The model, and the name of its architecture.

    Raises:
        UserError: The model is not one of the four, or its tensors do not fit.
    """
    state: dict[str, Tensor] = {}
    for part, key in zip(_PARTS, WEIGHTS, strict=True):
        if key in checkpoint:
            tensors = tensors_of(checkpoint[key], f"its {key}")
            state |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    arch = architecture(state)
    first = next(name for name in _FIRST_CONVOLUTIONS if name in state)
    if state[first].dim() == 4:  # `fit` rejects any other shape
        state[first] = state[first].flip(1)
    model = fit(
        lambda: create_model(arch, **OPTIONS),
        state,
        RULES[arch],
        f"this checkpoint of {arch}",
    )
    return model, arch


def architecture(state: Mapping[str, Tensor]) -> str:
    """Returns the architecture of a state dict.

    The backbone tells Pix2Vox from Pix2Vox++. The first layer after the VGG, or the kind of the
    residual blocks, tells the large from the small version.

    Raises:
        UserError: The state dict is of a variational fork, or of another network.
    """
    variational = [name for name in state if name.startswith("encoder.fc_")]
    if variational:
        raise UserError(
            f"a variational fork of Pix2Vox ({variational[0]}); only Pix2Vox and Pix2Vox++ can be "
            "converted"
        )
    first_layer = state.get("encoder.layer1.0.weight")
    if "encoder.vgg.0.weight" in state and first_layer is not None and first_layer.dim() == 4:
        return "pix2vox-f" if first_layer.shape[-1] == 1 else "pix2vox-a"
    if "encoder.resnet.0.weight" in state:
        large = "encoder.resnet.4.0.conv3.weight" in state
        return "pix2voxpp-a" if large else "pix2voxpp-f"
    raise UserError("its encoder has neither the VGG of Pix2Vox nor the ResNet of Pix2Vox++")
