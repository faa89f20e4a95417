"""Training presets: complete settings of a run, kept beside the models they serve.

A preset is plain data: sections of `occvae.train.config.TrainConfig` with the settings that differ
from their defaults, e.g. `{"optim": {"lr": 1e-3}, "frozen": ("merger",)}`. An architecture that
registers no presets has `GENERAL`.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]

# A few minutes on two cores, without a GPU, to a model that has learnt.
CPU_SMALL_DATA: Settings = {"num_workers": 1}
CPU_SMALL_OPTIM: Settings = {
    "steps": 3000,
    "batch_size": 32,
    "warmup_steps": 100,
    "dice_weight": 0.5,
}
CPU_SMALL_LOOP: Settings = {"validate_every": 1000, "validate_shapes": 128, "save_every": 500}

GENERAL: Mapping[str, Settings] = {
    "cpu-small": {
        "data": {**CPU_SMALL_DATA, "num_points": 512},
        "optim": {**CPU_SMALL_OPTIM, "lr": 5e-4},
        **CPU_SMALL_LOOP,
    },
    # For a GPU: the published sizes, 224 px, batch 64 a rank.
    "default": {"optim": {"dice_weight": 0.5}},
}

_OWN: dict[str, Mapping[str, Settings]] = {}


def register_presets(arch: str, presets: Mapping[str, Settings]) -> None:
    """Gives an architecture presets of its own, which replace those of `GENERAL` by name."""
    _OWN[arch] = {**GENERAL, **presets}


def presets_of(arch: str) -> Mapping[str, Settings]:
    """The settings of each preset that an architecture has, by the preset's name."""
    return _OWN.get(arch, GENERAL)


def list_presets() -> dict[str, list[str]]:
    """Every preset by name, with the architectures that have it; none for all architectures."""
    names = sorted({name for presets in (GENERAL, *_OWN.values()) for name in presets})
    return {
        name: [] if name in GENERAL else [arch for arch in sorted(_OWN) if name in _OWN[arch]]
        for name in names
    }
