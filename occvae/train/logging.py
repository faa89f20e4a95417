"""The log of a run: progress bar, metrics.jsonl and TensorBoard, written by rank 0 only."""

import contextlib
import functools
import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from occvae.system.atomic_write import write_whole_text
from occvae.system.verbosity import is_quiet, is_verbose


class Mirror(Protocol):
    """An additional destination for the metrics of a run."""

    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class RunLogger:
    """Writes the progress and the metrics of one run.

    Args:
        folder: run folder; None on ranks that log nothing.
        first_step: step that the run continues from. Metrics of later steps, which an interrupted
            run left, are deleted.
        last_step: last step of the run, the end of the progress bar.
        mirror: additional destination for the metrics, or None.

    Raises:
        OSError: the files cannot be written.
    """

    def __init__(
        self, folder: Path | None, first_step: int, last_step: int, mirror: Mirror | None = None
    ):
        self._folder, self._mirror = folder, mirror
        if folder is not None:
            with self._named_failures():
                self._open(folder, first_step)
        self._bar = tqdm(
            total=last_step,
            initial=first_step,
            unit="step",
            disable=folder is None or is_quiet(),
            mininterval=1.0,
            dynamic_ncols=True,
            bar_format="{n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )

    def _open(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = functools.partial(_unless_raised_again, threading.excepthook)
        path = folder / "metrics.jsonl"
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= first_step]
        write_whole_text(path, "".join(kept))
        self._file = path.open("a", buffering=1)
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def advance(self, **shown: float) -> None:
        """Advances the progress bar by one step. `shown` replaces the values beside it if given."""
        if shown:
            self._bar.set_postfix({key: f"{value:.4g}" for key, value in shown.items()}, False)
        self._bar.update()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Appends the metrics of a step to the files.

        Raises:
            OSError: the files cannot be written.
        """
        if self._folder is None:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        with self._named_failures():
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
        if self._mirror is not None:
            self._mirror.write(step, metrics)
        if is_verbose():
            self.say(f"step {step}: {', '.join(f'{k} {v:.4g}' for k, v in metrics.items())}")

    def say(self, line: str) -> None:
        """Prints a line above the progress bar, unless this process is quiet."""
        if self._folder is not None and not is_quiet():
            self._bar.write(line)

    def close(self) -> None:
        """Closes the files. May be slow, because TensorBoard and the mirror flush their buffers."""
        self._bar.close()
        if self._folder is not None:
            with self._named_failures():
                self._writer.close()
                self._file.close()
        if self._mirror is not None:
            self._mirror.close()

    @contextlib.contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"{self._folder}: metrics cannot be written ({error})") from None


def _unless_raised_again(
    tell: Callable[[threading.ExceptHookArgs], object], failure: threading.ExceptHookArgs
) -> None:
    """Reports an uncaught exception of a thread, except those that TensorBoard keeps.

    TensorBoard's writer thread stores its exception, e.g. of a full disk. The next write raises it
    again.
    """
    if getattr(failure.thread, "exception", None) is not failure.exc_value:
        tell(failure)


def _complete_lines(path: Path) -> list[str]:
    """Returns the lines of a file, without a last line that a crash left incomplete."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
