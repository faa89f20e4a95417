"""Architectures by name: `create_model("vitocc", hidden_size=128)`."""

import fnmatch
import inspect
from collections.abc import Callable
from typing import Any

from occvae.errors import UserError, suggest
from occvae.models.protocol import Model

_ARCHITECTURES: dict[str, Callable[..., Model]] = {}


def register_model(function: Callable[..., Model]) -> Callable[..., Model]:
    """Decorator that registers a builder function as an architecture.

    The architecture has the function's name, with hyphens instead of underscores. Its options are
    the function's keyword arguments.

    Raises:
        ValueError: The name is already registered.
    """
    name = function.__name__.replace("_", "-")
    if name in _ARCHITECTURES:
        raise ValueError(f"architecture {name!r} is registered twice")
    _ARCHITECTURES[name] = function
    return function


def list_models(pattern: str = "*") -> list[str]:
    """Returns the sorted names of the architectures that match a shell-style pattern.

    Example:
        >>> import occvae
        >>> occvae.list_models("pix2vox-?")
        ['pix2vox-a', 'pix2vox-f']
    """
    return sorted(fnmatch.filter(_ARCHITECTURES, pattern))


def model_options(arch: str) -> dict[str, inspect.Parameter]:
    """Returns the options of an architecture, with their types and defaults.

    Raises:
        UserError: The architecture is unknown.
    """
    if arch not in _ARCHITECTURES:
        raise UserError(f"unknown arch {arch!r}; {suggest(arch, list_models())}")
    return dict(inspect.signature(_ARCHITECTURES[arch]).parameters)


def create_model(arch: str, **options: Any) -> Model:
    """Builds a model of an architecture.

    Args:
        arch: One of `list_models()`.
        **options: Options of that architecture, as in the docstring of its builder, for example
            `occvae.models.image_occupancy.vitocc`.

    Returns:
        The model in training mode. Its attributes `arch` and `options` build the same model again.

    Raises:
        UserError: The architecture or an option is unknown. The message lists the nearest names.

    Example:
        >>> import occvae
        >>> model = occvae.create_model("onet", hidden_size=32)
        >>> model.options["hidden_size"]
        32
    """
    known = model_options(arch)
    for option in options:
        if option not in known:
            raise UserError(f"{arch} has no option {option!r}; {suggest(option, sorted(known))}")
    model = _ARCHITECTURES[arch](**options)
    model.arch = arch
    # Includes the defaults, so that exports do not change when a default changes.
    model.options = {name: entry.default for name, entry in known.items()} | options
    return model
