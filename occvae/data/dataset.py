"""What a training sample is."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from occvae.data.manifest import Manifest
from occvae.data.points import HALF_EXTENT
from occvae.data.shards import REPAIR, Shard
from occvae.errors import UserError
from occvae.geometry.voxelize import occupancies_from_voxels
from occvae.images.decode import decode_image
from occvae.images.io import WHITE

Batch = dict[str, torch.Tensor]
Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]


def stored_points(root: str | Path, split: str, wanted: int) -> int:
    """How many points a shape of a split has, at most as many as wanted."""
    layout = Manifest.load(root).layouts.get(split)
    return wanted if not layout or not layout["points"] else min(wanted, layout["points"][0])


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
        num_points: points of a sample. Of a dataset that has voxels only they are drawn, and their
            occupancies taken from the finest voxels.
        num_near_points: how many of them lie near the surface.
        voxel_resolution: of a sample's voxels; default the coarsest stored.
        num_views: images of a sample, where its key does not say.
        target: what of the shape a sample has: "points" or "voxels".
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
        num_points: int,
        num_near_points: int = 0,
        num_views: int = 1,
        voxel_resolution: int | None = None,
        target: Literal["points", "voxels"] = "points",
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
        self.image_size, self.target, self.train, self.seed = image_size, target, train, seed
        self._augment = _augmentation() if augment else None
        # Augmentation tells the background by its white.
        self._background_gray = WHITE if augment else background_gray
        self.num_views = self._at_most("num_views", num_views, self.shards[0].num_views)
        self.voxel_resolution = self._choose_resolution(voxel_resolution)
        self.num_points, self.num_near_points = self._choose_points(num_points, num_near_points)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, Any]:
        """The sample of a key: index, (epoch, index) or (epoch, index, views).

        Returns:
            images (V, 3, S, S) uint8, index, and of the target either points (N, 3) float32 and
            occupancies (N,) float32, or voxels (R, R, R) bool.
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
        if self.target == "voxels":
            edge = self.voxel_resolution
            assert edge is not None  # _choose_resolution has found one
            return layout | {"voxels": ((count, edge, edge, edge), torch.bool)}
        points = (count, self.num_points)
        return layout | {
            "points": ((*points, 3), torch.float32),
            "occupancies": (points, torch.float32),
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
        if self.target == "voxels":
            voxels = shard.voxels(local, self.voxel_resolution)
            target = {"voxels": torch.from_numpy(voxels[::-1].copy() if mirrored else voxels)}
        else:
            points, occupancies = self._points(shard, local, rng)
            if mirrored:
                points[:, 0] *= -1.0
            target = {
                "points": torch.from_numpy(points),
                "occupancies": torch.from_numpy(occupancies.astype(np.float32)),
            }
        return {"images": images, "index": index, **target}

    def _points(
        self, shard: Shard, local: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Uniform points, then those near the surface, and their occupancies."""
        count = self.num_points - self.num_near_points
        if shard.num_points == 0:
            points = rng.uniform(-HALF_EXTENT, HALF_EXTENT, (count, 3)).astype(np.float32)
            voxels = shard.voxels(local, shard.voxel_resolutions[-1])
            return points, occupancies_from_voxels(voxels, points)
        uniform = shard.points(local, self._start(shard.num_points, count, rng), count)
        if self.num_near_points == 0:
            return uniform
        start = self._start(shard.num_near_points, self.num_near_points, rng)
        near = shard.near_points(local, start, self.num_near_points)
        points, inside = (np.concatenate(pair) for pair in zip(uniform, near, strict=True))
        return points, inside

    def _start(self, stored: int, count: int, rng: np.random.Generator) -> int:
        """The first of a contiguous slice of points; their order is random."""
        return 8 * int(rng.integers((stored - count) // 8 + 1)) if self.train else 0

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

    def _choose_resolution(self, wanted: int | None) -> int | None:
        stored = self.shards[0].voxel_resolutions
        if self.target == "voxels" and not stored:
            raise UserError(
                f"{self.root}: has no voxels; choose an architecture that learns points"
            )
        if wanted is not None and wanted not in stored:
            found = ", ".join(f"{edge}^3" for edge in stored) or "none"
            raise UserError(
                f"{self.root}: has no voxels of {wanted}^3 (stored: {found}); make the dataset "
                f"again with --voxels {wanted}, or a model of another resolution"
            )
        return wanted or (stored[0] if stored else None)

    def _choose_points(self, wanted: int, near: int) -> tuple[int, int]:
        shard = self.shards[0]
        if near > shard.num_near_points:
            raise UserError(
                f"{self.root}: has {shard.num_near_points} points near each surface, "
                f"num_near_points is {near}"
            )
        # Points that are not stored are drawn, as many as one likes.
        uniform = self._at_most("num_points", wanted - near, shard.num_points or wanted)
        return uniform + near, near

    @staticmethod
    def _at_most(name: str, wanted: int, stored: int) -> int:
        if not 1 <= wanted <= stored:
            raise UserError(f"{name} must be between 1 and the {stored} stored, got {wanted}")
        return wanted


def _augmentation() -> Callable[[torch.Tensor, list[int]], torch.Tensor]:
    # torchvision takes long to import, and most uses of a dataset do without it.
    from occvae.data.augmentation import apply_seeded, view_augmentation

    return functools.partial(apply_seeded, view_augmentation())
