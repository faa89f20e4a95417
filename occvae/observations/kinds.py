"""Kinds of observations. A model declares one, and datasets deliver it.

`Model.observation` names what the model is conditioned on. `occvae.data.observations` reads it from
a dataset. Training, validation and evaluation pass it on without knowing its kind::

    dataset[key]            {"cloud": (N, 3), ...}            by `create_reader(observation)`
    observation.of(batch)   (B, N, 3)                         the first argument of `forward`
"""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from occvae.images.io import WHITE


class Observation(ABC):
    """What a model observes of a shape.

    Attributes:
        key: Name of its tensor in samples and batches of a dataset.
        noun: What messages and reports call it.
    """

    key: ClassVar[str]
    noun: ClassVar[str]

    def of(self, batch: Mapping[str, Tensor]) -> Any:
        """Returns the model's input from a batch. Several kinds together may return a mapping."""
        return batch[self.key]

    def in_evaluation(self) -> "Observation":
        """Returns what the model observes in validations and evaluations: the same."""
        return self


@dataclass(frozen=True)
class Images(Observation):
    """Images of the shape, (B, V, 3, S, S) RGB in [0, 1].

    Attributes:
        image_size: S, edge of the images in pixels.
        background_gray: Gray level, 0 to 255, behind transparent images.
    """

    key = "images"
    noun = "image"
    image_size: int
    background_gray: int = WHITE

    def of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the images. Those of a dataset are uint8, and are scaled to [0, 1]."""
        images = batch[self.key]
        return images.float() / 255.0 if images.dtype == torch.uint8 else images


@dataclass(frozen=True)
class PointCloud(Observation):
    """Points on the surface with noise, (B, N, 3) float32 in the unit cube.

    Attributes:
        num_points: N, number of points that a dataset delivers. Models take any number.
        noise: Standard deviation of the Gaussian noise per coordinate, in edges of the unit cube.
        scans: Share of the clouds that are one-sided scans, with the points that one camera sees.
            The others cover the whole surface.
    """

    key = "cloud"
    noun = "point cloud"
    num_points: int = 300
    noise: float = 0.005
    scans: float = 0.0


@dataclass(frozen=True)
class VoxelGrid(Observation):
    """Occupied voxels of the unit cube, (B, R, R, R) bool or floating point, indexed [x, y, z].

    Attributes:
        resolution: R.
    """

    key = "grid"
    noun = "voxel grid"
    resolution: int = 32


@dataclass(frozen=True)
class LabeledPoints(Observation):
    """Points of space with their occupancies, (B, N, 4) float32: x, y, z and 0 or 1.

    Autoencoders observe them.

    Attributes:
        num_points: N, number of points that a dataset delivers. Models take any number.
    """

    key = "labeled_points"
    noun = "labeled point"
    num_points: int = 2048


@dataclass(frozen=True)
class Mixture(Observation):
    """Any of images, points and voxels of the shape, as a mapping from these names to tensors.

    Attributes:
        images: What images a dataset delivers; None for none.
        points: What point clouds it delivers; None for none.
        voxels: What voxel grid it delivers; None for none.
    """

    key = "mixture"
    noun = "input"
    images: Images | None = None
    points: PointCloud | None = None
    voxels: VoxelGrid | None = None

    def kinds(self) -> dict[str, Observation]:
        """Returns the kinds that a dataset delivers, by name."""
        kinds = {"images": self.images, "points": self.points, "voxels": self.voxels}
        return {name: kind for name, kind in kinds.items() if kind is not None}

    def of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the inputs that the batch holds, by name."""
        kinds = self.kinds().items()
        return {name: kind.of(batch) for name, kind in kinds if kind.key in batch}

    def in_evaluation(self) -> "Mixture":
        """Returns the images alone, from which the shape is the least certain."""
        return Mixture(images=self.images)
