"""The shapes to evaluate: the chosen shapes of a split and their stored data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from occvae.data.dataset import ShapeDataset
from occvae.data.observations import open_split
from occvae.errors import UserError
from occvae.metrics import Surface
from occvae.models.protocol import Model, VoxelModel
from occvae.observations.kinds import Observation

# The resolution at which the published protocols compare grids.
_COMPARED_RESOLUTION = 32


class StoredShapes:
    """What a model observes of the shapes of a split, and their truth, by number in the split.

    Args:
        root: dataset folder.
        split: name of the split.
        model: determines the observation, and for voxel models the grid resolution.
        num_points: largest number of stored points per shape to use.
        num_shapes: number of shapes, spread evenly over the split; None for all.
        num_views: number of images per shape, the first ones.
        truth_only: whether only the truth is needed, and not what the model observes.
        observation: what is observed; None for what the model observes in evaluations.

    Attributes:
        observation: what the model observes.
        num_points: number of points per shape that are used; 0 if none are stored.
        num_surface_points: number of stored points on each surface; 0 if none are stored.
        voxel_resolution: resolution R of the grids to compare; None if none are stored.
        num_stored: number of shapes in the split.
        numbers: numbers of the chosen shapes in the split.
        ids: their ids.
        categories: their categories.

    Raises:
        UserError: the dataset or the split is missing, or an argument is invalid.
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
        truth_only: bool = False,
        observation: Observation | None = None,
    ):
        self.observation = observation or model.observation.in_evaluation()
        if truth_only:
            self._dataset = ShapeDataset(root, split, image_size=None)
        else:
            self._dataset = open_split(root, split, self.observation, num_views=num_views)
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

    def observed(self, number: int, device: str | torch.device = "cpu") -> Any:
        """Returns what the model observes of a shape, as a batch of one on a device."""
        batch = default_collate([self._dataset[number]])
        return self.observation.of({name: value.to(device) for name, value in batch.items()})

    def points(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns points (N, 3) float32 and whether each is inside, (N,) bool."""
        shard, local = self._dataset.locate(number)
        return shard.points(local, 0, self.num_points)

    def voxels(self, number: int) -> np.ndarray:
        """Returns the true grid, (R, R, R) bool."""
        shard, local = self._dataset.locate(number)
        return shard.voxels(local, self.voxel_resolution)

    def mesh(self, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the stored vertices (V, 3) and faces (F, 3) of the true surface, or None."""
        shard, local = self._dataset.locate(number)
        return shard.mesh(local)

    def surface(self, number: int) -> Surface:
        """Returns the stored points on the true surface, with normals."""
        shard, local = self._dataset.locate(number)
        return Surface(*shard.surface(local))

    def all_voxels(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the category and the true grid (R, R, R) bool of each chosen shape."""
        for number, category in zip(self.numbers, self.categories, strict=True):
            yield category, self.voxels(number)


def _choose_resolution(stored: list[int], model: Model) -> int | None:
    """Returns the stored resolution to compare at, None if no grids are stored.

    It prefers the model's own, then that of the protocols, then the coarsest.
    """
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
    # An integer stride could always meet the same category, so positions are rounded instead.
    return np.linspace(0, stored - 1, min(wanted, stored)).round().astype(int).tolist()
