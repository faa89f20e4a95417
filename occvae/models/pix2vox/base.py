"""What the models of the family have in common: the way from views to one volume."""

from typing import Any

import torch
from torch import Tensor, nn

from occvae.models.inference import check_images, resize_images
from occvae.models.pix2vox.blocks import merge
from occvae.models.pix2vox.encoder import ViewEncoder
from occvae.models.protocol import MultiViewModel, VoxelOutput


class Pix2VoxBase(MultiViewModel):
    """Encoder, decoder, merger and refiner around one to many views of an object.

    A subclass has `forward(images, view_mask)` -> `VoxelOutput`.

    Args:
        encoder: see `ViewEncoder`.
        decoder: see `VolumeDecoder`.
        merger: see `ContextMerger`; None where there is one volume of each object.
        refiner: see `Refiner`, or None.
        **settings: see `VoxelModel`; the resolution is 32, 64 or 128.
    """

    lr_scales = {"merger.": 0.1}
    """The published factor."""

    def __init__(
        self,
        encoder: ViewEncoder,
        decoder: nn.Module,
        merger: nn.Module | None,
        refiner: nn.Module | None,
        **settings: Any,
    ):
        super().__init__(**settings)
        self.encoder, self.decoder = encoder, decoder
        self.merger, self.refiner = merger, refiner

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
        assert self.merger is not None
        scores = self.merger(torch.cat([maps, volumes.to(maps.dtype)], dim=1))
        return self._refine(merge(volumes.squeeze(1), scores.squeeze(1), mask))

    def _refine(self, merged: Tensor) -> VoxelOutput:
        return VoxelOutput(merged, merged if self.refiner is None else self.refiner(merged))


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
