"""The shapes to evaluate: which of a split are asked for, and what the dataset has of each."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from occvae.data.dataset import ShapeDataset
from occvae.errors import UserError
from occvae.metrics import Surface
from occvae.models.protocol import Model, VoxelModel

# At which the published protocols compare grids.
_COMPARED_RESOLUTION = 32


class StoredShapes:
    """Images and true shapes of a split, by their number in it.

    Args:
        root: folder of the dataset.
        split: of it.
        model: gives the size of images, the gray behind them, and the resolution of grids if it is
            a voxel model.
        num_points: of each shape, at most those stored.
        num_shapes: spread evenly over the split; None for all.
        num_views: images of a shape, the first ones.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        model: Model,
        *,
        num_points: int = 100_000,
        num_shapes: int | None = None,
        num_views: int = 1,
    ):
        self._dataset = ShapeDataset(
            root,
            split,
            image_size=model.image_size,
            background_gray=model.background_gray,
            num_views=num_views,
        )
        self.manifest = self._dataset.manifest
        first = self._dataset.shards[0]
        self.num_points = min(num_points, first.num_points)
        self.num_surface_points = first.num_surface_points
        self.voxel_resolution = _choose_resolution(first.voxel_resolutions, model)
        self.num_stored = len(self._dataset)
        self.numbers = _evenly_spread(self.num_stored, num_shapes)
        self.ids = [self._dataset.ids[number] for number in self.numbers]
        self.categories = [self._dataset.categories[number] for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def images(self, number: int) -> Tensor:
        """(1, V, 3, S, S) RGB in [0, 1]."""
        return self._dataset[number]["images"][None].float() / 255.0

    def points(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) float32 and (N,) bool, whether they are inside."""
        shard, local = self._dataset.locate(number)
        return shard.points(local, 0, self.num_points)

    def voxels(self, number: int) -> np.ndarray:
        """(R, R, R) bool."""
        shard, local = self._dataset.locate(number)
        return shard.voxels(local, self.voxel_resolution)

    def mesh(self, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Vertices (V, 3) and faces (F, 3) of the true surface; None where it is not stored."""
        shard, local = self._dataset.locate(number)
        return shard.mesh(local)

    def surface(self, number: int) -> Surface:
        """Points on the true surface, with normals."""
        shard, local = self._dataset.locate(number)
        return Surface(*shard.surface(local))

    def all_voxels(self) -> Iterator[tuple[str, np.ndarray]]:
        """Category and (R, R, R) bool of each shape asked for."""
        for number, category in zip(self.numbers, self.categories, strict=True):
            yield category, self.voxels(number)


def _choose_resolution(stored: list[int], model: Model) -> int | None:
    """The model's own, or that of the protocols, or the coarsest; None where there are no grids."""
    own = model.resolution if isinstance(model, VoxelModel) else None
    for wanted in (own, _COMPARED_RESOLUTION):
        if wanted in stored:
            return wanted
    return min(stored, default=None)


def _evenly_spread(stored: int, wanted: int | None) -> list[int]:
    if wanted is None:
        return list(range(stored))
    if wanted < 1:
        raise UserError(f"the number of shapes must be positive, got {wanted}")
    # Rounded positions, because a stride that divides the number of categories meets only one.
    return np.linspace(0, stored - 1, min(wanted, stored)).round().astype(int).tolist()
