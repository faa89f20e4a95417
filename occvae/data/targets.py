"""What of a shape a training sample holds beside its images: points, or a grid.

A further target is one class like these, which an objective in `occvae.train.objectives` names.
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
"""Shape and dtype of tensors by name."""


class Target(Protocol):
    """Reads the target tensors of a sample; it has the same ones for every shape of a dataset."""

    def check(self, root: Path, shard: Shard) -> None:
        """UserError unless the dataset in folder `root`, of which a shard is given, has it."""

    def layout(self, shard: Shard) -> Layout:
        """Shape and dtype of each tensor of one sample."""

    def read(
        self, shard: Shard, local: int, rng: np.random.Generator, *, train: bool, mirrored: bool
    ) -> dict[str, Tensor]:
        """The tensors of the shape at place `local` of a shard.

        Args:
            rng: all that is random follows from it.
            train: a random part of what is stored; otherwise the first.
            mirrored: of the shape mirrored at x = 0.
        """


class PointTarget:
    """points (N, 3) float32 and their occupancies (N,) float32.

    Of a dataset that has voxels only, points are drawn, and their occupancies are taken from the
    finest voxels.

    Args:
        num_points: N.
        num_near_points: how many of them lie near the surface; they follow the uniform ones.
    """

    def __init__(self, num_points: int, num_near_points: int = 0):
        self.num_points, self.num_near_points = num_points, num_near_points

    @property
    def _num_uniform(self) -> int:
        return self.num_points - self.num_near_points

    def check(self, root: Path, shard: Shard) -> None:
        if self.num_near_points > shard.num_near_points:
            raise UserError(
                f"{root}: has {shard.num_near_points} points near each surface, "
                f"num_near_points is {self.num_near_points}"
            )
        # Points that are not stored are drawn, as many as one likes.
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
    """voxels (R, R, R) bool.

    Args:
        resolution: R; None for the coarsest stored.
    """

    def __init__(self, resolution: int | None = None):
        self.resolution = resolution

    def check(self, root: Path, shard: Shard) -> None:
        stored = shard.voxel_resolutions
        if not stored:
            raise UserError(f"{root}: has no voxels; choose an architecture that learns points")
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
    """UserError unless from 1 to so many as stored are wanted."""
    if not 1 <= wanted <= stored:
        raise UserError(f"{name} must be between 1 and the {stored} stored, got {wanted}")


def stored_points(root: str | Path, split: str, wanted: int) -> int:
    """How many points a shape of a split has, at most as many as wanted."""
    layout = Manifest.load(root).layouts.get(split)
    return wanted if not layout or not layout["points"] else min(wanted, layout["points"][0])


def _start(stored: int, count: int, rng: np.random.Generator, train: bool) -> int:
    """The first of a contiguous slice of points; their order is random."""
    return 8 * int(rng.integers((stored - count) // 8 + 1)) if train else 0
