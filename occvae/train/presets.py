"""Presets: complete configurations as functions of the architecture."""

import dataclasses
from collections.abc import Callable

import torch

from occvae.errors import UserError
from occvae.models.registry import list_models
from occvae.train.config import DataConfig, OptimConfig, TrainConfig

_FUSION_VIEWS = 5
_VAE = "pix2vox-vae"


def default(arch: str) -> TrainConfig:
    """For a GPU: the published sizes, 224 px, batch 64 a rank."""
    if arch not in list_models("pix2vox*"):
        return TrainConfig(arch=arch, optim=OptimConfig(dice_weight=0.5))
    config = TrainConfig(
        arch=arch,
        data=DataConfig(augment=True),
        optim=OptimConfig(lr=1e-3, schedule="halved", dice_weight=0.5),
    )
    return _stage_1(config)


def cpu_small(arch: str) -> TrainConfig:
    """For a machine without GPU: a few minutes on two cores to a model that has learnt."""
    if arch in list_models("pix2vox*"):
        return _voxel_cpu_small(arch)
    small_decoder = {"hidden_size": 128, "num_blocks": 3}
    encoders = {
        "onet": {"image_size": 96},
        # Of timm's vision transformers, LeViT learns fastest from scratch: its convolutional stem
        # spares it learning what neighboring pixels have in common.
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


def _voxel_cpu_small(arch: str) -> TrainConfig:
    config = TrainConfig(
        arch=arch,
        model={"backbone": "resnet18", "image_size": 128, "width": 0.25},
        data=DataConfig(num_workers=1),
        optim=OptimConfig(steps=3000, batch_size=32, lr=1e-3, warmup_steps=100, dice_weight=0.5),
        validate_every=1000,
        validate_shapes=128,
        save_every=500,
    )
    return _stage_1(config)


def _stage_1(config: TrainConfig) -> TrainConfig:
    """Single view, where a merger has nothing to learn; of the variational model all there is.

    Its posteriors learn from the start to be multiplied.
    """
    if config.arch == _VAE:
        return _random_views(config, least=1)
    return dataclasses.replace(config, frozen=("merger",))


def _random_views(config: TrainConfig, least: int) -> TrainConfig:
    """A random number of views in each step."""
    data = dataclasses.replace(config.data, num_views=_FUSION_VIEWS, min_views=least)
    return dataclasses.replace(config, data=data)


def _fusion(stage_1: Callable[[str], TrainConfig], batch_size: int) -> Callable:
    """The published second stage: the merger and the refiner learn, on random numbers of views.

    To be started with initial_weights=RUN, a run of the first stage, which is single view.
    """

    def stage_2(arch: str) -> TrainConfig:
        if arch not in list_models("pix2vox*") or arch == _VAE:
            raise UserError(
                f"{arch} has no merger to train; the fusion presets are for pix2vox and pix2voxpp"
            )
        # Of one view the merger takes all: without a refiner there would be nothing to learn.
        config = _random_views(stage_1(arch), least=2 if arch.endswith("-f") else 1)
        # 250 and 100 epochs in the original.
        optim = dataclasses.replace(
            config.optim, steps=config.optim.steps * 2 // 5, batch_size=batch_size
        )
        return dataclasses.replace(config, optim=optim, frozen=("encoder", "decoder"))

    return stage_2


PRESETS: dict[str, Callable[[str], TrainConfig]] = {
    "cpu-small": cpu_small,
    "cpu-small-fusion": _fusion(cpu_small, batch_size=8),
    "default": default,
    "default-fusion": _fusion(default, batch_size=64),
}


def make_preset(name: str | None, arch: str) -> TrainConfig:
    """A preset by name; None chooses by whether there is a GPU."""
    if name is None:
        name = "default" if torch.cuda.is_available() else "cpu-small"
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    return PRESETS[name](arch)
