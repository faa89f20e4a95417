"""Measures the peak speed of a device in the same run as the kernels that it is compared with.

On a CPU this is the speed of multiply-adds in registers on all threads, measured by
benchmarks/peak.cpp, which is compiled here. A matrix product would not show the peak, because some
libraries run at half speed on CPUs of other vendors. On a GPU it is the speed of the vendor's
product of two large matrices.
"""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from occvae.ops import _extension

_SOURCE = Path(__file__).with_suffix(".cpp")
_ROUNDS, _TASKS = 2_000_000, 16  # rounds per task, tasks per thread
# Name -> function of peak.cpp, instruction set, and operations per instruction.
_CPU = {
    "fma avx2": ("fma_avx2", "avx2", 2 * 8),
    "fma avx512": ("fma_avx512", "avx512", 2 * 16),
    "dot bf16": ("dot_avx512_bf16", "avx512_bf16", 4 * 16),
}
_EDGE = 8192  # edge of the matrices on a GPU
_GPU = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Peak:
    """A function `run` that does `operations` floating-point operations."""

    def __init__(self, run: Callable[[], object], operations: float):
        self.run, self.operations = run, operations


def peaks(device: str) -> dict[str, Peak]:
    """Returns peaks by name. Empty without a compiler, or if peak.cpp does not support the CPU."""
    return _gpu_peaks() if device == "cuda" else _cpu_peaks()


def _cpu_peaks() -> dict[str, Peak]:
    isa, library = _extension.cpu_isa(), _build()
    if isa in (None, "portable") or library is None:
        return {}
    rank = _extension.ISA_NAMES.index
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)  # calls through ctypes release the GIL

    def peak(name: str, operations: int) -> Peak:
        function = getattr(library, name)
        tasks = [ctypes.c_long(_ROUNDS)] * (_TASKS * threads)
        total = len(tasks) * _ROUNDS * library.chains() * operations
        return Peak(lambda: list(pool.map(function, tasks)), total)

    return {
        name: peak(function, operations)
        for name, (function, needed, operations) in _CPU.items()
        if rank(needed) <= rank(isa)
    }


def read_peak(tensor: torch.Tensor) -> Peak | None:
    """Reads a tensor again and again on one thread. Its `operations` are bytes.

    None without AVX-512 or a compiler.
    """
    isa, library = _extension.cpu_isa(), _build()
    if isa not in ("avx512", "avx512_bf16") or library is None:
        return None
    size = tensor.numel() * tensor.element_size() // 512 * 512
    rounds = max(1, 2**28 // size)
    arguments = ctypes.c_void_p(tensor.data_ptr()), ctypes.c_long(size), ctypes.c_long(rounds)
    return Peak(lambda: library.read_avx512(*arguments), size * rounds)


def _build() -> ctypes.CDLL | None:
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "peak.so")
        compiler = os.environ.get("CXX", "c++").split()
        command = [*compiler, "-O2", "-shared", "-fPIC", str(_SOURCE), "-o", target]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no peaks, because peak.cpp cannot be compiled: {error}")
            return None
        return ctypes.CDLL(target)


def _gpu_peaks() -> dict[str, Peak]:
    def peak(dtype: torch.dtype) -> Peak:
        a, b = (torch.randn(_EDGE, _EDGE, device="cuda", dtype=dtype) for _ in range(2))
        return Peak(lambda: a @ b, 2 * _EDGE**3)

    return {f"product {name}": peak(dtype) for name, dtype in _GPU.items()}
