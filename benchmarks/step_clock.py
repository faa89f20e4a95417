"""Where the time of a training step goes, on CPUs by the clock and on GPUs by events.

Phases follow one another without a gap, so that their times add up to the step. What the ranks say
to each other is taken out of the phase it happens in, whether DeepSpeed or a batch norm says it.
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
    """Time of each phase of a step, and what the collectives in it moved.

    Attributes:
        calls: number of collectives by the phase that they interrupted.
        num_bytes: their tensors', likewise; of gathers the result's.
    """

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str | None, float | torch.cuda.Event]] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.num_bytes: dict[str, int] = defaultdict(int)

    def enter(self, phase: str | None) -> None:
        """The time from now on belongs to a phase; None ends the step."""
        if self._on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((phase, now))

    def finish(self) -> dict[str, float]:
        """Seconds of each phase since the last call."""
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
        """Times torch's collectives; to be entered before DeepSpeed looks them up."""
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
    """The handle of an asynchronous collective, whose wait is communication as well."""

    def __init__(self, work, clock: StepClock):
        self._work, self._clock = work, clock

    def wait(self, *arguments, **options):
        with self._clock._communicating():
            return self._work.wait(*arguments, **options)

    def __getattr__(self, name: str):
        return getattr(self._work, name)
