"""Training presets of the architectures.

A preset is plain data: the settings of `occvae.train.config.TrainConfig` that differ from the
defaults, for example `{"optim": {"lr": 1e-3}, "frozen": ("merger",)}`. An architecture that
registers no presets uses `GENERAL`.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]

# For two CPU cores: a useful model within minutes.
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
    # For a GPU: the published sizes, images of 224 pixels, batches of 64 per rank.
    "default": {"optim": {"dice_weight": 0.5}},
}

_OWN: dict[str, Mapping[str, Settings]] = {}


def register_presets(arch: str, presets: Mapping[str, Settings]) -> None:
    """Registers presets of an architecture. A preset replaces the one of that name in `GENERAL`.

    Args:
        arch: Name of the architecture.
        presets: Settings by the preset's name.
    """
    _OWN[arch] = {**GENERAL, **presets}


def presets_of(arch: str) -> Mapping[str, Settings]:
    """Returns the presets of an architecture: settings by the preset's name."""
    return _OWN.get(arch, GENERAL)


def list_presets() -> dict[str, list[str]]:
    """Returns the names of all presets, each with its architectures.

    The list of architectures is empty if all have the preset.
    """
    names = sorted({name for presets in (GENERAL, *_OWN.values()) for name in presets})
    return {
        name: [] if name in GENERAL else [arch for arch in sorted(_OWN) if name in _OWN[arch]]
        for name in names
    }
