"""A training split that is held on the device, and batches that are made there.

A sample takes a CPU core 0.4 ms, without augmentation. A GPU that trains a small model needs more
samples than its cores can read. If all images, points and voxels of a split fit into the memory of
the device, they are decoded once, and a batch is then a few operations of the device.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from occvae.data.batch_augmentation import augment_batch
from occvae.data.dataset import Batch, ShapeDataset
from occvae.data.loader import StepSampler
from occvae.data.points import HALF_EXTENT
from occvae.data.shards import Shard
from occvae.data.targets import PointTarget, VoxelTarget
from occvae.errors import UserError
from occvae.system.memory import available_memory
from occvae.system.openmp import usable_cores

# Share of the free memory that the split may take. The rest is for the training itself.
_LARGEST_SHARE = 0.6
# Last number of the random seed of a batch, see loader.py.
_BATCH = 4


class DeviceDataset:
    """Makes batches of a training split on one device, which holds all of the split.

    The shapes of each step are those of `load_batches`. Views, mirroring, points and augmentation
    have the same distribution. They follow from the seed, the step and the rank, so a resumed run
    on as many ranks continues with the same batches.

    Args:
        dataset: training split. Samples must have images, and points or voxels or neither.
        device: where the split is held. Batches are made there.

    Raises:
        UserError: the split does not fit into the memory, cannot be read, or its samples hold
            something else.
    """

    def __init__(self, dataset: ShapeDataset, device: torch.device):
        self.dataset, self.device = dataset, device
        size, shard = dataset.image_size, dataset.shards[0]
        if size is None or not dataset.train:
            raise UserError(
                "data.on_device is for training on images; set data.on_device=false for a model "
                "that observes something else"
            )
        rows = {name: _stored_row(shard, 0, name) for name in _stored_names(dataset)}
        shape = (len(dataset), shard.num_views, 3, size, size)
        self._require(len(dataset) * sum(row.nbytes for row in rows.values()) + math.prod(shape))
        self._images = torch.empty(shape, dtype=torch.uint8, device=device)
        self._arrays = {
            name: torch.from_numpy(row).to(device).new_empty(len(dataset), *row.shape)
            for name, row in rows.items()
        }
        self._fill()

    def batches(self, sampler: StepSampler) -> Iterator[Batch]:
        """Yields one batch per step, with the tensors of `ShapeDataset`.

        All are on the device, except `index`.

        Args:
            sampler: keys of each batch.
        """
        for step, keys in zip(sampler.steps, sampler, strict=True):
            yield self._batch(keys, [self.dataset.seed, step, sampler.rank, _BATCH])

    def _require(self, num_bytes: int) -> None:
        free = available_memory(self.device)
        if free is not None and num_bytes > _LARGEST_SHARE * free:
            raise UserError(
                f"{self.dataset.root}: its training split takes {num_bytes / 1e9:.1f} GB with "
                f"images of {self.dataset.image_size} pixels, but at most {_LARGEST_SHARE:.0%} of "
                f"the {free / 1e9:.1f} GB that are free on {self.device} may be used; set "
                "data.on_device=false or lower model.image_size"
            )

    def _fill(self) -> None:
        """Reads all shapes. Pillow decodes on all cores, because it releases Python's lock."""
        with ThreadPoolExecutor(len(usable_cores())) as pool:
            shapes = pool.map(self._read, range(len(self.dataset)))
            for index, (images, rows) in enumerate(shapes):
                self._images[index] = images
                for name, row in rows.items():
                    self._arrays[name][index] = torch.from_numpy(row)

    def _read(self, index: int) -> tuple[Tensor, dict[str, np.ndarray]]:
        """Reads the images and the rows of all arrays of one shape."""
        shard, local = self.dataset.locate(index)
        views = range(shard.num_views)
        images = torch.stack([self.dataset.read_image(shard, local, view) for view in views])
        return images, {name: _stored_row(shard, local, name) for name in self._arrays}

    @torch.no_grad()
    def _batch(self, keys: list[tuple[int, ...]], seed: list[int]) -> Batch:
        rng = np.random.default_rng(seed)
        index = torch.tensor([key[1] for key in keys])
        rows = index.to(self.device, non_blocking=True)
        num_views = keys[0][2] if len(keys[0]) > 2 else self.dataset.num_views
        orders = rng.random((len(keys), self._images.shape[1])).argsort(axis=1)
        views = self._sent(orders[:, :num_views].copy())
        mirrored = self._sent(rng.random(len(keys)) < 0.5)
        images = self._images[rows[:, None], views]
        images = torch.where(mirrored[:, None, None, None, None], images.flip(-1), images)
        if self.dataset.augment:
            images = augment_batch(images, rng)
        batch = {"index": index, "images": images}
        target = self.dataset.target
        if isinstance(target, PointTarget):
            batch |= self._points(target, rows, mirrored, rng)
        elif isinstance(target, VoxelTarget):
            edge = target.resolution or self.dataset.shards[0].voxel_resolutions[0]
            voxels = _unpack(self._arrays[f"voxels_{edge}"][rows], edge**3).bool()
            voxels = voxels.view(-1, edge, edge, edge)
            batch["voxels"] = torch.where(mirrored[:, None, None, None], voxels.flip(1), voxels)
        return batch

    def _points(
        self, target: PointTarget, rows: Tensor, mirrored: Tensor, rng: np.random.Generator
    ) -> Batch:
        near = target.num_near_points
        parts = [self._uniform(rows, target.num_points - near, rng)]
        if near:
            parts.append(self._slice("near_points", "near_occupancies", rows, near, rng))
        points, inside = (torch.cat(values, dim=1) for values in zip(*parts, strict=True))
        points[:, :, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
        return {"points": points, "occupancies": inside.float()}

    def _uniform(self, rows: Tensor, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        if "points" in self._arrays:
            return self._slice("points", "occupancies", rows, count, rng)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        points = torch.rand(len(rows), count, 3, generator=generator, device=self.device)
        points = (2.0 * points - 1.0) * HALF_EXTENT
        edge = self.dataset.shards[0].voxel_resolutions[-1]
        cells = ((points + 0.5) * edge).floor().long()
        exists = ((cells >= 0) & (cells < edge)).all(dim=-1)
        x, y, z = cells.clamp(0, edge - 1).unbind(-1)
        place = (x * edge + y) * edge + z
        octets = self._arrays[f"voxels_{edge}"][rows[:, None], place // 8]
        return points, (octets >> (7 - place % 8) & 1).bool() & exists

    def _slice(
        self, points: str, occupancies: str, rows: Tensor, count: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Takes `count` consecutive points of each shape, from a random multiple of 8 on."""
        stored = self._arrays[points]
        starts = 8 * rng.integers((stored.shape[1] - count) // 8 + 1, size=(len(rows), 1))
        first, rows = self._sent(starts), rows[:, None]
        found = stored[rows, first + torch.arange(count, device=self.device)]
        octets = torch.arange(-(-count // 8), device=self.device)
        packed = self._arrays[occupancies][rows, first // 8 + octets]
        return _decode(found), _unpack(packed, count).bool()

    def _sent(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)


def _stored_names(dataset: ShapeDataset) -> list[str]:
    """Returns the names of the arrays that the target of a dataset needs."""
    target, shard = dataset.target, dataset.shards[0]
    if target is None:
        return []
    if type(target) is VoxelTarget:
        return [f"voxels_{target.resolution or shard.voxel_resolutions[0]}"]
    if type(target) is not PointTarget:
        raise UserError(
            f"data.on_device knows points and voxels, but not {type(target).__name__}; set "
            "data.on_device=false"
        )
    uniform = ["points", "occupancies"]
    names = uniform if shard.num_points else [f"voxels_{shard.voxel_resolutions[-1]}"]
    return names + ["near_points", "near_occupancies"] * bool(target.num_near_points)


def _stored_row(shard: Shard, local: int, name: str) -> np.ndarray:
    """Returns the row of an array as the device holds it.

    Few operations of torch accept uint16, so points of that type become int16 with the same bits.
    """
    row = shard.row(name, local)
    return row.view(np.int16) if row.dtype == np.uint16 else row


def _decode(stored: Tensor) -> Tensor:
    """Returns float32 coordinates of held points, as `decode_points` does of stored ones."""
    if stored.dtype != torch.int16:
        return stored.float()
    return ((stored.int() & 0xFFFF).float() - 32767.5) * (2.0 * HALF_EXTENT / 65536.0)


def _unpack(packed: Tensor, count: int) -> Tensor:
    """Returns the first `count` bits of each row of bytes (B, N), like `numpy.unpackbits`."""
    shifts = 7 - torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[..., None] >> shifts & 1).flatten(-2)[..., :count]
