"""occvae info: prints versions, devices, the built kernels, and how to get what is missing."""

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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
# The text for packages that do not have wheels for every system.
_ABSENCE = {
    "PyMCubes": "not installed; only the reference implementation of marching_cubes needs it",
    "embreex": "not installed; images are rendered by a rasterizer in NumPy",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    found = inspect_installation()
    print(json.dumps(found, indent=1) if options.json else describe(found))


def inspect_installation() -> dict[str, Any]:
    """Returns versions, devices and kernels as JSON values. What is missing is null.

    Under `kernels`, `missing` is the reason why kernels cannot be used, or null.
    """
    import torch

    from occvae.ops import _extension

    kernels = _extension.status()
    return {
        "occvae": occvae.__version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "torch": {"version": torch.__version__, "cuda": torch.version.cuda},
        "packages": {name: _installed(name) for name in _PACKAGES},
        "cpu": {"machine": platform.machine(), "threads": torch.get_num_threads()},
        "gpus": _gpus(),
        "kernels": {
            "cpu": {"missing": kernels["_C"], "instruction_set": _extension.cpu_isa()},
            "cuda": {"missing": kernels["_C_cuda"]},
        },
    }


def describe(found: dict[str, Any]) -> str:
    """Returns one line per component. The line of a missing component says how to get it."""
    python, torch, cpu = found["python"], found["torch"], found["cpu"]
    cuda = f"built with CUDA {torch['cuda']}" if torch["cuda"] else "without CUDA"
    gpus = [f"{gpu['name']} (sm_{gpu['capability'].replace('.', '')})" for gpu in found["gpus"]]
    rows = [
        ("occvae", found["occvae"]),
        ("python", f"{python['version']} at {python['executable']}"),
        ("torch", f"{torch['version']}, {cuda}"),
        *(
            (name, number or _ABSENCE.get(name, f"missing; run `pip install {name}`"))
            for name, number in found["packages"].items()
        ),
        ("cpu", f"{cpu['machine']}, {cpu['threads']} threads"),
        ("gpu", "; ".join(gpus) or "none visible"),
        ("cpu kernels", _cpu_kernels(**found["kernels"]["cpu"])),
        ("cuda kernels", _cuda_kernels(found["kernels"]["cuda"]["missing"], torch["cuda"])),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, str]]:
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}"} for gpu in gpus]


def _cpu_kernels(missing: str | None, instruction_set: str | None) -> str:
    if missing is None:
        return f"occvae._C, {instruction_set}"
    return f"{missing}; ops use the reference in PyTorch. {_remedy(missing, 'a C++ compiler')}"


def _cuda_kernels(reason: str | None, cuda: str | None) -> str:
    if reason is None:
        return "occvae._C_cuda"
    if not cuda:
        return f"{reason}: this torch has no CUDA. Install a CUDA build of torch and build again"
    needs = f"nvcc of CUDA {cuda.split('.')[0]}.x (in CUDA_HOME or on PATH)"
    return f"{reason}; ops use the reference in PyTorch on GPUs. {_remedy(reason, needs)}"


def _remedy(reason: str, needs: str) -> str:
    if "OCCVAE_DISABLE_EXT" in reason:
        return "Unset that variable"
    return f"Build with `pip install -v --no-build-isolation -e .`, which needs {needs}"
