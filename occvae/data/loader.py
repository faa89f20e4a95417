"""Batches for training: the samples of each step, and the worker processes that read them."""

import atexit
import contextlib
import math
import mmap
import signal
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from occvae.data.dataset import Batch, ShapeDataset
from occvae.data.targets import Layout
from occvae.errors import UserError

_PREFETCHED = 4  # batches per worker
_ALIGNMENT = 64
# Last number of a random seed. A sample's own streams, [seed, epoch, index], use 0 and 1.
_ORDER, _VIEWS = 2, 3
_active_iterators: weakref.WeakSet[_MultiProcessingDataLoaderIter] = weakref.WeakSet()


class StepSampler:
    """Yields this rank's keys for `ShapeDataset`, one batch per step.

    All ranks together see one endless sequence: a new permutation of all samples for each epoch.
    Each step takes the next global batch of the sequence, and each rank takes its part of it. Every
    sample therefore occurs exactly once per epoch, on any number of ranks. A batch may contain the
    end of one epoch and the start of the next. With a small dataset it may span several epochs.

    The keys are a pure function of the step. To resume with the same global batch, also on another
    number of ranks, `steps` is enough. With another global batch, `position` is needed too.

    Args:
        num_samples: samples of the dataset.
        batch_size: samples per rank and step.
        rank: rank of this process.
        world_size: number of ranks.
        seed: seed of the run.
        steps: the steps to run.
        position: samples that all earlier steps took. None if they had this global batch.
        random_views: smallest and largest number of images per shape, drawn once per step for the
            whole global batch. None to leave the number to the dataset.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        rank: int,
        world_size: int,
        seed: int,
        steps: range,
        position: int | None = None,
        random_views: tuple[int, int] | None = None,
    ):
        self.global_batch = batch_size * world_size
        self.num_samples, self.batch_size = num_samples, batch_size
        self.rank, self.seed, self.steps = rank, seed, steps
        self.position = steps.start * self.global_batch if position is None else position
        self.random_views = random_views

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        order_epoch, order = -1, np.empty(0, np.int64)
        first = self.position + self.rank * self.batch_size
        for step in self.steps:
            views = self._views(step)
            keys = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.num_samples)
                if epoch != order_epoch:
                    order, order_epoch = self._order(epoch), epoch
                keys.append((epoch, int(order[place]), *views))
            yield keys
            first += self.global_batch

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch, 0, _ORDER])
        return rng.permutation(self.num_samples)

    def _views(self, step: int) -> tuple[int, ...]:
        if self.random_views is None:
            return ()
        rng = np.random.default_rng([self.seed, step, 0, _VIEWS])
        return (int(rng.integers(*self.random_views, endpoint=True)),)


def load_batches(
    dataset: ShapeDataset,
    batches: StepSampler,
    *,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """Yields one batch per step: the tensors of its samples, stacked by name.

    Args:
        dataset: where the samples come from. `ShapeDataset` lists the tensors.
        batches: keys of each batch, with at most `dataset.num_views` images per sample.
        num_workers: processes that read ahead. With 0 this process reads.
        pin_memory: whether to page-lock the batches, for asynchronous copies to a GPU.

    Raises:
        UserError: there is not enough memory for the batches that are read ahead.
    """
    if num_workers == 0:
        stacked = (default_collate([dataset[key] for key in keys]) for keys in batches)
        return map(_pinned, stacked) if pin_memory else stacked
    # One slot per prefetched batch, and one for the batch that is being copied.
    ring = _Ring(dataset, batches.batch_size, num_slots=_PREFETCHED * num_workers + 1)
    loader = DataLoader(
        ring,
        batch_size=None,
        sampler=enumerate(batches),
        num_workers=num_workers,
        prefetch_factor=_PREFETCHED,
        multiprocessing_context="fork",  # so that workers share the ring
    )
    with _blocked_signals():
        numbered = iter(loader)  # starts the workers here, not at the first batch
    assert isinstance(numbered, _MultiProcessingDataLoaderIter)
    _active_iterators.add(numbered)
    keep = _pinned if pin_memory else _copied
    return (keep(ring.tensors(number, layout)) for number, layout in numbered)


def _pinned(batch: Batch) -> Batch:
    return {name: tensor.pin_memory() for name, tensor in batch.items()}


def _copied(batch: Batch) -> Batch:
    return {name: tensor.clone() for name, tensor in batch.items()}


@atexit.register  # registered after the handlers of torch and multiprocessing, so it runs first
def _end_loaders() -> None:
    """Ends the workers at exit. Python would wait forever, because they block its signal."""
    for numbered in list(_active_iterators):
        numbered._shutdown_workers()


class _Ring(Dataset[tuple[int, Layout]]):
    """Reads batches into shared memory that is reused.

    The first access to a new memory page is many times slower than writing its bytes. Batches sent
    as tensors would use new pages each time, in the process that writes and in the one that reads.
    """

    def __init__(self, dataset: ShapeDataset, batch_size: int, num_slots: int):
        self._dataset, self._num_slots = dataset, num_slots
        *_, (_, end) = _spans(dataset.batch_layout([(0, 0)] * batch_size))
        self._slot_bytes = _aligned(end)
        # Anonymous memory, because /dev/shm is small in many containers.
        size = num_slots * self._slot_bytes
        try:
            memory = mmap.mmap(-1, size)
        except OSError as error:
            raise UserError(
                f"cannot allocate {size / 1e9:.1f} GB for {num_slots} batches of {batch_size} "
                f"that are read ahead ({error.strerror}); lower data.num_workers or "
                "optim.batch_size"
            ) from None
        self._memory = torch.frombuffer(memory, dtype=torch.uint8)

    def __getitem__(self, numbered: tuple[int, list[tuple[int, ...]]]) -> tuple[int, Layout]:
        """Reads a numbered batch into its slot, and returns what `tensors` needs to find it."""
        number, keys = numbered
        layout = self._dataset.batch_layout(keys)
        tensors = self.tensors(number, layout)
        for row, key in enumerate(keys):
            for name, value in self._dataset[key].items():
                tensors[name][row] = value
        return number, layout

    def tensors(self, number: int, layout: Layout) -> Batch:
        """Views into the ring. The batch that uses the same slot next overwrites them."""
        first = number % self._num_slots * self._slot_bytes
        slot = self._memory[first : first + self._slot_bytes]
        spans = zip(layout.items(), _spans(layout), strict=True)
        return {
            name: slot[start:end].view(dtype).view(shape)
            for (name, (shape, dtype)), (start, end) in spans
        }


def _spans(layout: Layout) -> list[tuple[int, int]]:
    """First byte of each tensor in a slot, and the byte after its last."""
    spans, end = [], 0
    for shape, dtype in layout.values():
        start = _aligned(end)
        end = start + math.prod(shape) * dtype.itemsize
        spans.append((start, end))
    return spans


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Blocks SIGINT and SIGTERM in all processes that are started within the context.

    Terminals and launchers send signals to every process. A worker that died would abort the
    checkpoint that the trainer then writes.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
