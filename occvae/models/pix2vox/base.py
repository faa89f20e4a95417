"""Base class of the family: from views to one volume."""

from typing import Any

import torch
from torch import Tensor, nn

from occvae.models.inference import check_images, resize_images
from occvae.models.pix2vox.blocks import merge
from occvae.models.pix2vox.encoder import ViewEncoder
from occvae.models.protocol import MultiViewModel, VoxelOutput


class Pix2VoxBase(MultiViewModel):
    """Encoder, decoder, merger and refiner for one or more views of a shape.

    A subclass defines `forward(images, view_mask)`, which returns a `VoxelOutput`.

    Args:
        encoder: See `ViewEncoder`.
        decoder: See `VolumeDecoder`.
        merger: See `ContextMerger`. None if the decoder makes one volume per shape.
        refiner: See `Refiner`. None for models without one.
        **settings: Arguments of `VoxelModel`. The resolution is 32, 64 or 128.

    Shapes: images (B, V, 3, H, W) and volumes (B, R, R, R) in [0, 1], view_mask (B, V) bool.
    """

    lr_scales = {"merger.": 0.1}
    """The published learning rate of the merger is a tenth of the others."""

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
        """Encodes the views that exist.

        Missing views are left out before the network, so their pixels never matter, not even for
        batch norm statistics.

        Args:
            images: (B, V, 3, H, W) RGB in [0, 1].
            view_mask: (B, V) bool, True for the views that exist; None if all do.

        Returns:
            Features (M, F) of the M views that exist, and the mask (B, V) bool.

        Raises:
            TypeError: view_mask is not a tensor.
            ValueError: images or view_mask have another shape or dtype, or an item has no view.
        """
        check_images(images)
        mask = _check_mask(view_mask, images)
        views = images.flatten(0, 1) if view_mask is None else images[mask]
        return self.encoder(resize_images(views, self.image_size)), mask

    def decode_views(self, features: Tensor, mask: Tensor) -> VoxelOutput:
        """Decodes the features (M, F) of the views in a mask (B, V) to one volume per item."""
        maps, logits = self.decoder(features)
        volumes = logits.sigmoid()
        if mask.shape[1] == 1:
            # The softmax over a single view is 1, so the merger has no effect.
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
