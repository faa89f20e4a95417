"""Presets of the Pix2Vox family: two stages as published, one for the variational models.

The first stage trains on one view per shape, and the merger is frozen because it has no effect on a
single view. The second stage starts from a run of the first (initial_weights=RUN). It trains the
merger and the refiner on random numbers of views.
"""

from occvae.models.presets import (
    CPU_SMALL_DATA,
    CPU_SMALL_LOOP,
    CPU_SMALL_OPTIM,
    Settings,
    register_presets,
)

_FUSION_VIEWS = 5
# The fewest views per shape in the second stage. With a single view the merger has no effect, and
# architectures without a refiner would then have no parameter to train.
_LEAST_VIEWS = {"pix2vox-a": 1, "pix2vox-f": 2, "pix2voxpp-a": 1, "pix2voxpp-f": 2}
_VARIATIONAL = ("pix2vox-vae", "pix2voxpp-vae")

_DEFAULT: Settings = {
    "data": {"augment": True},
    "optim": {"lr": 1e-3, "schedule": "halved", "dice_weight": 0.5},
}
_CPU_SMALL: Settings = {
    "model": {"backbone": "resnet18", "image_size": 128, "width": 0.25},
    "data": CPU_SMALL_DATA,
    "optim": {**CPU_SMALL_OPTIM, "lr": 1e-3},
    **CPU_SMALL_LOOP,
}


def _random_views(settings: Settings, least: int) -> Settings:
    """Adds a random number of views, from `least` on, to settings."""
    data = {**settings["data"], "num_views": _FUSION_VIEWS, "min_views": least}
    return {**settings, "data": data}


def _stage_1(settings: Settings) -> Settings:
    return {**settings, "frozen": ("merger",)}


def _stage_2(settings: Settings, least: int, steps: int, batch_size: int) -> Settings:
    optim = {**settings["optim"], "steps": steps, "batch_size": batch_size}
    frozen = ("encoder", "decoder")
    return {**_random_views(settings, least), "optim": optim, "frozen": frozen}


for _arch, _least in _LEAST_VIEWS.items():
    register_presets(
        _arch,
        {
            "cpu-small": _stage_1(_CPU_SMALL),
            "default": _stage_1(_DEFAULT),
            # The original trains 250 epochs in the first stage and 100 in the second.
            "cpu-small-fusion": _stage_2(_CPU_SMALL, _least, steps=1200, batch_size=8),
            "default-fusion": _stage_2(_DEFAULT, _least, steps=40_000, batch_size=64),
        },
    )
# One stage: the views' posteriors must be multiplied from the start to learn suitable variances.
for _arch in _VARIATIONAL:
    register_presets(
        _arch,
        {
            "cpu-small": _random_views(_CPU_SMALL, least=1),
            "default": _random_views(_DEFAULT, least=1),
        },
    )
