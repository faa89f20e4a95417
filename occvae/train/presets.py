"""Run configurations from the presets of the architectures."""

import torch

from occvae.errors import UserError
from occvae.models.presets import list_presets, presets_of
from occvae.models.registry import model_options
from occvae.train.config import TrainConfig, from_dict

# Ends the name of the variant of a preset that starts from random weights.
_FROM_SCRATCH = "-from-scratch"


def make_preset(name: str | None, arch: str, *, from_scratch: bool = False) -> TrainConfig:
    """Returns the configuration of a preset.

    Args:
        name: name of the preset. None takes "default" if there is a GPU, otherwise "cpu-small".
        arch: name of the architecture.
        from_scratch: whether to take the variant that starts from random weights. A preset without
            such a variant starts from random weights anyway.

    Raises:
        UserError: the architecture or the preset is unknown, or the architecture lacks the preset.
    """
    model_options(arch)  # raises for an unknown architecture
    if name is None:
        name = "default" if torch.cuda.is_available() else "cpu-small"
    if from_scratch and f"{name}{_FROM_SCRATCH}" in presets_of(arch):
        name += _FROM_SCRATCH
    known = list_presets()
    if name not in known:
        raise UserError(f"unknown preset {name!r}; choose from {', '.join(known)}")
    settings = presets_of(arch).get(name)
    if settings is None:
        raise UserError(f"preset {name!r} is not for {arch}, but for {', '.join(known[name])}")
    return from_dict({"arch": arch, **settings})
