"""Training samples: what a model observes of a shape, with points or voxels to learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from occvae.data.augmentation import augment_views
from occvae.data.manifest import Manifest
from occvae.data.shards import REPAIR, Shard
from occvae.data.targets import Layout, Target, check_count
from occvae.errors import UserError
from occvae.images.decode import decode_image
from occvae.images.io import WHITE

Batch = dict[str, torch.Tensor]


class ShapeDataset(Dataset[dict[str, Any]]):
    """The shapes of one split. A sample is addressed by (epoch, index).

    All randomness of a sample follows from (seed, epoch, index). A sample is therefore the same on
    every rank, in every worker and after a resume.

    Args:
        root: folder of the dataset.
        split: "train", "val" or "test".
        image_size: edge of the images in pixels; None for samples without images.
        inputs: readers of what samples hold instead of images or besides them, see
            `occvae.data.observations`.
        background_gray: gray level, 0 to 255, behind transparent images. Unused with `augment`,
            which replaces the background.
        num_views: images per sample, unless the key says otherwise.
        target: points or voxels to add to a sample. None for images only.
        train: whether to choose views, points and mirroring at random. Otherwise a sample has the
            first views and points, as stored.
        augment: whether to change framing, colors, background and sharpness of the images at
            random, see `augment_views`.
        seed: seed of the run.

    Attributes:
        manifest: manifest of the dataset.
        shards: shards of the split.
        ids: id of each shape.
        categories: category of each shape.

    Raises:
        UserError: the dataset is incomplete, or has no such split, views or target.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        image_size: int | None,
        inputs: Sequence[Target] = (),
        background_gray: int = WHITE,
        num_views: int = 1,
        target: Target | None = None,
        train: bool = False,
        augment: bool = False,
        seed: int = 0,
    ):
        self.root = Path(root)
        self.manifest = Manifest.load_complete(root)
        self.shards = [
            Shard(self.root, entry) for entry in self.manifest.shards if entry.split == split
        ]
        if not self.shards:
            raise UserError(
                f"{root}: has no shapes in split {split!r}; `occvae data info` lists its splits"
            )
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        self.ids = [id for shard in self.shards for id in shard.ids]
        self.categories = [name for shard in self.shards for name in shard.categories]
        self.image_size, self.train, self.seed = image_size, train, seed
        self.augment = augment
        # Augmentation recognizes the background by its white.
        self._background_gray = WHITE if augment else background_gray
        if image_size is not None:
            check_count("num_views", num_views, self.shards[0].num_views)
        self.num_views = num_views
        self._parts = [*inputs, *([] if target is None else [target])]
        for part in self._parts:
            part.check(self.root, self.shards[0])
        self.target = target

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, Any]:
        """Reads one sample.

        Args:
            key: `index`, `(epoch, index)` or `(epoch, index, num_views)`.

        Returns:
            A dictionary with `images` (V, 3, S, S) uint8 unless `image_size` is None, `index`, and
            the tensors of the inputs and of the target.

        Raises:
            IndexError: there is no such shape.
            UserError: the shard is damaged or cannot be read.
        """
        epoch, index, *views = key if isinstance(key, tuple) else (0, key)
        shard, local = self.locate(index)
        try:
            return self._sample(epoch, index, shard, local, *views)
        except OSError as error:
            raise UserError(f"{shard.path}: shape {shard.ids[local]}: {error}") from None

    def batch_layout(self, keys: list[tuple[int, ...]]) -> Layout:
        """Shape and dtype of each tensor in a batch. All keys must have equal numbers of views."""
        count, (_, _, *views) = len(keys), keys[0]
        layout: Layout = {"index": ((count,), torch.int64)}
        if self.image_size is not None:
            images = (*views, self.num_views)[0], 3, self.image_size, self.image_size
            layout["images"] = ((count, *images), torch.uint8)
        for part in self._parts:
            for name, (shape, dtype) in part.layout(self.shards[0]).items():
                layout[name] = ((count, *shape), dtype)
        return layout

    def _sample(
        self, epoch: int, index: int, shard: Shard, local: int, views: int | None = None
    ) -> dict[str, Any]:
        # Without `train`, a sample must not depend on the seed of the run.
        rng = np.random.default_rng([self.seed, epoch, index] if self.train else [index])
        order = rng.permutation(shard.num_views) if self.train else np.arange(shard.num_views)
        # A mirrored image is the image of the mirrored shape.
        mirrored = self.train and bool(rng.integers(2))
        sample: dict[str, Any] = {"index": index}
        if self.image_size is not None:
            chosen = order[: views or self.num_views].tolist()
            images = torch.stack(
                [self.read_image(shard, local, view, mirrored=mirrored) for view in chosen]
            )
            if self.augment:
                images = augment_views(images, [self.seed, epoch, index])
            sample["images"] = images
        for part in self._parts:
            sample |= part.read(shard, local, rng, train=self.train, mirrored=mirrored)
        return sample

    def read_image(
        self, shard: Shard, local: int, view: int, *, mirrored: bool = False
    ) -> torch.Tensor:
        """Decodes a stored view to (3, S, S) uint8, before any augmentation.

        Raises:
            UserError: it is not an image, or cannot be read.
        """
        assert self.image_size is not None
        content = shard.image(local, view)
        try:
            return decode_image(
                content,
                self.image_size,
                mirrored=mirrored,
                background_gray=self._background_gray,
            )
        except UserError as error:
            raise UserError(
                f"{shard.path}: shape {shard.ids[local]}: view {view}: {error}; {REPAIR}"
            ) from None

    def locate(self, index: int) -> tuple[Shard, int]:
        """Finds a shape: its shard, and its index within that shard.

        Raises:
            IndexError: there is no such shape.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no shape {index}: the dataset has {len(self)} shapes")
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.shards[number], index - int(self._ends[number] - len(self.shards[number]))
