"""Occupancy networks: an image encoder and a decoder that answers for any point of the cube."""

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from occvae.geometry.voxelize import cell_centers
from occvae.models.decoders import FusedDecoder, create_decoder
from occvae.models.encoders import resnet_encoder, timm_encoder
from occvae.models.inference import (
    check_images,
    check_threshold,
    evaluation_mode,
    resize_images,
)
from occvae.models.presets import GENERAL, register_presets
from occvae.models.protocol import ImplicitModel
from occvae.models.registry import register_model
from occvae.ops.query_occupancy import PackedDecoder, query_occupancy, query_shapes
from occvae.ops.uniform_field import Field
from occvae.ops.validation import suitable_coarse_resolution

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress


_warned: set[type] = set()


class OccupancyModel(ImplicitModel):
    """Images to an implicit occupancy field, after Occupancy Networks (Mescheder et al. 2019).

    Predictions run through the fused kernels of `query_occupancy` where the decoder is a
    `FusedDecoder`, as `cbn` is. It is packed once a call: in fp32 on a CPU and fp16 on a GPU, or in
    what `precision` says. Other decoders (`cnn`) run in PyTorch in chunks, and one warning says so.
    `decode` and `forward` are plain PyTorch, for training.

    Args:
        encoder: images of `image_size` to embeddings.
        decoder: points and an embedding to logits.
        image_size: edge in pixels that images are resized to.
        threshold: probability from which a point counts as occupied when none is given. Below 0.5
            because the set that maximizes the expected IoU J is {p >= J / (1 + J)}.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, image_size: int, threshold: float):
        super().__init__(image_size=image_size, threshold=threshold)
        self.encoder = encoder
        self.decoder = decoder

    @property
    def has_fused_decoder(self) -> bool:
        return isinstance(self.decoder, FusedDecoder)

    def encode(self, images: Tensor) -> Tensor:
        """RGB images (B, V, 3, H, W) in [0, 1] to conditioning (B, E): the mean over the views."""
        check_images(images)
        batch, views = images.shape[:2]
        flat = resize_images(images.flatten(0, 1), self.image_size)
        return self.encoder(flat).view(batch, views, -1).mean(dim=1)

    def decode(self, points: Tensor, conditioning: Tensor) -> Tensor:
        """Points (B, N, 3) in [-0.55, 0.55] and conditioning (B, E) to logits (B, N)."""
        _check_points(points, conditioning)
        return self.decoder(points, conditioning)

    def forward(self, images: Tensor, points: Tensor) -> Tensor:
        """Images (B, V, 3, H, W) and points (B, N, 3) to logits (B, N)."""
        return self.decode(points, self.encode(images))

    @torch.no_grad()
    def predict_points(self, images: Tensor, points: Tensor) -> Tensor:
        """Logits (B, N) at any number of points (B, N, 3)."""
        with evaluation_mode(self):
            return self._query(points, self.encode(images))

    @torch.no_grad()
    def predict_voxels(self, images: Tensor, resolution: int = 32) -> Tensor:
        """Probabilities (B, R, R, R) at the cell centers of the unit cube, indexed [x, y, z]."""
        with evaluation_mode(self):
            conditioning = self.encode(images)
            points = cell_centers(resolution, images.device).expand(len(images), -1, -1)
            logits = self._query(points, conditioning)
            return logits.sigmoid().view(-1, resolution, resolution, resolution)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        progress: "Progress | None" = None,
        refine_vertices: int = 0,
        normals: bool = False,
    ) -> list["trimesh.Trimesh"]:
        """One mesh for each item of images (B, V, 3, H, W), extracted together.

        Args:
            images: RGB in [0, 1].
            resolution: cells along each axis of the padded cube: up to 64, or a power of two times
                a number from 32 to 64.
            threshold: probability of the surface; None takes the model's own.
            progress: as in `occvae.mise`.
            refine_vertices, normals: as in `occvae.extract_mesh`.
        """
        from occvae.geometry.extract_mesh import extract_mesh

        threshold = self.threshold if threshold is None else threshold
        check_threshold(threshold)
        with evaluation_mode(self):
            conditioning = self.encode(images).float()
            return extract_mesh(
                self._field(conditioning),
                resolution=resolution,
                coarse_resolution=suitable_coarse_resolution(resolution),
                level=math.log(threshold) - math.log1p(-threshold),
                num_shapes=len(conditioning),
                device=images.device,
                progress=progress,
                refine_vertices=refine_vertices,
                normals=normals,
            )

    def _query(self, points: Tensor, conditioning: Tensor) -> Tensor:
        """Points (B, N, 3) and conditioning (B, E) to logits (B, N), in eval mode."""
        _check_points(points, conditioning)
        packed = self._pack(conditioning)
        if packed is None:
            return self._decode_chunked(points, conditioning)
        return query_occupancy(points.float(), packed)

    def _field(self, conditioning: Tensor) -> Field:
        """The shapes of conditioning (B, E) as one field, in eval mode."""
        packed = self._pack(conditioning)
        if packed is not None:
            return lambda points, shape_index: query_shapes(points, shape_index, packed)

        def field(points: Tensor, shape_index: Tensor) -> Tensor:
            values = points.new_empty(len(points))
            for shape in range(len(conditioning)):
                mine = shape_index == shape
                rows = points[mine][None]
                values[mine] = self._decode_chunked(rows, conditioning[shape : shape + 1])[0]
            return values

        return field

    def _pack(self, conditioning: Tensor) -> PackedDecoder | None:
        """For the fused kernels; None where the decoder has none, said once."""
        if isinstance(self.decoder, FusedDecoder):
            return self.decoder.pack(conditioning, self.precision)
        decoder = type(self.decoder)
        if decoder not in _warned:
            _warned.add(decoder)
            warnings.warn(
                f"{decoder.__name__} has no fused kernels: it is evaluated in PyTorch, slower",
                stacklevel=5,
            )
        return None

    def _decode_chunked(self, points: Tensor, conditioning: Tensor, chunk: int = 32768) -> Tensor:
        """Bounds the memory of the activations: 32,768 points take 32 MB a layer at width 256."""
        length = max(1, chunk // len(points))
        parts = [self.decode(part, conditioning) for part in points.split(length, dim=1)]
        return torch.cat(parts, dim=1)


def _check_points(points: Tensor, conditioning: Tensor) -> None:
    if points.dim() != 3 or points.shape[2] != 3 or len(points) != len(conditioning):
        raise ValueError(
            f"points must be (B, N, 3) with B = {len(conditioning)}, got {tuple(points.shape)}"
        )


@register_model
def onet(
    *,
    encoder: str = "resnet18",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    image_size: int = 224,
    embedding_size: int = 256,
    decoder: str = "cbn",
    hidden_size: int = 256,
    num_blocks: int = 5,
    threshold: float = 0.3,
) -> OccupancyModel:
    """The image model of Occupancy Networks: ResNet-18 and the conditional batch norm decoder.

    Args:
        encoder: a torchvision ResNet.
        pretrained: ImageNet weights from the hub.
        encoder_weights: ImageNet weights from a local .pth or .safetensors file.
        image_size: edge in pixels; other sizes are resized.
        embedding_size: E, size of the conditioning vector.
        decoder: `cbn`, or `cnn` with fixed widths.
        hidden_size, num_blocks: of the `cbn` decoder.
        threshold: see `OccupancyModel`.
    """
    image_encoder = resnet_encoder(encoder, embedding_size, pretrained, encoder_weights)
    implicit = create_decoder(decoder, embedding_size, hidden_size, num_blocks)
    return OccupancyModel(image_encoder, implicit, image_size, threshold)


@register_model
def vitocc(
    *,
    encoder: str = "vit_small_patch16_224",
    pretrained: bool = False,
    encoder_weights: str | None = None,
    encoder_options: dict[str, Any] | None = None,
    image_size: int = 224,
    embedding_size: int = 256,
    decoder: str = "cbn",
    hidden_size: int = 256,
    num_blocks: int = 5,
    threshold: float = 0.3,
) -> OccupancyModel:
    """ViTOcNet: a vision transformer with its head altered to the embedding, and a decoder.

    Args:
        encoder: any timm model name.
        pretrained: timm's weights from the hub.
        encoder_weights: timm weights from a local .pth or .safetensors file.
        encoder_options: passed on to timm, e.g. depth, drop_path_rate, global_pool.
        image_size: edge in pixels; other sizes are resized.
        embedding_size: E, size of the conditioning vector.
        decoder: `cbn` as in Occupancy Networks, or the original's `cnn` with fixed widths.
        hidden_size, num_blocks: of the `cbn` decoder.
        threshold: see `OccupancyModel`.
    """
    image_encoder = timm_encoder(
        encoder, embedding_size, image_size, pretrained, encoder_weights, encoder_options or {}
    )
    implicit = create_decoder(decoder, embedding_size, hidden_size, num_blocks)
    return OccupancyModel(image_encoder, implicit, image_size, threshold)


_SMALL_DECODER = {"hidden_size": 128, "num_blocks": 3}
_CPU_SMALL_MODELS = {
    "onet": {"image_size": 96, **_SMALL_DECODER},
    # Of timm's vision transformers, LeViT learns fastest from scratch: its convolutional stem
    # spares it learning what neighboring pixels have in common.
    "vitocc": {"encoder": "levit_128s", "image_size": 128, **_SMALL_DECODER},
}
for _arch, _options in _CPU_SMALL_MODELS.items():
    register_presets(_arch, {"cpu-small": {**GENERAL["cpu-small"], "model": _options}})
