"""Loads the compiled kernels where there are any, and makes every op exist with or without them.

`occvae._C` holds the CPU kernels, `occvae._C_cuda` the CUDA ones; neither is ever built here.
"""

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

BACKENDS = ("auto", "native", "reference")
ISA_NAMES = ("portable", "avx2", "avx512", "avx512_bf16")  # in the order of csrc/cpu/isa.h

_MODULE_OF = {"cpu": "_C", "cuda": "_C_cuda"}
_LIBRARY = torch.library.Library("occvae", "FRAGMENT")
_native: dict[str, frozenset[str]] = {}  # op -> device types that have a kernel
_warned: set[tuple[str, str]] = set()


def _load(module: str) -> str | None:
    """Imports a kernel module; returns why it is missing, or None."""
    if os.environ.get("OCCVAE_DISABLE_EXT") == "1":
        return "switched off by OCCVAE_DISABLE_EXT=1"
    if find_spec(f"occvae.{module}") is None:
        return "not built"
    try:
        importlib.import_module(f"occvae.{module}")
    except ImportError as error:
        return f"failed to load: {error}"
    return None


_missing = {module: _load(module) for module in _MODULE_OF.values()}


def status() -> dict[str, str | None]:
    """For each of `_C` and `_C_cuda`: None if it is loaded, otherwise why it is not."""
    return dict(_missing)


def declare(
    schema: str, reference: Callable[..., Any] | None, fake: Callable[..., Any]
) -> torch._ops.OpOverload[..., Any]:
    """Declares the op `occvae::<schema>` and returns it.

    The schemas live in csrc/bindings.cpp; a wrapper repeats its own here, which defines the op
    where `_C` is missing and is compared with the binary's where it is not. `reference` serves
    every device without a kernel, `fake` gives the outputs' shapes and dtypes. A step of a larger
    algorithm that has its twin as a whole has None for its reference.

    Raises:
        ImportError: the binary was built from sources with another schema.
    """
    name = schema.split("(")[0]
    if not hasattr(torch.ops.occvae, name):
        _LIBRARY.define(schema)
    op = getattr(torch.ops.occvae, name).default
    expected = str(torch._C.parse_schema(f"occvae::{schema}"))
    if str(op._schema) != expected:
        raise ImportError(
            f"the kernels were built from other sources: {op._schema}, but this version of occvae "
            f"needs {expected}; build them again with `pip install -e .`"
        )
    if reference is not None:
        _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"occvae::{name}", fake, lib=_LIBRARY)
    _native[name] = frozenset(
        device
        for device in _MODULE_OF
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"occvae::{name}", device.upper())
    )
    return op


def has_kernel(op: str, device_type: str) -> bool:
    """Whether the loaded modules have a kernel of `op` for "cpu" or "cuda"."""
    return device_type in _native[op]


def kernel_device(op: str, device: torch.device) -> torch.device:
    """The CPU where it has the op's kernel and `device` has none: for inputs that may be copied."""
    kernels = _native[op]
    return torch.device("cpu") if device.type not in kernels and "cpu" in kernels else device


def use_native(op: str, device: torch.device, backend: str) -> bool:
    """Whether `op` shall run its kernel (True) or its reference (False) on `device`.

    "auto" takes the kernel if there is one and otherwise warns, once for an op and device type.

    Raises:
        ValueError: `backend` is none of BACKENDS.
        RuntimeError: `backend` is "native" and there is no kernel for this device.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    if backend == "reference":
        return False
    if device.type in _native[op]:
        return True
    if backend == "native":
        raise RuntimeError(f"{op} has no {device.type} kernel: {_why(device.type)}")
    if (op, device.type) not in _warned and not torch.compiler.is_compiling():
        _warned.add((op, device.type))
        warnings.warn(
            f"{op} runs its slow PyTorch reference on {device.type}: {_why(device.type)}",
            stacklevel=4,
        )
    return False


def _why(device_type: str) -> str:
    if device_type not in _MODULE_OF:
        return "kernels exist for cpu and cuda only"
    module = _MODULE_OF[device_type]
    reason = _missing[module]
    if reason is None:
        return f"occvae.{module} as it was built has none"
    return f"occvae.{module} is {reason} (`occvae info` says more)"


def cpu_isa() -> str | None:
    """Instruction set that the CPU kernels use, one of ISA_NAMES; None without `_C`."""
    if _missing["_C"]:
        return None
    return ISA_NAMES[torch.ops.occvae._cpu_isa()]


@contextmanager
def limit_cpu_isa(name: str) -> Iterator[None]:
    """Makes the CPU kernels of this process use at most `name`; for tests and benchmarks."""
    before = torch.ops.occvae._cpu_isa()
    torch.ops.occvae._cpu_isa(ISA_NAMES.index(name))
    try:
        yield
    finally:
        torch.ops.occvae._cpu_isa(before)
