"""What a training sample is."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from occvae.data.manifest import Manifest
from occvae.data.shards import REPAIR, Shard
from occvae.data.targets import Layout, Target, check_count
from occvae.errors import UserError
from occvae.images.decode import decode_image
from occvae.images.io import WHITE

Batch = dict[str, torch.Tensor]


class ShapeDataset(Dataset[dict[str, Any]]):
    """Shapes of one split; a sample is addressed by (epoch, index).

    Everything random about a sample follows from (seed, epoch, index), so it is the same whichever
    rank or worker reads it, and after a resume.

    Args:
        root: folder of the dataset.
        split: "train" or "val".
        image_size: edge of the images in pixels.
        background_gray: the gray that transparent images are laid on; of no account with `augment`,
            which gives them another.
        num_views: images of a sample, where its key does not say.
        target: what of the shape a sample has; None for images alone.
        train: random views, points and mirroring; otherwise the first views and points, as stored.
        augment: random colors and backgrounds of the images, see augmentation.py.
        seed: of the run.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        image_size: int,
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
            raise UserError(f"{root}: has no shapes in split {split!r}")
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        self.ids = [id for shard in self.shards for id in shard.ids]
        self.categories = [name for shard in self.shards for name in shard.categories]
        self.image_size, self.train, self.seed = image_size, train, seed
        self._augment = _augmentation() if augment else None
        # Augmentation tells the background by its white.
        self._background_gray = WHITE if augment else background_gray
        check_count("num_views", num_views, self.shards[0].num_views)
        self.num_views = num_views
        if target is not None:
            target.check(self.root, self.shards[0])
        self.target = target

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, Any]:
        """The sample of a key: index, (epoch, index) or (epoch, index, views).

        Returns:
            images (V, 3, S, S) uint8, index, and the tensors of the target.
        """
        epoch, index, *views = key if isinstance(key, tuple) else (0, key)
        shard, local = self.locate(index)
        try:
            return self._sample(epoch, index, shard, local, *views)
        except OSError as error:
            raise UserError(f"{shard.path}: shape {shard.ids[local]}: {error}") from None

    def batch_layout(self, keys: list[tuple[int, ...]]) -> Layout:
        """Shape and dtype of all that a batch of these keys has; as many views in each."""
        count, (_, _, *views) = len(keys), keys[0]
        images = (*views, self.num_views)[0], 3, self.image_size, self.image_size
        layout: Layout = {
            "index": ((count,), torch.int64),
            "images": ((count, *images), torch.uint8),
        }
        if self.target is None:
            return layout
        return layout | {
            name: ((count, *shape), dtype)
            for name, (shape, dtype) in self.target.layout(self.shards[0]).items()
        }

    def _sample(
        self, epoch: int, index: int, shard: Shard, local: int, views: int | None = None
    ) -> dict[str, Any]:
        num_views = views or self.num_views
        # What is read as stored is the same for every seed of a run.
        rng = np.random.default_rng([self.seed, epoch, index] if self.train else [index])
        chosen = rng.permutation(shard.num_views)[:num_views] if self.train else range(num_views)
        # The mirror image of a scene is the image of the mirrored shape.
        mirrored = self.train and bool(rng.integers(2))
        images = torch.stack([self._image(shard, local, int(view), mirrored) for view in chosen])
        if self._augment is not None:
            images = self._augment(images, [self.seed, epoch, index])
        sample = {"images": images, "index": index}
        if self.target is None:
            return sample
        return sample | self.target.read(shard, local, rng, train=self.train, mirrored=mirrored)

    def _image(self, shard: Shard, local: int, view: int, mirrored: bool) -> torch.Tensor:
        content = shard.image(local, view)
        try:
            return decode_image(
                content, self.image_size, mirrored=mirrored, background_gray=self._background_gray
            )
        except UserError as error:
            raise UserError(
                f"{shard.path}: view {view} of {shard.ids[local]}: {error}; {REPAIR}"
            ) from None

    def locate(self, index: int) -> tuple[Shard, int]:
        """The shard of a shape and its place therein; raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"shape {index} of a dataset of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.shards[number], index - int(self._ends[number] - len(self.shards[number]))


def _augmentation() -> Callable[[torch.Tensor, list[int]], torch.Tensor]:
    # torchvision takes long to import, and most uses of a dataset do without it.
    from occvae.data.augmentation import apply_seeded, view_augmentation

    return functools.partial(apply_seeded, view_augmentation())
