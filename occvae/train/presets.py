"""Presets: complete configurations as functions of the architecture."""

from collections.abc import Callable

import torch

from occvae.errors import UserError
from occvae.train.config import DataConfig, OptimConfig, TrainConfig


def default(arch: str) -> TrainConfig:
    """For a GPU: the published sizes, 224 px, batch 64 a rank."""
    return TrainConfig(arch=arch, optim=OptimConfig(dice_weight=0.5))


def cpu_small(arch: str) -> TrainConfig:
    """For a machine without GPU: a few minutes on two cores to a model that has learnt."""
    small_decoder = {"hidden_size": 128, "num_blocks": 3}
    encoders = {
        "onet": {"image_size": 96},
        # Of timm's vision transformers, LeViT learns fastest from scratch: its convolutional stem
        # spares it learning what neighbouring pixels have in common.
        "vitocc": {"encoder": "levit_128s", "image_size": 128},
    }
    return TrainConfig(
        arch=arch,
        model={**encoders[arch], **small_decoder} if arch in encoders else {},
        data=DataConfig(num_points=512, num_workers=1),
        optim=OptimConfig(steps=3000, batch_size=32, lr=5e-4, warmup_steps=100, dice_weight=0.5),
        validate_every=1000,
        validate_shapes=128,
        save_every=500,
    )


PRESETS: dict[str, Callable[[str], TrainConfig]] = {"cpu-small": cpu_small, "default": default}


def make_preset(name: str | None, arch: str) -> TrainConfig:
    """A preset by name; None chooses by whether there is a GPU."""
    if name is None:
        name = "default" if torch.cuda.is_available() else "cpu-small"
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    return PRESETS[name](arch)
