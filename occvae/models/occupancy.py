"""Occupancy networks: an encoder, and a decoder for the occupancy at any point."""

import math
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from occvae.geometry.voxelize import cell_centers
from occvae.models.decoders import FusedDecoder
from occvae.models.inference import (
    check_images,
    check_threshold,
    evaluation_mode,
    resize_images,
)
from occvae.models.inputs import ImageInput
from occvae.models.protocol import ImplicitModel
from occvae.ops.uniform_field import Field
from occvae.ops.validation import suitable_coarse_resolution

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress


_warned: set[type] = set()


class EncoderDecoder(ImplicitModel):
    """A model that encodes what it observes as a vector, and decodes that vector at any point.

    If the decoder is a `FusedDecoder`, as `cbn` is, predictions use its fused kernels. The decoder
    is packed once per call, in the precision that `precision` names; the default is fp32 on a CPU
    and fp16 on a GPU. Other decoders, such as `cnn`, run in plain PyTorch in chunks, with one
    warning. `decode` and `forward` are plain PyTorch and differentiable, for training.

    Args:
        encoder: Module that `encode` uses.
        decoder: Module from points (B, N, 3) and embeddings (B, E) to logits (B, N).
        **settings: Arguments of `Model`.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, **settings: Any):
        super().__init__(**settings)
        self.encoder = encoder
        self.decoder = decoder

    @property
    def has_fused_decoder(self) -> bool:
        return isinstance(self.decoder, FusedDecoder)

    @abstractmethod
    def encode(self, observed: Any, /) -> Tensor:
        """Conditioning (B, E) from a batch of the observation."""

    def decode(self, points: Tensor, conditioning: Tensor) -> Tensor:
        """Logits (B, N) at points (B, N, 3) in [-0.55, 0.55], for conditioning (B, E)."""
        _check_points(points, conditioning)
        return self.decoder(points, conditioning)

    def forward(self, observed: Any, /, points: Tensor) -> Any:
        """Logits (B, N) at points (B, N, 3), for a batch of the observation."""
        return self.decode(points, self.encode(observed))

    @torch.no_grad()
    def predict_points(self, observed: Any, /, points: Tensor) -> Tensor:
        """Logits (B, N) at points (B, N, 3), in eval mode and without gradients."""
        return self._predict_points(observed, points)

    @torch.no_grad()
    def predict_voxels(self, observed: Any, /, resolution: int = 32) -> Tensor:
        """Probabilities (B, R, R, R) at the cell centers of the unit cube, indexed [x, y, z]."""
        return self._predict_voxels(observed, resolution)

    @torch.no_grad()
    def reconstruct(
        self,
        observed: Any,
        /,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        progress: "Progress | None" = None,
        refine_vertices: int = 0,
        normals: bool = False,
    ) -> list["trimesh.Trimesh"]:
        """One watertight mesh per object. All are extracted together.

        Args:
            observed: As `to_batch` takes it.
            resolution: As in `OccupancyModel.reconstruct`.
            threshold: As in `Model.reconstruct`.
            progress: As in `Model.reconstruct`.
            refine_vertices: As in `Model.reconstruct`.
            normals: As in `Model.reconstruct`.
        """
        options = {"refine_vertices": refine_vertices, "normals": normals}
        return self._reconstruct(observed, resolution, threshold, progress, **options)

    def _predict_points(self, observed: Any, /, points: Tensor) -> Tensor:
        with evaluation_mode(self):
            return self._query(points, self.encode(observed))

    def _predict_voxels(self, observed: Any, /, resolution: int) -> Tensor:
        with evaluation_mode(self):
            return self._voxels(self.encode(observed), resolution)

    def _voxels(self, conditioning: Tensor, resolution: int) -> Tensor:
        """Probabilities (B, R, R, R) for conditioning (B, E), in eval mode."""
        points = cell_centers(resolution, conditioning.device)
        logits = self._query(points.expand(len(conditioning), -1, -1), conditioning)
        return logits.sigmoid().view(-1, resolution, resolution, resolution)

    def _reconstruct(
        self,
        observed: Any,
        resolution: int,
        threshold: float | None,
        progress: "Progress | None",
        **options: Any,
    ) -> list["trimesh.Trimesh"]:
        check_threshold(self.threshold if threshold is None else threshold)
        batch = self.to_batch(observed)
        with evaluation_mode(self):
            conditioning = self.encode(batch).float()
            return self._mesh(conditioning, resolution, threshold, progress, **options)

    def _mesh(
        self,
        conditioning: Tensor,
        resolution: int,
        threshold: float | None,
        progress: "Progress | None" = None,
        **options: Any,
    ) -> list["trimesh.Trimesh"]:
        """One mesh per row of the conditioning (B, E), in eval mode."""
        from occvae.geometry.extract_mesh import extract_mesh

        threshold = self.threshold if threshold is None else threshold
        check_threshold(threshold)
        with warnings.catch_warnings():
            # An untrained network may be inside everywhere, but its signs are not swapped.
            warnings.filterwarnings("ignore", "shape .* all corners of the bounds are inside")
            return extract_mesh(
                self._field(conditioning),
                resolution=resolution,
                coarse_resolution=suitable_coarse_resolution(resolution),
                level=math.log(threshold) - math.log1p(-threshold),
                num_shapes=len(conditioning),
                device=conditioning.device,
                progress=progress,
                **options,
            )

    def _query(self, points: Tensor, conditioning: Tensor) -> Tensor:
        """Logits (B, N) at points (B, N, 3), for conditioning (B, E), in eval mode."""
        _check_points(points, conditioning)
        fused = self._pack(conditioning)
        if fused is None:
            return self._decode_chunked(points, conditioning)
        decoder, packed = fused
        return decoder.query(points.float(), packed)

    def _field(self, conditioning: Tensor) -> Field:
        """The field of B shapes for conditioning (B, E), in eval mode."""
        fused = self._pack(conditioning)
        if fused is not None:
            decoder, packed = fused
            return lambda points, shape_index: decoder.query_shapes(points, shape_index, packed)

        def field(points: Tensor, shape_index: Tensor) -> Tensor:
            values = points.new_empty(len(points))
            for shape in range(len(conditioning)):
                mine = shape_index == shape
                rows = points[mine][None]
                values[mine] = self._decode_chunked(rows, conditioning[shape : shape + 1])[0]
            return values

        return field

    def _pack(self, conditioning: Tensor) -> tuple[FusedDecoder, Any] | None:
        """The decoder and itself packed. Returns None, and warns once, if it has no kernels."""
        if isinstance(self.decoder, FusedDecoder):
            return self.decoder, self.decoder.pack(conditioning, self.precision)
        decoder = type(self.decoder)
        if decoder not in _warned:
            _warned.add(decoder)
            warnings.warn(
                f"{decoder.__name__} has no fused kernels: it runs in PyTorch, which is slower",
                stacklevel=6,
            )
        return None

    def _decode_chunked(self, points: Tensor, conditioning: Tensor, chunk: int = 32768) -> Tensor:
        """Decodes in chunks, to bound memory: 32,768 points take 32 MB per layer of width 256."""
        length = max(1, chunk // len(points))
        parts = [self.decode(part, conditioning) for part in points.split(length, dim=1)]
        return torch.cat(parts, dim=1)


class OccupancyModel(EncoderDecoder):
    """An image encoder and an implicit decoder, after Occupancy Networks (Mescheder et al. 2019).

    `EncoderDecoder` describes the predictions. The published model has one view per shape. Here the
    embeddings of several views are averaged.

    The default threshold of the architectures is 0.3, not 0.5: the set that maximizes the expected
    IoU J is {p >= J / (1 + J)}.

    Args:
        encoder: Module from images (M, 3, S, S) in [0, 1] to embeddings (M, E), S = `image_size`.
        decoder: Module from points (B, N, 3) and embeddings (B, E) to logits (B, N).
        image_size: Edge in pixels that images are resized to.
        threshold: Probability from which a point counts as occupied when no other is given.

    Shapes: images (B, V, 3, H, W) in [0, 1], points (B, N, 3) in [-0.55, 0.55] -> logits (B, N).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, image_size: int, threshold: float):
        super().__init__(encoder, decoder, image_size=image_size, threshold=threshold)

    def encode(self, images: Tensor) -> Tensor:
        """Conditioning (B, E) from RGB images (B, V, 3, H, W) in [0, 1], the mean over views."""
        check_images(images)
        batch, views = images.shape[:2]
        flat = resize_images(images.flatten(0, 1), self.image_size)
        return self.encoder(flat).view(batch, views, -1).mean(dim=1)

    # The methods below give the first argument of `EncoderDecoder` its name.

    def forward(self, images: Tensor, points: Tensor) -> Tensor:
        """Logits (B, N) at points (B, N, 3), for images (B, V, 3, H, W) in [0, 1]."""
        return self.decode(points, self.encode(images))

    @torch.no_grad()
    def predict_points(self, images: Tensor, points: Tensor) -> Tensor:
        """Logits (B, N) at points (B, N, 3), in eval mode and without gradients."""
        return self._predict_points(images, points)

    @torch.no_grad()
    def predict_voxels(self, images: Tensor, resolution: int = 32) -> Tensor:
        """Probabilities (B, R, R, R) at the cell centers of the unit cube, indexed [x, y, z]."""
        return self._predict_voxels(images, resolution)

    @torch.no_grad()
    def reconstruct(
        self,
        images: ImageInput,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        progress: "Progress | None" = None,
        refine_vertices: int = 0,
        normals: bool = False,
    ) -> list["trimesh.Trimesh"]:
        """One watertight mesh per object. All are extracted together.

        Args:
            images: As in `Model.reconstruct`.
            resolution: Cells along each axis of the padded cube: a number up to 64, or a power of
                two times a number from 32 to 64.
            threshold: Probability at the surface. None selects the model's own.
            progress: As in `occvae.mise`.
            refine_vertices: As in `occvae.extract_mesh`.
            normals: As in `occvae.extract_mesh`.

        Returns:
            B meshes. A mesh without faces means that there is no surface at the threshold.

        Raises:
            UserError: threshold is not a probability, or an image cannot be prepared.
            ValueError: resolution is not of this form, or the field is not finite.
        """
        options = {"refine_vertices": refine_vertices, "normals": normals}
        return self._reconstruct(images, resolution, threshold, progress, **options)


def _check_points(points: Tensor, conditioning: Tensor) -> None:
    if points.dim() != 3 or points.shape[2] != 3 or len(points) != len(conditioning):
        raise ValueError(
            f"points must be (B, N, 3) with B = {len(conditioning)}, got {tuple(points.shape)}"
        )
