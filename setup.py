"""Builds the two kernel modules, occvae._C (CPU) and occvae._C_cuda; metadata is in pyproject.toml.

OCCVAE_NO_EXT=1   builds neither module; every op runs its PyTorch reference implementation
OCCVAE_CUDA=0|1   0 skips the CUDA module, 1 fails if it cannot be built
OCCVAE_WERROR=0   allows compiler warnings
CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS and CXX have their usual meaning.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.modified import newer_group

CHOSEN_ARCHITECTURES = os.environ.get("TORCH_CUDA_ARCH_LIST")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # runs on torch 2.11 and later
CPU_SOURCES = ["csrc/bindings.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))]
CUDA_SOURCES = sorted(str(path) for path in Path("csrc/cuda").iterdir() if path.suffix != ".cuh")
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.*h") if path.suffix in (".h", ".cuh"))


def skip(module, reason):
    print(f"occvae: not building {module}: {reason}.", file=sys.stderr)


def remove_earlier(pattern):
    """Deletes modules of an earlier in-place build, which Python would otherwise still import."""
    for module in Path("occvae").glob(pattern):
        module.unlink()


def find_nvcc():
    """Returns (toolkit root, version) or None.

    Both come from nvcc itself, because nvcc on PATH may be a wrapper outside the toolkit.
    """
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [shutil.which("nvcc", path=f"{home}/bin") for home in homes if home]
    candidates += [shutil.which("nvcc"), shutil.which("nvcc", path="/usr/local/cuda/bin")]
    for nvcc in filter(None, candidates):
        dry_run = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True)
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
        root = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr, re.MULTILINE)
        release = re.search(r"release (\d+\.\d+)", version.stdout)
        if root and release:
            return str(Path(root[1].strip()).resolve()), release[1]
    return None


def cuda_obstacle(torch, nvcc):
    """Returns why the CUDA module cannot be built, or None. No GPU is needed."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} has no CUDA; install a CUDA build of torch"
    if nvcc is None:
        return f"no nvcc; install the CUDA {torch.version.cuda} toolkit or set CUDA_HOME"
    if nvcc[1].split(".")[0] != torch.version.cuda.split(".")[0]:
        return (
            f"nvcc is {nvcc[1]} but torch was built with CUDA {torch.version.cuda}; "
            "set CUDA_HOME to a toolkit of the same major version, or install a matching torch"
        )
    return None


def choose_architectures(torch):
    """Sets TORCH_CUDA_ARCH_LIST if torch's own choice would not do.

    Hopper must be named 9.0a, because the wgmma kernel of query_occupancy needs features of that
    name. If no GPU is visible, the build supports every GPU from sm_80 on. GPUs newer than Hopper
    compile the PTX of 8.0.
    """
    visible = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    names = ["9.0a" if gpu == (9, 0) else f"{gpu[0]}.{gpu[1]}" for gpu in sorted(visible)]
    if not names or "9.0a" in names:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(names or ["8.0+PTX", "9.0a"]))


def system_includes(torch):
    """Include flags of torch and Python. As system headers they cause no warnings."""
    root = Path(torch.__file__).parent / "include"
    folders = [root, root / "torch/csrc/api/include", sysconfig.get_path("include")]
    return [flag for folder in folders for flag in ("-isystem", str(folder))]


def options(**flags):
    return dict(depends=[*HEADERS, "setup.py"], extra_compile_args=flags, py_limited_api=True)


def reusing(build_ext):
    """Returns a `build_ext` that copies modules of an in-place build into a wheel.

    They must be newer than their sources, and TORCH_CUDA_ARCH_LIST must not ask for others.
    """

    class ReusingBuild(build_ext):
        def finalize_options(self):
            super().finalize_options()
            self.for_wheel = not self.inplace  # `inplace` itself is False while modules are built

        def build_extension(self, ext):
            target = Path(self.get_ext_fullpath(ext.name))
            built = Path("occvae", target.name)
            sources = [*ext.sources, *ext.depends]
            is_current = not CHOSEN_ARCHITECTURES and not newer_group(sources, str(built))
            if self.for_wheel and is_current:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(built, target)
            else:
                super().build_extension(ext)

    return ReusingBuild


def extensions():
    if os.environ.get("OCCVAE_NO_EXT") == "1":
        skip("the kernels", "OCCVAE_NO_EXT=1")
        remove_earlier("_C*.so")
        return [], {}
    import torch

    nvcc = find_nvcc()
    if nvcc:  # set before importing cpp_extension, which derives the root from nvcc's place on PATH
        os.environ["CUDA_HOME"] = nvcc[0]
    from torch.utils import cpp_extension

    werror = os.environ.get("OCCVAE_WERROR", "1") == "1"
    common = [STABLE_ABI, "-O3", *system_includes(torch)]
    cxx = [*common, "-Wall", "-Wextra", "-fvisibility=hidden", *["-Werror"] * werror]
    built = []

    if shutil.which(os.environ.get("CXX", "c++").split()[0]):
        module = cpp_extension.CppExtension("occvae._C", CPU_SOURCES, **options(cxx=cxx))
        module.libraries = ["torch_cpu"]  # the module then works with CPU and CUDA builds of torch
        built.append(module)
    else:
        skip("the kernels", "no C++ compiler; install one (apt install g++) or set CXX")

    wanted = os.environ.get("OCCVAE_CUDA")
    obstacle = "OCCVAE_CUDA=0" if wanted == "0" else cuda_obstacle(torch, nvcc)
    if wanted == "1" and (obstacle or not built):
        sys.exit(f"occvae: OCCVAE_CUDA=1 cannot be met: {obstacle or 'no C++ compiler'}.")
    if obstacle:
        skip("occvae._C_cuda", obstacle)
        if wanted == "0":
            remove_earlier("_C_cuda*.so")
    elif built:
        choose_architectures(torch)
        device = [*common, "-DUSE_CUDA", "--extended-lambda", "-Xcompiler=-Wall,-Wextra"]
        device += ["-Werror=all-warnings", "-Xcompiler=-Werror"] * werror
        module = cpp_extension.CUDAExtension(
            "occvae._C_cuda", CUDA_SOURCES, **options(cxx=[*cxx, "-DUSE_CUDA"], nvcc=device)
        )
        module.libraries = ["torch_cpu", "torch_cuda", "cudart"]
        built.append(module)
    return built, {"build_ext": reusing(cpp_extension.BuildExtension)}


ext_modules, cmdclass = extensions()
setup(
    ext_modules=ext_modules,
    cmdclass=cmdclass,
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if ext_modules else {},
)
