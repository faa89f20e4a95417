"""Compiles the CUDA sources for the CPU, against an emulator of the CUDA language.

    OCCVAE_TEST_EMULATED_CUDA=1 python -m pytest tests/ops/test_voxel_iou.py

runs tests on these sources. tests/conftest.py calls `install()`, and `occvae._C` is then the module
built here, in which the CUDA kernels are registered as CPU kernels. A seed fixes the schedule of
threads:

    OCCVAE_EMULATOR_SEED=7          another schedule
    OCCVAE_EMULATED_DEVICE=8.0      compute capability of the emulated device (default 9.0)

With the environment that `with_address_sanitizer()` returns, an access outside a tensor ends the
process with a report. pytest shows the report with --capture=sys.

Only `kernel<<<...>>>(...)`, `extern __shared__` and the dispatch key are rewritten, and
csrc/cuda/ptx.cuh is replaced. Macros and functions of include/cuda_runtime.h provide the rest.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import filelock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FLAGS = ["-std=c++20", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-w"]
if "libasan" in os.environ.get("LD_PRELOAD", ""):
    FLAGS += ["-fsanitize=address", "--param=asan-stack=0"]  # it cannot follow the stacks of fibers
REWRITES = (
    (r"(\w+)<<<([^;]*?)>>>\s*\(", r"emulator::configure(\1, \2)("),
    (r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?(\w+)\s+(\w+)\[\]",
     r"\1* const \2 = reinterpret_cast<\1*>(emulator::dynamic_shared())"),
    (r"\(occvae, CUDA, m\)", "(occvae, CPU, m)"),
)  # fmt: skip


def _folder() -> Path:
    """Folder of the builds: in the repository, or in ~/.cache if the repository is read-only."""
    if os.access(ROOT, os.W_OK):
        return ROOT / "build" / "cuda_emulator"
    return Path.home() / ".cache" / "occvae" / "cuda_emulator"


FOLDER = _folder()


def compiler() -> str | None:
    """Path of the compiler that CXX names, g++ by default. None if there is no compiler."""
    return shutil.which(os.environ.get("CXX", "g++").split()[0])


@cache
def compiler_version() -> str:
    return run([compiler(), "--version"])


@contextmanager
def one_build_at_a_time() -> Iterator[None]:
    """Locks the build folder: a second process waits, then finds the finished build."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(FOLDER / "lock"):
        yield


def with_address_sanitizer() -> dict[str, str]:
    """Environment variables for a process that builds and runs kernels with AddressSanitizer.

    New memory holds garbage. The dictionary is empty if the sanitizer's library is missing.
    """
    libraries = [
        subprocess.run(
            [compiler(), f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")  # libasan intercepts throw of libstdc++
    ]
    if not all(Path(library).is_absolute() for library in libraries):
        return {}
    options = "detect_leaks=0:malloc_fill_byte=165:max_malloc_fill_size=1073741824"
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": options}


def rewrite(source: str) -> str:
    """Rewrites a CUDA source to C++."""
    for pattern, replacement in REWRITES:
        source = re.sub(pattern, replacement, source)
    if "<<<" in source:
        raise ValueError(
            "the CUDA emulator understands only `name<<<...>>>(...)`; use launch() of launch.cuh"
        )
    return source


def write_if_changed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        # Another process may be reading the file, so it is replaced and not rewritten.
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(text)
        partial.replace(path)


def copy_sources() -> Path:
    """Copies csrc into the build folder as C++ and returns the copy."""
    copy = FOLDER / "csrc"
    for path in (ROOT / "csrc").rglob("*.*"):
        write_if_changed(copy / path.relative_to(ROOT / "csrc"), rewrite(path.read_text()))
    write_if_changed(copy / "cuda/ptx.cuh", f'#include "{HERE}/include/ptx.cuh"\n')
    return copy


def digest(*parts: str | bytes) -> str:
    result = hashlib.sha256()
    for part in parts:
        result.update(part if isinstance(part, bytes) else part.encode())
        result.update(b"\0")
    return result.hexdigest()[:16]


def compile_all(sources: list[Path], includes: list[str], headers: list[Path]) -> list[Path]:
    """Compiles sources to objects. Unchanged text, headers and flags reuse an earlier object."""
    command = [compiler(), *FLAGS, *includes]
    texts = (path.read_bytes() for path in headers)
    common = digest(compiler_version(), *map(str, command), *texts)
    objects = FOLDER / "objects"
    objects.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        result = objects / f"{source.stem}-{digest(common, source.read_bytes())}.o"
        if not result.exists():
            partial = result.with_suffix(f".{os.getpid()}")
            run([*command, "-x", "c++", "-c", str(source), "-o", str(partial)])
            partial.replace(result)
        return result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def run(command: list[str]) -> str:
    """Runs a compiler and returns its output."""
    # Only the kernels need the sanitizer. A compiler that preloads it takes twice as long.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def link(objects: list[Path], name: str, flags: list[str]) -> Path:
    """Links objects to a shared library, whose name contains a digest of the objects' names."""
    result = FOLDER / f"{name}-{digest(*(path.name for path in objects))}.so"
    if not result.exists():
        partial = result.with_suffix(f".{os.getpid()}")
        run([compiler(), *FLAGS, "-shared", "-Wl,-Bsymbolic", *map(str, objects), *flags,
             "-o", str(partial)])  # fmt: skip
        partial.replace(result)
    return result


@one_build_at_a_time()
def build_module() -> Path:
    """Builds occvae._C from the CUDA sources and returns its path."""
    import torch

    copy, root = copy_sources(), Path(torch.__file__).parent
    folders = [root / "include", root / "include/torch/csrc/api/include"]
    includes = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DUSE_CUDA"]
    includes += [f'-DBUILT_FOR="{torch.__version__}"']
    for folder in [HERE / "include", *folders, Path(sysconfig.get_path("include"))]:
        includes += ["-isystem", str(folder)]
    kernels = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    sources = [copy / "bindings.cpp", *(copy / "cuda" / path.name for path in kernels)]
    objects = compile_all(sources, includes, headers_in(copy))
    objects += emulator_objects()
    objects += compile_all([HERE / "torch_shims.cpp"], includes, headers_in())
    return link(objects, "_C", [f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10"])


def headers_in(*folders: Path) -> list[Path]:
    found = [path for folder in (HERE, *folders) for path in folder.rglob("*.*h")]
    return sorted(path for path in found if path.suffix in (".h", ".cuh"))


def emulator_objects() -> list[Path]:
    sources = [path for path in sorted(HERE.glob("*.cpp")) if path.stem != "torch_shims"]
    return compile_all(sources, ["-O3"], headers_in())


@one_build_at_a_time()
def build_library(source: Path) -> Path:
    """Builds a CUDA source without torch into a library for ctypes and returns its path."""
    copy = FOLDER / source.name
    write_if_changed(copy, rewrite(source.read_text()))
    includes = ["-isystem", str(HERE / "include")]
    return link(compile_all([copy], includes, headers_in()) + emulator_objects(), source.stem, [])


def install() -> None:
    """Makes `import occvae` load the emulated module and no CUDA module."""
    import torch  # noqa: F401  (its libraries must be loaded first)

    path = build_module()
    loader = ExtensionFileLoader("occvae._C", str(path))
    spec = spec_from_file_location("occvae._C", path, loader=loader)
    sys.modules["occvae._C"] = module_from_spec(spec)
    loader.exec_module(sys.modules["occvae._C"])
    sys.modules["occvae._C_cuda"] = None  # hidden even if it was built


if __name__ == "__main__":
    print(build_module())
