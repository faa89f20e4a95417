"""What the models of the family have in common: views in, probabilities and meshes out."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.geometry.voxelize import cell_centers
from occvae.geometry.voxels_to_mesh import sample_volume
from occvae.models.inference import (
    check_images,
    check_threshold,
    evaluation_mode,
    resize_images,
)
from occvae.models.pix2vox.blocks import merge
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress

# The probabilities whose logits are finite in float32.
_SURE = 1e-6


class VoxelOutput(NamedTuple):
    """What training looks at."""

    merged: Tensor
    """(B, R, R, R) probabilities before the refiner."""
    refined: Tensor
    """(B, R, R, R) probabilities; those before where there is no refiner."""
    mean: Tensor | None = None
    """(B, D) of the posterior of a variational model."""
    log_variance: Tensor | None = None
    """(B, D) likewise."""


class VoxelModel(nn.Module):
    """One to many views of an object to a grid of probabilities.

    A subclass has `forward(images, view_mask)` -> `VoxelOutput`.

    Args:
        encoder: see `ViewEncoder`.
        decoder: see `VolumeDecoder`.
        merger: see `ContextMerger`; None where there is one volume of each object.
        refiner: see `Refiner`, or None.
        image_size: edge in pixels that images are resized to.
        resolution: R, of the grid: 32, 64 or 128.
        threshold: probability from which a voxel counts as occupied when none is given.
        background_gray: gray level, 0 to 255, that transparent images were composited on.
    """

    target = "voxels"
    """What of a shape it is trained on."""
    lr_scales = {"merger.": 0.1}
    """The published factors of the learning rate, by the beginning of a parameter's name."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        merger: nn.Module | None,
        refiner: nn.Module | None,
        *,
        image_size: int,
        resolution: int,
        threshold: float,
        background_gray: int = 255,
    ):
        super().__init__()
        check_threshold(threshold)
        if not 0 <= background_gray <= 255:
            raise UserError(f"background_gray must be a gray from 0 to 255, got {background_gray}")
        self.encoder, self.decoder = encoder, decoder
        self.merger, self.refiner = merger, refiner
        self.image_size, self.resolution, self.threshold = image_size, resolution, threshold
        self.background_gray = background_gray

    def encode_views(self, images: Tensor, view_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features (M, F) of the M views that are there, and which they are, (B, V) bool.

        Views that are not there are never looked at, so their images may hold anything.
        """
        check_images(images)
        mask = _check_mask(view_mask, images)
        views = images.flatten(0, 1) if view_mask is None else images[mask]
        return self.encoder(resize_images(views, self.image_size)), mask

    def decode_views(self, features: Tensor, mask: Tensor) -> VoxelOutput:
        """Features (M, F) of views (B, V) to their common volume."""
        maps, logits = self.decoder(features)
        volumes = logits.sigmoid()
        if mask.shape[1] == 1:
            # The weight of a single view is 1, whatever the merger says.
            return self._refine(volumes.squeeze(1))
        scores = self.merger(torch.cat([maps, volumes.to(maps.dtype)], dim=1))
        return self._refine(merge(volumes.squeeze(1), scores.squeeze(1), mask))

    def _refine(self, merged: Tensor) -> VoxelOutput:
        return VoxelOutput(merged, merged if self.refiner is None else self.refiner(merged))

    @torch.no_grad()
    def predict_voxels(
        self, images: Tensor, resolution: int | None = None, view_mask: Tensor | None = None
    ) -> Tensor:
        """Probabilities (B, R, R, R) indexed [x, y, z], in eval mode.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            resolution: of the grid; other than the model's own is interpolated.
            view_mask: (B, V) bool, which views are there; None for all.
        """
        with evaluation_mode(self):
            return resample(self(images, view_mask).refined, resolution)

    @torch.no_grad()
    def predict_points(
        self, images: Tensor, points: Tensor, view_mask: Tensor | None = None
    ) -> Tensor:
        """Logits (B, N) at points (B, N, 3), of the interpolated probabilities."""
        volume = self.predict_voxels(images, view_mask=view_mask)
        return sample_volume(volume, points).logit(_SURE)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        view_mask: Tensor | None = None,
        blocks: bool = False,
        progress: "Progress | None" = None,
        refine_vertices: int = 0,
        normals: bool = False,
    ) -> list["trimesh.Trimesh"]:
        """One mesh for each item of images (B, V, 3, H, W).

        Args:
            images: RGB in [0, 1].
            resolution: cells along each axis of the padded cube; a power of two times 32.
            threshold: probability of the surface; None takes the model's own.
            view_mask: (B, V) bool, which views are there; None for all.
            blocks: a cube for each occupied voxel instead of a smooth surface; `resolution` is
                then of no account.
            progress: as in `occvae.mise`.
            refine_vertices, normals: as in `occvae.extract_mesh`; of no account for blocks.
        """
        volumes = self.predict_voxels(images, None, view_mask)
        return self.mesh(
            volumes,
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
        progress: "Progress | None" = None,
        **extraction,
    ) -> list["trimesh.Trimesh"]:
        """Meshes of volumes (B, R, R, R) of probabilities, with the arguments of `reconstruct`."""
        from occvae.geometry.voxels_to_mesh import block_mesh, smooth_meshes

        threshold = self.threshold if threshold is None else threshold
        check_threshold(threshold)
        if blocks:
            return [block_mesh((volume >= threshold).cpu().numpy()) for volume in volumes]
        return smooth_meshes(volumes, threshold, resolution, progress, **extraction)


def resample(volumes: Tensor, resolution: int | None) -> Tensor:
    """(B, R, R, R) at the cell centers of another resolution, trilinear; None leaves it."""
    if resolution is None or resolution == volumes.shape[-1]:
        return volumes
    check_count("resolution", resolution)
    values = sample_volume(volumes, cell_centers(resolution, volumes.device)[None])
    return values.view(len(volumes), resolution, resolution, resolution)


def _check_mask(view_mask: Tensor | None, images: Tensor) -> Tensor:
    shape = images.shape[:2]
    if view_mask is None:
        return torch.ones(shape, dtype=torch.bool, device=images.device)
    if not isinstance(view_mask, Tensor):
        raise TypeError(f"view_mask must be a tensor, got {type(view_mask).__name__}")
    if view_mask.shape != shape or view_mask.dtype != torch.bool:
        raise ValueError(
            f"view_mask must be bool {tuple(shape)}, got {view_mask.dtype} {tuple(view_mask.shape)}"
        )
    if not view_mask.any(dim=1).all():
        raise ValueError("view_mask leaves an item without any view")
    return view_mask
