"""Loads the compiled kernels and declares every op, also where the kernels are missing.

`occvae._C` holds the CPU kernels and `occvae._C_cuda` the CUDA kernels. Both are built when the
package is installed, never at run time.
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
_native: dict[str, frozenset[str]] = {}  # op -> device types with a kernel
_warned: set[tuple[str, str]] = set()


def _load(module: str) -> str | None:
    """Imports a kernel module. Returns None, or the reason why it is missing."""
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
    """Maps `_C` and `_C_cuda` to None if loaded, otherwise to the reason why not."""
    return dict(_missing)


def declare(
    schema: str, reference: Callable[..., Any] | None, fake: Callable[..., Any]
) -> torch._ops.OpOverload[..., Any]:
    """Declares the op `occvae::<schema>` and returns it.

    csrc/bindings.cpp defines the schemas, and each Python wrapper repeats its own. Where `_C` is
    missing, the wrapper's schema defines the op. Otherwise the two schemas are compared.

    Args:
        schema: name, arguments and results in PyTorch's schema language.
        reference: PyTorch implementation, for every device without a kernel. None for an op that
            is one step of an algorithm with a reference implementation of the whole.
        fake: returns empty outputs of the right shapes and dtypes, for torch.compile.

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
            f"the kernels were built from other sources: they define {op._schema}, but this "
            f"version of occvae needs {expected}; build them again with `pip install -e .`"
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
    """Whether a kernel of `op` is loaded for the device type, "cpu" or "cuda"."""
    return device_type in _native[op]


def kernel_device(op: str, device: torch.device) -> torch.device:
    """The device to run `op` on, for callers that can copy the inputs.

    Returns the CPU if only the CPU has a kernel, otherwise `device`.
    """
    kernels = _native[op]
    return torch.device("cpu") if device.type not in kernels and "cpu" in kernels else device


def use_native(op: str, device: torch.device, backend: str) -> bool:
    """Whether `op` runs its kernel (True) or its reference implementation (False) on `device`.

    "auto" takes the kernel if there is one. Otherwise it warns, once per op and device type.

    Raises:
        ValueError: `backend` is not in BACKENDS.
        RuntimeError: `backend` is "native", but there is no kernel for this device.
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
        return f"occvae.{module} was built without it; build it again with `pip install -e .`"
    return f"occvae.{module} is {reason}; `occvae info` shows how to get it"


def cpu_isa() -> str | None:
    """Instruction set that the CPU kernels use, one of ISA_NAMES, or None without `_C`."""
    if _missing["_C"]:
        return None
    return ISA_NAMES[torch.ops.occvae._cpu_isa()]


@contextmanager
def limit_cpu_isa(name: str) -> Iterator[None]:
    """Limits the CPU kernels of this process to an instruction set of ISA_NAMES, for tests."""
    before = torch.ops.occvae._cpu_isa()
    torch.ops.occvae._cpu_isa(ISA_NAMES.index(name))
    try:
        yield
    finally:
        torch.ops.occvae._cpu_isa(before)
