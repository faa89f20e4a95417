"""What ptxas says about each CUDA kernel: registers, spills, stack, and warnings. Needs no GPU.

python benchmarks/ptxas.py                                        # all sources, for minutes
python benchmarks/ptxas.py csrc/cuda/query_occupancy_wgmma.cu --arch sm_90a

The exit status is 1 if ptxas serializes asynchronous products of wgmma (its warnings C7508 to
C7514). It does so if other instructions touch the registers of products that are still running.
"""

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

ROOT = Path(__file__).resolve().parent.parent
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # as in setup.py
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SERIALIZED = re.compile(r"C75(0[89]|1[0-4])")


def compile_source(source: Path, arch: str) -> str:
    """Compiles a source to SASS and returns what ptxas printed."""
    include = Path(torch.__file__).parent / "include"
    folders = [include, include / "torch/csrc/api/include", Path(sysconfig.get_path("include"))]
    command = ["nvcc", "-cubin", f"-arch={arch}", "-std=c++20", "-O3", "-Xptxas=-v"]
    command += [STABLE_ABI, "-DUSE_CUDA", "--extended-lambda", *COMMON_NVCC_FLAGS]
    for folder in folders:
        command += ["-isystem", str(folder)]
    command += ["-o", "/dev/null", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def parse(output: str) -> list[dict[str, object]]:
    """Returns one row per kernel, in the order of the output."""
    rows: list[dict[str, object]] = []
    for line in output.splitlines():
        if entry := _ENTRY.search(line):
            rows.append(dict(kernel=entry[1], arch=entry[2]))
        elif rows and (memory := _MEMORY.search(line)):
            names = ("stack", "spill_stores", "spill_loads")
            rows[-1] |= dict(zip(names, map(int, memory.groups()), strict=True))
        elif rows and (registers := _REGISTERS.search(line)):
            rows[-1]["registers"] = int(registers[1])
    return rows


def warnings_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if "warning" in line or _SERIALIZED.search(line)]


def demangle(names: list[str]) -> list[str]:
    program = shutil.which("cu++filt") or shutil.which("c++filt")
    if program is None or not names:
        return names
    done = subprocess.run([program], input="\n".join(names), capture_output=True, text=True)
    return done.stdout.splitlines()


def print_rows(rows: list[dict[str, object]]) -> None:
    print(f"{'registers':>9} {'stack':>6} {'stores':>6} {'loads':>6}  kernel")
    names = demangle([str(row["kernel"]) for row in rows])
    for row, name in zip(rows, names, strict=True):
        numbers = [
            row.get(key, "?") for key in ("registers", "stack", "spill_stores", "spill_loads")
        ]
        name = name.replace("occvae::", "").replace("(anonymous namespace)::", "")
        print(f"{numbers[0]:>9} {numbers[1]:>6} {numbers[2]:>6} {numbers[3]:>6}  {name[:110]}")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("sources", nargs="*", type=Path, help="default: all of csrc/cuda")
    options.add_argument("--arch", nargs="+", default=["sm_80", "sm_90a"])
    args = options.parse_args()
    if shutil.which("nvcc") is None:
        raise SystemExit("nvcc is not on PATH; install the CUDA toolkit")
    serialized = False
    for source in args.sources or sorted((ROOT / "csrc/cuda").glob("*.cu")):
        for arch in args.arch:
            print(f"\n{source.name} for {arch}", flush=True)
            output = compile_source(source, arch)
            print_rows(parse(output))
            for line in warnings_of(output):
                print(line)
            serialized |= bool(_SERIALIZED.search(output))
    if serialized:
        sys.exit("ptxas serializes wgmma: see the warnings above")


if __name__ == "__main__":
    main()
