"""Base classes of all models. They define what the rest of the package may call.

Training, evaluation, reconstruction, conversion and export take a `Model`. A subclass adds an
ability that only some models have, and callers test for it with `isinstance`::

    Model                   predicts occupancies at points, grids and meshes from an observation
      GenerativeModel       draws new shapes
        HypothesisModel     draws shapes that an observation may show
        LatentModel         decodes latents to shapes, and knows the main axes of its latents
      ImplicitModel         is trained on logits at points
      VoxelModel            is trained on a grid of probabilities
        MultiViewModel      merges views, some of which may be missing
        VariationalModel    has a distribution over shapes

An observation is what a model is conditioned on, see `occvae.observations.kinds`: images unless a
model declares another kind. Images are (B, V, 3, H, W), so every model of images accepts several
views per item. Points are in the unit
cube [-0.5, 0.5]^3. Surfaces are extracted in the padded cube [-0.55, 0.55]^3. Grids are indexed
[x, y, z].
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.geometry.voxelize import cell_centers
from occvae.geometry.voxels_to_mesh import block_mesh, sample_volume, smooth_meshes
from occvae.images.io import WHITE
from occvae.models.checks import check_probabilities
from occvae.models.inference import check_threshold, evaluation_mode
from occvae.models.inputs import ImageInput, to_batch
from occvae.observations.kinds import Images, Observation
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress

# Probabilities are clamped to [1e-6, 1 - 1e-6] before `logit`, which is then finite in float32.
_SURE = 1e-6


class Model(nn.Module, ABC):
    """The interface of every architecture.

    `reconstruct` and the methods whose names start with `predict` run in eval mode and without
    gradients. They leave every submodule in its previous mode. `forward` is for training. Its
    inputs and outputs are defined by the objective that belongs to the model's `target`.

    Args:
        image_size: Edge in pixels that images are resized to; 0 if the model observes no images.
        threshold: Probability from which a point counts as occupied when no other is given.
        background_gray: Gray level, 0 to 255, on which transparent images are composited.

    Attributes:
        arch: Name of the architecture, set by `create_model`; before that, the name of the class.
        options: JSON values with which `create_model(arch, **options)` builds the same model.
        precision: Precision of the products in predictions: "fp32", "fp16" or "bf16". None selects
            the default. It has an effect only if `has_fused_decoder`.

    Raises:
        UserError: threshold is not a probability, or background_gray is out of range.
    """

    target: ClassVar[str]
    """What the model is trained on: a key of `occvae.train.objectives.OBJECTIVES`."""
    lr_scales: ClassVar[Mapping[str, float]] = {}
    """Factors of the learning rate, by the prefix of the parameters' names; 1 for all others."""

    def __init__(self, *, threshold: float, image_size: int = 0, background_gray: int = WHITE):
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
    def observation(self) -> Observation:
        """What the model is conditioned on, and what a dataset delivers for it."""
        return Images(self.image_size, self.background_gray)

    @property
    def has_fused_decoder(self) -> bool:
        """Whether predictions use the fused kernels, to which `precision` applies."""
        return False

    def to_batch(self, observed: Any, /) -> Any:
        """Returns what `reconstruct` takes as a batch of the observation on the model's device.

        Here these are images (B, V, 3, H, W). Models with another observation override it.
        """
        return to_batch(observed, self).to(self.device)

    @property
    def device(self) -> torch.device:
        """Device of the first parameter or buffer; the CPU if there is none."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @abstractmethod
    def predict_points(self, observed: Any, /, points: Tensor) -> Tensor:
        """Logits (B, N) float32 at points (B, N, 3), from a batch of the observation.

        Images are (B, V, 3, H, W) RGB in [0, 1].
        """

    @abstractmethod
    def predict_voxels(self, observed: Any, /, resolution: int = 32) -> Tensor:
        """Probabilities (B, R, R, R) at the cell centers of the unit cube.

        Args:
            observed: Batch of the observation. Images are (B, V, 3, H, W) RGB in [0, 1].
            resolution: R. It may differ from the resolution of the model's own grid.
        """

    @abstractmethod
    def reconstruct(
        self,
        observed: Any,
        /,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        progress: Progress | None = None,
        refine_vertices: int = 0,
        normals: bool = False,
    ) -> list[trimesh.Trimesh]:
        """One watertight mesh per object.

        The result is always a list. `[mesh] = model.reconstruct("chair.jpg")` gets the mesh of a
        single image.

        A path, encoded bytes, a Pillow image, an array and a uint8 tensor are prepared by
        `occvae.load_image`. A floating point tensor is used as it is.

        Args:
            observed: As the model's `to_batch` takes it. For a model of images: one image, or a
                list of objects. An object is an image, or a list of views of it. A tensor
                (B, V, 3, H, W) in [0, 1] has B objects with V views each.
            resolution: Cells along each axis of the padded cube.
            threshold: Probability at the surface. None selects the model's own.
            progress: As in `occvae.mise`.
            refine_vertices: As in `occvae.extract_mesh`.
            normals: As in `occvae.extract_mesh`.

        Returns:
            B meshes. A mesh without faces means that there is no surface at the threshold.

        Raises:
            UserError: An image cannot be prepared, or objects differ in their number of views.
            ValueError: The resolution is not possible, or the field is not finite.
            MemoryError: The resolution needs more host memory than there is.
            torch.OutOfMemoryError: The resolution needs more device memory than there is.
        """


class ImplicitModel(Model):
    """A model that is trained on occupancies at points.

    A subclass defines `forward(observed, points)`, from a batch of the observation, such as images
    (B, V, 3, H, W) in [0, 1], and points (B, N, 3) to logits (B, N).
    """

    target = "points"


class ImplicitOutput(NamedTuple):
    """The output of `forward` of an implicit model with a posterior.

    Such a model has `target = "points-and-posterior"`.
    """

    logits: Tensor
    """(B, N) logits at points, for latents drawn from the posterior."""
    mean: Tensor | None = None
    """(K, D) float32 mean of the posteriors, one or more per shape; None in predictions."""
    log_variance: Tensor | None = None
    """(K, D) float32 log variance of the posteriors; None in predictions."""


class GenerativeModel(Model):
    """A model that draws new shapes without any observation."""

    @abstractmethod
    def sample(
        self, count: int, resolution: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws new shapes: probabilities (count, R, R, R).

        Args:
            count: Number of shapes.
            resolution: R. None selects the model's own.
            generator: Random generator on the model's device.
        """

    @abstractmethod
    def sample_meshes(
        self,
        count: int,
        resolution: int = 128,
        threshold: float | None = None,
        generator: torch.Generator | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[trimesh.Trimesh]:
        """Draws new shapes as watertight meshes.

        Args:
            count: Number of shapes.
            resolution: Cells along each axis, as in `reconstruct`.
            threshold: Probability at the surface. None selects the model's own.
            generator: Random generator on the model's device.
            progress: As in `occvae.mise`.
        """


class HypothesisModel(GenerativeModel):
    """A model with a distribution over the shapes that an observation may show."""

    @abstractmethod
    def predict_samples(
        self, observed: Any, /, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws hypotheses of the shapes that the observation shows.

        Args:
            observed: Batch of the observation.
            num_samples: Number of hypotheses per item.
            generator: Random generator on the model's device.

        Returns:
            Probabilities (B, num_samples, R, R, R).
        """

    @abstractmethod
    def mesh_samples(
        self,
        observed: Any,
        /,
        num_samples: int,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        generator: torch.Generator | None = None,
        **extraction: Any,
    ) -> list[list[trimesh.Trimesh]]:
        """Meshes of hypotheses, a list per item.

        Args:
            observed: Batch of the observation.
            num_samples: Number of hypotheses per item.
            resolution: As in `reconstruct`, like `threshold`.
            threshold: Probability at the surface. None selects the model's own.
            generator: Random generator on the model's device.
            **extraction: Further arguments of `reconstruct`.
        """

    def predict_uncertainty(
        self, observed: Any, /, num_samples: int = 16, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns the mean and the standard deviation over hypotheses, (B, R, R, R) each.

        Args:
            observed: Batch of the observation.
            num_samples: Number of hypotheses, at least 2.
            **options: Further arguments of `predict_samples`.

        Raises:
            ValueError: num_samples is less than 2.
        """
        if num_samples < 2:
            raise ValueError(f"num_samples must be at least 2, got {num_samples}")
        volumes = self.predict_samples(observed, num_samples, **options)
        return volumes.mean(dim=1), volumes.std(dim=1)


class LatentModel(GenerativeModel):
    """A model that decodes a latent vector (D,) to a shape."""

    @abstractmethod
    def encode_latents(self, observed: Any, /) -> Tensor:
        """Returns the most likely latents (B, D) of a batch of the observation."""

    @abstractmethod
    def latent_axes(self, count: int) -> Tensor:
        """Returns the directions (count, D) in which latents of training shapes vary most.

        They are orthogonal, and the largest comes first. The length of each is the standard
        deviation of the latents along it. The largest component of each is positive.

        Args:
            count: Number of directions, at most D.
        """

    @abstractmethod
    def mean_latent(self) -> Tensor:
        """Returns the mean (D,) of the latents of training shapes."""

    @abstractmethod
    def mesh_latents(
        self,
        latents: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[trimesh.Trimesh]:
        """Returns the mesh of each latent (B, D).

        Args:
            latents: (B, D) on the model's device.
            resolution: As in `Model.reconstruct`.
            threshold: As in `Model.reconstruct`.
            progress: As in `occvae.mise`.
        """


class VoxelOutput(NamedTuple):
    """The output of a voxel model's `forward`. All tensors are float32, under autocast too."""

    merged: Tensor
    """(B, R, R, R) probabilities before the refiner."""
    refined: Tensor
    """(B, R, R, R) probabilities after the refiner; the same tensor as `merged` without one."""
    mean: Tensor | None = None
    """(M, D) means of the M posteriors that the KL term averages; usually one per item, M = B. None
    unless the model is variational."""
    log_variance: Tensor | None = None
    """(M, D) log variances of these posteriors; None unless the model is variational."""


class VoxelModel(Model):
    """A model that is trained on a grid of probabilities.

    A subclass defines `forward(images)`, from images (B, V, 3, H, W) in [0, 1] to a `VoxelOutput`.
    Points, other resolutions and meshes are predicted by trilinear interpolation of the grid.

    Args:
        resolution: R, edge of the grid.
        **settings: Arguments of `Model`.
    """

    target = "voxels"

    def __init__(self, *, resolution: int, **settings: Any):
        super().__init__(**settings)
        self.resolution = resolution

    @torch.no_grad()
    def predict_voxels(self, images: Tensor, resolution: int | None = None, **views: Any) -> Tensor:
        """Probabilities (B, R, R, R) at the cell centers, in eval mode and without gradients.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            resolution: R. None selects the model's own; any other is interpolated from it.
            **views: Further arguments of `forward`, such as `view_mask` of a `MultiViewModel`.
        """
        with evaluation_mode(self):
            return resample(self(images, **views).refined, resolution)

    @torch.no_grad()
    def predict_points(self, images: Tensor, points: Tensor, **views: Any) -> Tensor:
        """Logits (B, N) at points (B, N, 3) in world units, from interpolated probabilities.

        `**views` is as in `predict_voxels`. Probabilities are 0 outside the unit cube, and are
        clamped to [1e-6, 1 - 1e-6] so that logits stay finite.
        """
        return sample_volume(self.predict_voxels(images, **views), points).logit(_SURE)

    @torch.no_grad()
    def reconstruct(
        self,
        images: ImageInput,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        blocks: bool = False,
        progress: Progress | None = None,
        refine_vertices: int = 0,
        normals: bool = False,
        **views: Any,
    ) -> list[trimesh.Trimesh]:
        """One watertight mesh per object.

        Args:
            images: As in `Model.reconstruct`.
            resolution: Cells along each axis of the padded cube. Any number is possible. One that
                can be halved down to about twice the model's grid needs the fewest field values.
            threshold: Probability at the surface. None selects the model's own.
            blocks: Whether to make one cube per occupied voxel instead of a smooth surface. Then
                `resolution`, `refine_vertices` and `normals` have no effect.
            progress: As in `occvae.mise`.
            refine_vertices: As in `occvae.extract_mesh`.
            normals: As in `occvae.extract_mesh`.
            **views: As in `predict_voxels`.

        Returns:
            B meshes. A mesh without faces means that there is no surface at the threshold.

        Raises:
            UserError: threshold is not a probability, or an image cannot be prepared.
        """
        return self.mesh(
            self.predict_voxels(self.to_batch(images), **views),
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
        """Meshes of given volumes (B, R, R, R) of probabilities; arguments as in `reconstruct`."""
        threshold = self.threshold if threshold is None else threshold
        check_threshold(threshold)
        if blocks:
            return [block_mesh((volume >= threshold).cpu().numpy()) for volume in volumes]
        return smooth_meshes(volumes, threshold, resolution, progress, **extraction)


class MultiViewModel(VoxelModel):
    """A voxel model that merges views, some of which may be missing.

    `reconstruct` and the methods whose names start with `predict` also take `view_mask`.
    """

    @abstractmethod
    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> VoxelOutput:
        """Predicts volumes for training.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            view_mask: (B, V) bool, True for the views that exist; None if all do. The pixels of
                missing views are never used.
        """


class VariationalModel(VoxelModel, HypothesisModel):
    """A voxel model with a distribution over the shapes that the images may show.

    Its `forward` also returns the mean and log variance of the posterior.

    Attributes:
        sum_kl: Whether the loss sums the KL term over the batch instead of averaging it.
    """

    sum_kl: bool = False

    @abstractmethod
    def predict_samples(
        self,
        images: Tensor,
        num_samples: int,
        *,
        view_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws hypotheses of the shape that the images show.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            num_samples: Number of hypotheses per item.
            view_mask: (B, V) bool, True for the views that exist; None if all do.
            generator: Random generator on the model's device.

        Returns:
            Probabilities (B, num_samples, R, R, R).
        """

    def sample_meshes(
        self,
        count: int,
        resolution: int = 128,
        threshold: float | None = None,
        generator: torch.Generator | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[trimesh.Trimesh]:
        """Draws new shapes as watertight meshes, see `GenerativeModel`."""
        volumes = check_probabilities(self.sample(count, generator=generator))
        return self.mesh(volumes, resolution, threshold, progress=progress)

    def mesh_samples(
        self,
        images: Tensor,
        /,
        num_samples: int,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        generator: torch.Generator | None = None,
        blocks: bool = False,
        progress: Progress | None = None,
        **extraction: Any,
    ) -> list[list[trimesh.Trimesh]]:
        """Meshes of hypotheses, a list per item, see `HypothesisModel`.

        Raises:
            UserError: The model predicts NaN.
        """
        samples = check_probabilities(
            self.predict_samples(images, num_samples, generator=generator)
        )
        return [
            self.mesh(volumes, resolution, threshold, blocks, progress, **extraction)
            for volumes in samples
        ]


def resample(volumes: Tensor, resolution: int | None) -> Tensor:
    """Interpolates volumes (B, R, R, R) at the cell centers of another resolution, trilinearly.

    None and the volumes' own resolution return the volumes unchanged.
    """
    if resolution is None or resolution == volumes.shape[-1]:
        return volumes
    check_count("resolution", resolution)
    values = sample_volume(volumes, cell_centers(resolution, volumes.device)[None])
    return values.view(len(volumes), resolution, resolution, resolution)
