"""What a training takes of its machine: peak memory, and a trace of some of its steps."""

import resource
import sys
from pathlib import Path

import torch

from occvae.train import parallel

# Steps that a profiler lets pass: the first ones allocate, tune and compile.
_SKIPPED_STEPS, _WARMUP_STEPS = 3, 1


def peak_memory(device: torch.device) -> dict[str, float]:
    """Collective: GiB at the highest, of the rank that took the most, by the name of the metric."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"memory/peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peaks["memory/peak_gpu_gib"] = torch.cuda.max_memory_allocated(device)
    most = parallel.max_over_ranks(torch.tensor(list(peaks.values()), device=device)) / 2**30
    return dict(zip(peaks, most.tolist(), strict=True))


def create_profiler(run: Path, num_steps: int, device: torch.device) -> torch.profiler.profile:
    """Of `num_steps` steps; a context, to be told by `step()` of the end of each.

    Writes <run>/profile/steps-A-to-B.json, counted from where this process began, for
    chrome://tracing or ui.perfetto.dev.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    before = _SKIPPED_STEPS + _WARMUP_STEPS

    def write(profiler: torch.profiler.profile) -> None:
        file = run / "profile" / f"steps-{before + 1}-to-{before + num_steps}.json"
        file.parent.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(file))

    return torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(
            wait=_SKIPPED_STEPS, warmup=_WARMUP_STEPS, active=num_steps, repeat=1
        ),
        on_trace_ready=write,
    )
