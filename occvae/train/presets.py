"""Presets of the architectures as configurations of a run."""

import torch

from occvae.errors import UserError
from occvae.models.presets import list_presets, presets_of
from occvae.models.registry import model_options
from occvae.train.config import TrainConfig, from_dict


def make_preset(name: str | None, arch: str) -> TrainConfig:
    """A preset by name; None chooses by whether there is a GPU.

    Raises:
        UserError: no such architecture or preset, or the preset is not for the architecture.
    """
    model_options(arch)  # an unknown architecture is refused, whatever the preset
    if name is None:
        name = "default" if torch.cuda.is_available() else "cpu-small"
    known = list_presets()
    if name not in known:
        raise UserError(f"unknown preset {name!r}; choose from {', '.join(known)}")
    settings = presets_of(arch).get(name)
    if settings is None:
        raise UserError(f"preset {name!r} is not for {arch}, but for {', '.join(known[name])}")
    return from_dict({"arch": arch, **settings})
