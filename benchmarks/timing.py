"""What all benchmarks share: interleaved timing, a description of the machine, tables and JSON.

Importing this module also makes the input builders in `tests` importable.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import occvae

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SCHEMA_VERSION = 1  # version of the JSON rows
_EVICTED_BYTES = 256 * 2**20  # larger than the caches of CPUs and GPUs that we know


def interleave(
    candidates: dict[str, Callable[[], object]],
    *,
    repeats: int = 15,
    device: str = "cpu",
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Times candidates in turns, A B C A B C ..., so that a busy moment affects all alike.

    The caches are cold before every run, whichever candidate ran before. CUDA work is timed with
    events, other work with `clock`. On a machine that runs other programs, `time.process_time`
    leaves their share of a core out.

    Returns:
        For each candidate the median, p20, p80 and minimum in seconds, and the number of runs n.
    """
    for run in candidates.values():
        for _ in range(warmup):
            run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    evictor = torch.empty(_EVICTED_BYTES, dtype=torch.uint8, device=device)
    for round_ in range(repeats):
        for name, run in candidates.items():
            evictor.fill_(round_)
            times[name].append(_time_cuda(run) if device == "cuda" else _time_cpu(run, clock))
    return {name: summarize(values) for name, values in times.items()}


def summarize(seconds: list[float]) -> dict[str, float]:
    values = torch.tensor(seconds, dtype=torch.float64)
    low, middle, high = values.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return dict(median=middle, p20=low, p80=high, minimum=min(seconds), n=len(seconds))


def _time_cpu(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def _time_cuda(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def growth_at_peak(run: Callable[[], object]) -> int | None:
    """Returns the peak growth of the process in bytes, or None on other systems than Linux."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # otherwise memory freed by earlier runs is reused
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _process_memory("VmRSS")
        run()
        return _process_memory("VmHWM") - before
    except OSError:
        return None


def _process_memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def environment(device: str = "cpu") -> dict[str, object]:
    """Returns the facts that a figure depends on: commit, versions, machine, threads and load."""
    commit, dirty = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain")
    facts = dict(
        occvae=occvae.__version__,
        commit=commit or "none",
        dirty=bool(dirty) or not commit,
        python=platform.python_version(),
        torch=torch.__version__,
        cpu=_cpu_name(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2),
    )
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except OSError:  # git is not installed
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def header(title: str, facts: dict[str, object]) -> str:
    return f"{title}\n  " + "  ".join(f"{name} {value}" for name, value in facts.items())


def table(results: dict[str, dict[str, float]], unit: str) -> str:
    """Formats one line per candidate. The ratio compares its median with that of `unit`."""
    width = max(map(len, results))
    lines = [f"{'':<{width}}  {'median':>10}  {'p20':>9} - {'p80':<9}  {'min':>9}  ratio"]
    for name, row in results.items():
        low, middle, high, least = (
            f"{1e3 * row[key]:.3f}" for key in ("p20", "median", "p80", "minimum")
        )
        ratio = row["median"] / results[unit]["median"]
        lines.append(
            f"{name:<{width}}  {middle:>7} ms  {low:>9} - {high:<9}  {least:>9}  {ratio:.1f}x"
        )
    return "\n".join(lines)


def write_json(path: str, benchmark: str, facts: dict[str, object], rows: list[dict]) -> None:
    """Appends one JSON line per row. Every line also holds the facts of the run."""
    with open(path, "a", encoding="ascii") as file:
        for row in rows:
            record = dict(schema=SCHEMA_VERSION, benchmark=benchmark, **facts, **row)
            file.write(json.dumps(record) + "\n")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options that every benchmark has."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    result.add_argument("--repeats", type=int, default=15, help="timed runs per candidate")
    result.add_argument("--threads", type=int, help="CPU threads of PyTorch and the kernels")
    result.add_argument("--json", metavar="FILE", help="append the rows to this file")
    return result
