"""Peak memory of a training, and a profiler trace of some of its steps."""

import resource
import sys
from pathlib import Path

import torch

from occvae.train import parallel

# The profiler skips the first steps, which allocate memory and tune kernels.
_SKIPPED_STEPS, _WARMUP_STEPS = 3, 1


def peak_memory(device: torch.device) -> dict[str, float]:
    """Returns the peak memory of the rank that used the most. Collective.

    Returns:
        GiB by the name of the metric: `memory/peak_rss_gib`, and on GPUs `memory/peak_gpu_gib`.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"memory/peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peaks["memory/peak_gpu_gib"] = torch.cuda.max_memory_allocated(device)
    most = parallel.max_over_ranks(torch.tensor(list(peaks.values()), device=device)) / 2**30
    return dict(zip(peaks, most.tolist(), strict=True))


def create_profiler(run: Path, num_steps: int, device: torch.device) -> torch.profiler.profile:
    """Creates a profiler for `num_steps` steps after the first four.

    The profiler is a context manager. Call its `step()` after each training step. It writes
    RUN/profile/steps-A-to-B.json for chrome://tracing or ui.perfetto.dev. A and B count the steps
    of this process, which differ from the steps of the run after a resume.

    Args:
        run: run folder.
        num_steps: number of steps to record.
        device: device of the model. On a GPU its kernels are recorded too.
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
