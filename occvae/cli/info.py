"""occvae info: prints versions, devices, the built kernels, and how to get what is missing."""

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import occvae

# Their versions are read from the installed metadata, because importing them is slow.
_PACKAGES = (
    "torchvision",
    "timm",
    "deepspeed",
    "numpy",
    "h5py",
    "trimesh",
    "PyMCubes",
    "embreex",
    "manifold3d",
    "safetensors",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes no arguments."""


def run(options: argparse.Namespace) -> None:
    print(describe())


def describe() -> str:
    """Returns one line per component. The line of a missing component says how to get it."""
    import torch

    rows = [
        ("occvae", occvae.__version__),
        ("python", f"{platform.python_version()} at {sys.executable}"),
        ("torch", f"{torch.__version__}, {_torch_cuda()}"),
        *((name, _installed(name)) for name in _PACKAGES),
        ("cpu", f"{platform.machine()}, {torch.get_num_threads()} threads"),
        ("gpu", _gpus()),
        ("cpu kernels", _cpu_kernels()),
        ("cuda kernels", _cuda_kernels()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"missing; run `pip install {package}`"


def _torch_cuda() -> str:
    import torch

    return f"built with CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"


def _gpus() -> str:
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        return "none visible"
    names = [torch.cuda.get_device_properties(i) for i in range(count)]
    return "; ".join(f"{gpu.name} (sm_{gpu.major}{gpu.minor})" for gpu in names)


def _cpu_kernels() -> str:
    from occvae.ops import _extension

    reason = _extension.status()["_C"]
    if reason is None:
        return f"occvae._C, {_extension.cpu_isa()}"
    return f"{reason}; ops use the reference in PyTorch. {_remedy(reason, 'a C++ compiler')}"


def _cuda_kernels() -> str:
    import torch

    from occvae.ops import _extension

    reason = _extension.status()["_C_cuda"]
    if reason is None:
        return "occvae._C_cuda"
    if not torch.version.cuda:
        return f"{reason}: this torch has no CUDA. Install a CUDA build of torch and build again"
    needs = f"nvcc of CUDA {torch.version.cuda.split('.')[0]}.x (in CUDA_HOME or on PATH)"
    return f"{reason}; ops use the reference in PyTorch on GPUs. {_remedy(reason, needs)}"


def _remedy(reason: str, needs: str) -> str:
    if "OCCVAE_DISABLE_EXT" in reason:
        return "Unset that variable"
    return f"Build with `pip install -v --no-build-isolation -e .`, which needs {needs}"
