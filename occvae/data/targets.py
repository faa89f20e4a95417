"""Targets: what a training sample holds of a shape besides its images.

To add a target, write a class like the ones below and use it in an objective of
`occvae.train.objectives`.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from occvae.data.manifest import Manifest
from occvae.data.points import HALF_EXTENT
from occvae.data.shards import Shard
from occvae.errors import UserError
from occvae.geometry.voxelize import occupancies_from_voxels

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each tensor, by name."""


class Target(Protocol):
    """Reads the target tensors of a sample. All shapes of a dataset have the same layout."""

    def check(self, root: Path, shard: Shard) -> None:
        """Checks that a dataset provides this target.

        Args:
            root: folder of the dataset, for messages.
            shard: one of its shards.

        Raises:
            UserError: it does not.
        """

    def layout(self, shard: Shard) -> Layout:
        """Shape and dtype of each target tensor of one sample."""

    def read(
        self, shard: Shard, local: int, rng: np.random.Generator, *, train: bool, mirrored: bool
    ) -> dict[str, Tensor]:
        """Reads the target tensors of one shape.

        Args:
            shard: where the shape is stored.
            local: number of the shape within the shard.
            rng: source of all randomness.
            train: whether to read a random part of the stored points. Otherwise the first part.
            mirrored: whether to mirror the shape at the plane x = 0.
        """


class PointTarget:
    """Provides `points` (N, 3) float32 and their `occupancies` (N,) float32.

    If a dataset has only voxels, points are drawn uniformly and their occupancies are read from the
    finest voxel grid.

    Args:
        num_points: N, the number of all points.
        num_near_points: how many of them are near the surface. They come after the uniform ones.
    """

    def __init__(self, num_points: int, num_near_points: int = 0):
        self.num_points, self.num_near_points = num_points, num_near_points

    @property
    def _num_uniform(self) -> int:
        return self.num_points - self.num_near_points

    def check(self, root: Path, shard: Shard) -> None:
        if self.num_near_points > shard.num_near_points:
            raise UserError(
                f"{root}: has {shard.num_near_points} points near the surface per shape, but "
                f"num_near_points is {self.num_near_points}; lower it, or make the dataset again "
                "with --near-points"
            )
        # If no points are stored, any number of them can be drawn.
        check_count("num_points", self._num_uniform, shard.num_points or self._num_uniform)

    def layout(self, shard: Shard) -> Layout:
        return {
            "points": ((self.num_points, 3), torch.float32),
            "occupancies": ((self.num_points,), torch.float32),
        }

    def read(
        self, shard: Shard, local: int, rng: np.random.Generator, *, train: bool, mirrored: bool
    ) -> dict[str, Tensor]:
        points, occupancies = self._uniform(shard, local, rng, train)
        if self.num_near_points:
            start = _start(shard.num_near_points, self.num_near_points, rng, train)
            near = shard.near_points(local, start, self.num_near_points)
            points = np.concatenate([points, near[0]])
            occupancies = np.concatenate([occupancies, near[1]])
        if mirrored:
            points[:, 0] *= -1.0
        return {
            "points": torch.from_numpy(points),
            "occupancies": torch.from_numpy(occupancies.astype(np.float32)),
        }

    def _uniform(
        self, shard: Shard, local: int, rng: np.random.Generator, train: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        count = self._num_uniform
        if shard.num_points:
            return shard.points(local, _start(shard.num_points, count, rng, train), count)
        points = rng.uniform(-HALF_EXTENT, HALF_EXTENT, (count, 3)).astype(np.float32)
        voxels = shard.voxels(local, shard.voxel_resolutions[-1])
        return points, occupancies_from_voxels(voxels, points)


class VoxelTarget:
    """Provides `voxels` (R, R, R) bool, indexed [x, y, z].

    Args:
        resolution: R. None for the coarsest grid of the dataset.
    """

    def __init__(self, resolution: int | None = None):
        self.resolution = resolution

    def check(self, root: Path, shard: Shard) -> None:
        stored = shard.voxel_resolutions
        if not stored:
            raise UserError(
                f"{root}: has no voxels; choose an architecture that learns from points"
            )
        if self.resolution is not None and self.resolution not in stored:
            found = ", ".join(f"{resolution}^3" for resolution in stored)
            raise UserError(
                f"{root}: has no voxels of {self.resolution}^3 (stored: {found}); make the dataset "
                f"again with --voxels {self.resolution}, or a model of another resolution"
            )

    def layout(self, shard: Shard) -> Layout:
        return {"voxels": (3 * (self._resolution(shard),), torch.bool)}

    def read(
        self, shard: Shard, local: int, rng: np.random.Generator, *, train: bool, mirrored: bool
    ) -> dict[str, Tensor]:
        voxels = shard.voxels(local, self._resolution(shard))
        return {"voxels": torch.from_numpy(voxels[::-1].copy() if mirrored else voxels)}

    def _resolution(self, shard: Shard) -> int:
        return self.resolution or shard.voxel_resolutions[0]


def check_count(name: str, wanted: int, stored: int) -> None:
    """Raises UserError unless `wanted` is between 1 and `stored`."""
    if not 1 <= wanted <= stored:
        raise UserError(
            f"{name} must be between 1 and {stored}, the number stored per shape; got {wanted}"
        )


def stored_points(root: str | Path, split: str, wanted: int) -> int:
    """The number of stored points per shape of a split, but at most `wanted`.

    If no points are stored, it is `wanted`, because points are then drawn from the voxels.
    """
    layout = Manifest.load(root).layouts.get(split)
    return wanted if not layout or not layout["points"] else min(wanted, layout["points"][0])


def _start(stored: int, count: int, rng: np.random.Generator, train: bool) -> int:
    """Chooses the first of `count` points to read: at random for training, otherwise 0.

    Points are stored in random order, so consecutive ones are a random sample. The result is a
    multiple of 8, because occupancies are stored as bits.
    """
    return 8 * int(rng.integers((stored - count) // 8 + 1)) if train else 0
