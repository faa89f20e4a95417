"""Imports torchvision and timm without the compiler of torch, which predictions do not need."""

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

_DYNAMO = ("torch._dynamo", "torch._dynamo.utils")


class _Deferred(ModuleType):
    """A module whose functions import the real module when they are called.

    Those that decorate a function import it when the decorated function is called.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

        def call(*arguments: Any, **options: Any) -> Any:
            if arguments and isinstance(arguments[0], FunctionType):
                return functools.wraps(arguments[0])(
                    lambda *inner, **named: load()(*arguments, **options)(*inner, **named)
                )
            return load()(*arguments, **options)

        def load() -> Any:
            _remove_deferred()
            return getattr(importlib.import_module(self.__name__), name)

        return call


@contextlib.contextmanager
def without_dynamo() -> Iterator[None]:
    """Context manager and decorator: modules imported inside load torch._dynamo at its first use.

    torchvision.ops imports one function of torch._dynamo.utils, and calls it only in RoI align.
    timm decorates one method of one model with `torch.compiler.disable`. The import of
    torch._dynamo takes longer than those of torchvision, timm, trimesh and scipy together.
    """
    if not any(name in sys.modules for name in _DYNAMO):
        sys.modules.update({name: _Deferred(name) for name in _DYNAMO})
    try:
        yield
    finally:
        _remove_deferred()


def _remove_deferred() -> None:
    for name in _DYNAMO:
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]
