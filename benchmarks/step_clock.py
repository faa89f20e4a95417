"""Measures where the time of a training step goes, with a clock on CPUs and events on GPUs.

Phases follow each other without a gap, so their times add up to the time of the step. Communication
of DeepSpeed or of a batch norm is subtracted from the phase in which it happens.
"""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

PHASES = ("data", "forward", "backward", "step", "communication")
_COLLECTIVES = (
    "all_gather all_gather_into_tensor all_reduce all_to_all_single broadcast reduce "
    "reduce_scatter reduce_scatter_tensor"
).split()


class StepClock:
    """Measures the time of each phase of a step and the bytes that its collectives move.

    Attributes:
        calls: phase -> number of collectives in it.
        num_bytes: phase -> bytes of the tensors of these collectives. A gather counts its result.
    """

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str | None, float | torch.cuda.Event]] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.num_bytes: dict[str, int] = defaultdict(int)

    def enter(self, phase: str | None) -> None:
        """Starts a phase. None ends the step."""
        if self._on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((phase, now))

    def finish(self) -> dict[str, float]:
        """Ends the step and returns the seconds of each phase since the last call."""
        self.enter(None)
        if self._on_gpu:
            torch.cuda.synchronize()
        seconds = dict.fromkeys(PHASES, 0.0)
        for (phase, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[phase] += start.elapsed_time(end) / 1e3 if self._on_gpu else end - start
        self._marks.clear()
        return seconds

    @contextmanager
    def _communicating(self, tensor: torch.Tensor | None = None) -> Iterator[None]:
        phase = self._marks[-1][0] if self._marks else None
        if phase in (None, "communication"):  # between steps, or inside another collective
            yield
            return
        if tensor is not None:
            self.calls[phase] += 1
            self.num_bytes[phase] += tensor.nbytes
        self.enter("communication")
        try:
            yield
        finally:
            self.enter(phase)

    @contextmanager
    def watch_collectives(self) -> Iterator[None]:
        """Times the collectives of torch. Enter it before DeepSpeed looks them up."""
        originals = {name: getattr(dist, name) for name in _COLLECTIVES}
        for name, original in originals.items():
            setattr(dist, name, self._timed(original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(dist, name, original)

    def _timed(self, collective: Callable) -> Callable:
        @functools.wraps(collective)
        def timed(*arguments, **options):
            given = [*arguments, *options.values()]
            tensor = next((value for value in given if isinstance(value, torch.Tensor)), None)
            with self._communicating(tensor):
                work = collective(*arguments, **options)
            return None if work is None else _TimedWork(work, self)

        return timed


class _TimedWork:
    """The handle of an asynchronous collective. Waiting for it counts as communication."""

    def __init__(self, work, clock: StepClock):
        self._work, self._clock = work, clock

    def wait(self, *arguments, **options):
        with self._clock._communicating():
            return self._work.wait(*arguments, **options)

    def __getattr__(self, name: str):
        return getattr(self._work, name)
