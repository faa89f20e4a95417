"""The contract of a model: what the rest of the package needs of one, as types.

Training, evaluation, reconstruction, conversion and export take a `Model`. What only some models
can do is a subclass, which callers ask for with `isinstance`:

    Model                   images to occupancies at points, to grids and to meshes
      ImplicitModel         learns logits at points
      VoxelModel            learns a grid of probabilities
        MultiViewModel      learns how to merge views, some of which may be missing
        VariationalModel    knows a distribution over shapes

All models take several views of an item, because images are (B, V, 3, H, W). Coordinates are those
of the unit cube [-0.5, 0.5]^3, padded to [-0.55, 0.55]^3 where a surface is looked for; grids are
indexed [x, y, z].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.geometry.voxelize import cell_centers
from occvae.geometry.voxels_to_mesh import block_mesh, sample_volume, smooth_meshes
from occvae.images.io import WHITE
from occvae.models.inference import check_threshold, evaluation_mode
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress

# The probabilities whose logits are finite in float32.
_SURE = 1e-6


class Model(nn.Module, ABC):
    """What every architecture offers.

    What starts with `predict` and `reconstruct` runs in eval mode without gradients, and leaves
    the model in the mode it had. `forward` is for training; the objective of the model's `target`
    says what it takes and returns.

    Args:
        image_size: edge in pixels that images are resized to.
        threshold: probability from which a point counts as occupied when none is given.
        background_gray: gray level, 0 to 255, that transparent images are composited on.

    Attributes:
        arch: name of the architecture, from `create_model`; otherwise the name of the class.
        options: JSON values that make the same model with `create_model(arch, **options)`.
        precision: products of the predictions, "fp32", "fp16" or "bf16"; None for the default.
            Only models with a fused decoder look at it.
    """

    target: ClassVar[str]
    """What of a shape the model learns: a name of `occvae.train.objectives.OBJECTIVES`."""
    lr_scales: ClassVar[Mapping[str, float]] = {}
    """Factors of the learning rate by the beginning of a parameter's name; otherwise 1."""

    def __init__(self, *, image_size: int, threshold: float, background_gray: int = WHITE):
        super().__init__()
        check_threshold(threshold)
        if not 0 <= background_gray <= 255:
            raise UserError(f"background_gray must be a gray from 0 to 255, got {background_gray}")
        self.image_size, self.threshold = image_size, threshold
        self.background_gray = background_gray
        self.arch = type(self).__name__
        self.options: dict[str, Any] = {}
        self.precision: str | None = None

    @property
    def has_fused_decoder(self) -> bool:
        """Whether predictions run through fused kernels, which know `precision`."""
        return False

    @abstractmethod
    def predict_points(self, images: Tensor, points: Tensor) -> Tensor:
        """Logits (B, N) float32 at points (B, N, 3), from images (B, V, 3, H, W) in [0, 1]."""

    @abstractmethod
    def predict_voxels(self, images: Tensor, resolution: int = 32) -> Tensor:
        """Probabilities (B, R, R, R) at the cell centers of the unit cube.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            resolution: R, whatever grid the model itself may have.
        """

    @abstractmethod
    def reconstruct(
        self,
        images: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        progress: Progress | None = None,
        refine_vertices: int = 0,
        normals: bool = False,
    ) -> list[trimesh.Trimesh]:
        """One mesh for each item of the images.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            resolution: cells along each axis of the padded cube.
            threshold: probability of the surface; None takes the model's own.
            progress: as in `occvae.mise`.
            refine_vertices, normals: as in `occvae.extract_mesh`.

        Raises:
            ValueError: no such resolution, or the field is not finite.
            MemoryError, torch.OutOfMemoryError: the resolution is too high for the machine.
        """


class ImplicitModel(Model):
    """A model that learns occupancies at points.

    A subclass has `forward(images, points)`: images (B, V, 3, H, W) in [0, 1] and points (B, N, 3)
    to logits (B, N).
    """

    target = "points"


class VoxelOutput(NamedTuple):
    """What a voxel model's `forward` returns, all of it float32 under autocast, too."""

    merged: Tensor
    """(B, R, R, R) probabilities before the refiner."""
    refined: Tensor
    """(B, R, R, R) probabilities; those before where there is no refiner."""
    mean: Tensor | None = None
    """(B, D) of the posterior of a variational model."""
    log_variance: Tensor | None = None
    """(B, D) likewise."""


