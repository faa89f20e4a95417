"""Makes kernels.cu callable from Python, compiled for the emulator or by nvcc for the GPU."""

import ctypes
import subprocess
from pathlib import Path

import torch

from tests.cuda_emulator import build

SOURCE = build.HERE / "kernels.cu"


class Kernels:
    """Calls run_<name> with tensors as pointers. A failed launch raises RuntimeError."""

    def __init__(self, path: Path, device: str):
        self.device = device
        self._library = ctypes.CDLL(str(path))

    def seed(self, value: int) -> None:
        """Sets the seed of the emulator's schedule. Does nothing on a GPU."""
        if self.device == "cpu":
            self._library.occvae_emulator_seed(ctypes.c_uint64(value))

    def run(self, name: str, *arguments: torch.Tensor | int) -> None:
        function = getattr(self._library, f"run_{name}")
        function.restype = ctypes.c_char_p
        if error := function(*map(self._argument, arguments)):
            raise RuntimeError(error.decode())

    def _argument(self, value: torch.Tensor | int) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        assert value.is_contiguous() and value.device.type == self.device
        return ctypes.c_void_p(value.data_ptr())


def emulated_kernels() -> Kernels:
    return Kernels(build.build_library(SOURCE), "cpu")


def cuda_kernels() -> Kernels:
    major, minor = torch.cuda.get_device_capability()
    architecture = f"sm_{major}{minor}" + "a" * (major == 9)
    build.FOLDER.mkdir(parents=True, exist_ok=True)
    library = build.FOLDER / f"kernels-{architecture}.so"
    build.run(["nvcc", "-std=c++20", "-O3", f"-arch={architecture}", f"-I{build.ROOT}/csrc/cuda",
               "-shared", "-Xcompiler=-fPIC", "-o", str(library), str(SOURCE)])  # fmt: skip
    torch.zeros(1, device="cuda")  # makes PyTorch's CUDA context current
    return Kernels(library, "cuda")


def nvcc_compiles(architecture: str) -> str:
    """Compiles kernels.cu with nvcc, warnings as errors. Raises RuntimeError with its output."""
    command = ["nvcc", "-std=c++20", f"-arch={architecture}", "-Werror=all-warnings", "-cubin"]
    command += [f"-I{build.ROOT}/csrc/cuda", "-o", "/dev/null", str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stderr
