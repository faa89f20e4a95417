"""Batches for training: which samples a step sees, and how they come from worker processes."""

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

_PREFETCHED = 4  # batches of each worker
_ALIGNMENT = 64
# Streams of random numbers beside those of a shape, [seed, epoch, shape], which end in 0 and 1.
_ORDER, _VIEWS = 2, 3
_under_way: weakref.WeakSet[_MultiProcessingDataLoaderIter] = weakref.WeakSet()


class StepSampler:
    """Batches of keys of `ShapeDataset` for a range of steps; a pure function of the step.

    A run sees one endless sequence: a fresh permutation of all samples for each epoch, one after
    the other. Each step takes the next global batch and shares it out among the ranks, so every
    sample comes exactly once an epoch on any number of ranks; a batch may end one epoch and begin
    the next, or pass over a small dataset several times. A resume only needs the step, also on
    another number of ranks that share the batch; with another batch, the position too.

    Args:
        num_samples: of the dataset.
        batch_size: of one rank.
        rank, world_size: of this process.
        seed: of the run.
        steps: the steps to run.
        position: samples that the steps before have taken; None if they had batches like these.
        random_views: None, or the least and the most images of a shape, as many for all of a
            global batch.
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
    """The samples of each batch of keys, stacked by name, see `ShapeDataset`.

    Args:
        dataset: of the samples.
        batches: of keys, with no more images than `dataset.num_views`.
        num_workers: processes that read ahead; 0 to read in this one.
        pin_memory: whether batches come page-locked, for copies to a GPU beside its work.
    """
    if num_workers == 0:
        stacked = (default_collate([dataset[key] for key in keys]) for keys in batches)
        return map(_pinned, stacked) if pin_memory else stacked
    # As many batches are under way as are prefetched, and one is being copied.
    ring = _Ring(dataset, batches.batch_size, num_slots=_PREFETCHED * num_workers + 1)
    loader = DataLoader(
        ring,
        batch_size=None,
        sampler=enumerate(batches),
        num_workers=num_workers,
        prefetch_factor=_PREFETCHED,
        multiprocessing_context="fork",  # so that the processes have the ring, too
    )
    with _deaf_to_signals():
        numbered = iter(loader)  # the processes start here, not at the first batch
    assert isinstance(numbered, _MultiProcessingDataLoaderIter)
    _under_way.add(numbered)
    keep = _pinned if pin_memory else _copied
    return (keep(ring.tensors(number, layout)) for number, layout in numbered)


def _pinned(batch: Batch) -> Batch:
    return {name: tensor.pin_memory() for name, tensor in batch.items()}


def _copied(batch: Batch) -> Batch:
    return {name: tensor.clone() for name, tensor in batch.items()}


@atexit.register  # later than torch and multiprocessing do, and so called before them
def _end_loaders() -> None:
    """Python would end these processes by a signal that they do not hear, and wait for ever."""
    for numbered in list(_under_way):
        numbered._shutdown_workers()


class _Ring(Dataset[tuple[int, Layout]]):
    """Batches in shared memory that is used again and again.

    The first touch of a fresh page costs many times what the bytes written to it cost. Sent as
    tensors, every batch would take fresh ones, in the process that writes and in the one that
    reads.
    """

    def __init__(self, dataset: ShapeDataset, batch_size: int, num_slots: int):
        self._dataset, self._num_slots = dataset, num_slots
        *_, (_, end) = _spans(dataset.batch_layout([(0, 0)] * batch_size))
        self._slot_bytes = _aligned(end)
        # Anonymous, because /dev/shm is small in many containers.
        size = num_slots * self._slot_bytes
        try:
            memory = mmap.mmap(-1, size)
        except OSError as error:
            raise UserError(
                f"{num_slots} batches of {batch_size} under way take {size / 1e9:.1f} GB "
                f"({error.strerror}); lower data.num_workers or optim.batch_size"
            ) from None
        self._memory = torch.frombuffer(memory, dtype=torch.uint8)

    def __getitem__(self, numbered: tuple[int, list[tuple[int, ...]]]) -> tuple[int, Layout]:
        """Reads the batch of a number; where it lies follows from what is returned."""
        number, keys = numbered
        layout = self._dataset.batch_layout(keys)
        tensors = self.tensors(number, layout)
        for row, key in enumerate(keys):
            for name, value in self._dataset[key].items():
                tensors[name][row] = value
        return number, layout

    def tensors(self, number: int, layout: Layout) -> Batch:
        """Views into the ring, overwritten by the batch that comes a turn later."""
        first = number % self._num_slots * self._slot_bytes
        slot = self._memory[first : first + self._slot_bytes]
        spans = zip(layout.items(), _spans(layout), strict=True)
        return {
            name: slot[start:end].view(dtype).view(shape)
            for (name, (shape, dtype)), (start, end) in spans
        }


def _spans(layout: Layout) -> list[tuple[int, int]]:
    """First byte of each tensor, and the one after its last, one tensor behind the other."""
    spans, end = [], 0
    for shape, dtype in layout.values():
        start = _aligned(end)
        end = start + math.prod(shape) * dtype.itemsize
        spans.append((start, end))
    return spans


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


@contextlib.contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Processes begun here are so for life, and from their first moment on.

    Terminals and launchers signal every process; a loader that died would abort the save.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