class VoxelModel(Model):
    """A model that learns a grid of probabilities; points and meshes are interpolated from it.

    A subclass has `forward(images)`: images (B, V, 3, H, W) in [0, 1] to `VoxelOutput`.

    Args:
        resolution: R of the grid.
        **settings: see `Model`.
    """

    target = "voxels"

    def __init__(self, *, resolution: int, **settings: Any):
        super().__init__(**settings)
        self.resolution = resolution

    @torch.no_grad()
    def predict_voxels(self, images: Tensor, resolution: int | None = None, **views: Any) -> Tensor:
        """Probabilities (B, R, R, R), in eval mode.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            resolution: of the grid; other than the model's own is interpolated.
            **views: what `forward` takes besides, such as `view_mask` of a `MultiViewModel`.
        """
        with evaluation_mode(self):
            return resample(self(images, **views).refined, resolution)

    @torch.no_grad()
    def predict_points(self, images: Tensor, points: Tensor, **views: Any) -> Tensor:
        """Logits (B, N) at points (B, N, 3), of the interpolated probabilities."""
        return sample_volume(self.predict_voxels(images, **views), points).logit(_SURE)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        blocks: bool = False,
        progress: Progress | None = None,
        refine_vertices: int = 0,
        normals: bool = False,
        **views: Any,
    ) -> list[trimesh.Trimesh]:
        """One mesh for each item of images (B, V, 3, H, W).

        Args:
            images: RGB in [0, 1].
            resolution: cells along each axis of the padded cube; a power of two times 32.
            threshold: probability of the surface; None takes the model's own.
            blocks: a cube for each occupied voxel instead of a smooth surface, whatever the
                `resolution`.
            progress: as in `occvae.mise`.
            refine_vertices, normals: as in `occvae.extract_mesh`; blocks have neither.
            **views: as in `predict_voxels`.
        """
        return self.mesh(
            self.predict_voxels(images, **views),
            resolution,
            threshold,
            blocks,
            progress,
            refine_vertices=refine_vertices,
            normals=normals,
        )

    def mesh(
        self,
        volumes: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        blocks: bool = False,
        progress: Progress | None = None,
        **extraction: Any,
    ) -> list[trimesh.Trimesh]:
        """Meshes of volumes (B, R, R, R) of probabilities, with the arguments of `reconstruct`."""
        threshold = self.threshold if threshold is None else threshold
        check_threshold(threshold)
        if blocks:
            return [block_mesh((volume >= threshold).cpu().numpy()) for volume in volumes]
        return smooth_meshes(volumes, threshold, resolution, progress, **extraction)


class MultiViewModel(VoxelModel):
    """A voxel model that learns how to merge views, some of which may be missing.

    All that it predicts and reconstructs takes `view_mask`, too.
    """

    @abstractmethod
    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> VoxelOutput:
        """Images (B, V, 3, H, W) in [0, 1] to volumes.

        Args:
            view_mask: (B, V) bool, which views are there; None for all. The images of others may
                hold anything.
        """


class VariationalModel(VoxelModel):
    """A voxel model with a distribution over the shapes that images may show.

    Its `forward` also returns the posterior's mean and log variance.

    Attributes:
        sum_kl: whether the loss sums the KL term over the batch instead of averaging it.
    """

    sum_kl: bool = False

    @abstractmethod
    def sample(
        self, count: int, resolution: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Shapes that no image shows: probabilities (count, R, R, R).

        Args:
            resolution: R; None for the model's own.
            generator: of the random numbers, on the model's device.
        """

    @abstractmethod
    def predict_samples(
        self,
        images: Tensor,
        num_samples: int,
        *,
        view_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Hypotheses (B, num_samples, R, R, R) of what images (B, V, 3, H, W) show."""

    def predict_uncertainty(
        self, images: Tensor, num_samples: int = 16, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over hypotheses, (B, R, R, R) each.

        Args:
            images: (B, V, 3, H, W).
            num_samples: at least 2.
            **options: see `predict_samples`.
        """
        if num_samples < 2:
            raise ValueError(f"num_samples must be at least 2, got {num_samples}")
        volumes = self.predict_samples(images, num_samples, **options)
        return volumes.mean(dim=1), volumes.std(dim=1)


def resample(volumes: Tensor, resolution: int | None) -> Tensor:
    """(B, R, R, R) at the cell centers of another resolution, trilinear; None leaves it."""
    if resolution is None or resolution == volumes.shape[-1]:
        return volumes
    check_count("resolution", resolution)
    values = sample_volume(volumes, cell_centers(resolution, volumes.device)[None])
    return values.view(len(volumes), resolution, resolution, resolution)
