"""Reads from a dataset what a model observes.

To add a kind of observation, describe it in `occvae.observations.kinds`, write a reader like the
ones below, and add it to `_READERS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occvae.data.dataset import ShapeDataset
from occvae.data.shards import Shard
from occvae.data.targets import Layout, PointTarget, Target, VoxelTarget
from occvae.errors import UserError
from occvae.geometry.surface_sampling import Surface, sample_surface
from occvae.geometry.visibility import visible_points
from occvae.observations.kinds import (
    Images,
    LabeledPoints,
    Mixture,
    Observation,
    PointCloud,
    VoxelGrid,
)
from occvae.visualize.rendering import random_extrinsics

_REMEDY = "make the dataset again with --training-surface"
# Points of a surface among which a scan chooses those that its camera sees.
_SCANNED_POINTS = 16_384


class CloudReader:
    """Provides `cloud` (N, 3) float32: points on the surface with Gaussian noise.

    The points are drawn with replacement from the stored surface points, as in the published code
    of Occupancy Networks. If none are stored, they are drawn from the stored mesh. The points of a
    one-sided scan are those that a camera sees, see `occvae.geometry.visibility`. It stands where
    cameras of rendered images do.
    """

    def __init__(self, observation: PointCloud):
        self.observation = observation

    def check(self, root: Path, shard: Shard) -> None:
        if not shard.num_surface_points and shard.num_meshes < len(shard):
            raise UserError(
                f"{root}: {shard.path.name} has neither surface points nor a mesh for each shape, "
                f"which point clouds are drawn from; {_REMEDY}"
            )

    def layout(self, shard: Shard) -> Layout:
        return {PointCloud.key: ((self.observation.num_points, 3), torch.float32)}

    def read(
        self, shard: Shard, local: int, rng: np.random.Generator, *, train: bool, mirrored: bool
    ) -> dict[str, Tensor]:
        count = self.observation.num_points
        # Without scans, no number is drawn for the choice.
        if self.observation.scans and rng.random() < self.observation.scans:
            points = _scanned_points(shard, local, rng, count)
        else:
            points = _surface_points(shard, local, rng, count)
        points = points + rng.normal(0.0, self.observation.noise, points.shape)
        if mirrored:
            points[:, 0] *= -1.0
        return {PointCloud.key: torch.from_numpy(points.astype(np.float32))}


class GridReader(VoxelTarget):
    """Provides `grid` (R, R, R) bool, a stored voxel grid."""

    def __init__(self, observation: VoxelGrid):
        super().__init__(observation.resolution)

    def layout(self, shard: Shard) -> Layout:
        return {VoxelGrid.key: super().layout(shard)["voxels"]}

    def read(self, *place: Any, **options: Any) -> dict[str, Tensor]:
        return {VoxelGrid.key: super().read(*place, **options)["voxels"]}


class LabeledPointReader(PointTarget):
    """Provides `labeled_points` (N, 4) float32: stored points with their occupancies."""

    def __init__(self, observation: LabeledPoints):
        super().__init__(observation.num_points)

    def layout(self, shard: Shard) -> Layout:
        return {LabeledPoints.key: ((self.num_points, 4), torch.float32)}

    def read(self, *place: Any, **options: Any) -> dict[str, Tensor]:
        found = super().read(*place, **options)
        labels = found["occupancies"][:, None]
        return {LabeledPoints.key: torch.cat([found["points"], labels], dim=1)}


_READERS: dict[type[Observation], Callable[[Any], Target]] = {
    PointCloud: CloudReader,
    VoxelGrid: GridReader,
    LabeledPoints: LabeledPointReader,
}


def open_split(
    root: str | Path, split: str, observation: Observation, **options: Any
) -> ShapeDataset:
    """Opens a split of a dataset for models with this observation.

    Args:
        root: folder of the dataset.
        split: "train", "val" or "test".
        observation: what samples hold besides the target.
        **options: further arguments of `ShapeDataset`.

    Raises:
        UserError: as `ShapeDataset`, or the dataset does not store what the observation needs.
    """
    kinds = observation.kinds().values() if isinstance(observation, Mixture) else [observation]
    options["image_size"] = None
    for kind in kinds:
        if isinstance(kind, Images):
            options |= {"image_size": kind.image_size, "background_gray": kind.background_gray}
    readers = [_READERS[type(kind)](kind) for kind in kinds if not isinstance(kind, Images)]
    return ShapeDataset(root, split, inputs=readers, **options)


def _surface_points(shard: Shard, local: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Points (count, 3) float64 on the surface of a shape."""
    if shard.num_surface_points:
        return shard.surface_points(local, rng.integers(shard.num_surface_points, size=count))
    return _mesh_surface(shard, local, rng, count).points


def _scanned_points(shard: Shard, local: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Points (count, 3) float64 on the part of the surface that a random camera sees."""
    if shard.num_surface_points:
        surface = Surface(*shard.surface(local, _SCANNED_POINTS))
    else:
        surface = _mesh_surface(shard, local, rng, _SCANNED_POINTS)
    seen = np.flatnonzero(
        visible_points(surface.points, surface.normals, random_extrinsics(rng, 1)[0])
    )
    # A surface with inward normals may show no point at all.
    candidates = seen if len(seen) else np.arange(len(surface))
    return surface.points[rng.choice(candidates, count)]


def _mesh_surface(shard: Shard, local: int, rng: np.random.Generator, count: int) -> Surface:
    mesh = shard.mesh(local)
    if mesh is None:
        raise UserError(
            f"{shard.path}: shape {shard.ids[local]} has neither surface points nor a mesh; "
            f"{_REMEDY}"
        )
    return sample_surface(*mesh, count, int(rng.integers(2**63)))
