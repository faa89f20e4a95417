"""Triplanes: image features to three feature planes, and occupancies from a point's features.

The network is evaluated once per object. A point costs some kFLOP instead of 1.3 MFLOP.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from occvae.errors import UserError
from occvae.models.decoders import FusedDecoder
from occvae.models.feature_maps import FeatureMaps, HybridMaps
from occvae.models.inference import check_images, resize_images
from occvae.models.occupancy import OccupancyModel
from occvae.ops.lattice import DEFAULT_BOUNDS
from occvae.ops.query_triplane import (
    PackedTriplane,
    pack_triplane,
    query_triplane,
    query_triplane_shapes,
)

AXES = ((0, 1), (0, 2), (1, 2))
"""The axes of the planes: xy, xz and yz."""

SIZES = {
    "size": 32,
    "channels": 32,
    "patches": 4,
    "width": 128,
    "num_layers": 2,
    "hidden_size": 96,
    "num_hidden": 2,
}
"""The default sizes. size: nodes along each edge of a plane. channels: of a plane. patches, width
and num_layers: of `PlaneQueries`. hidden_size and num_hidden: of the MLP of `TriplaneDecoder`.
"""


class PlaneQueries(nn.Module):
    """Learned queries that attend to tokens, and become three feature planes.

    Each query is one square patch of a plane. A layer has self-attention between the queries,
    cross-attention to all tokens, and an MLP, as in LRM (Hong et al. 2024). A vector, the
    summary of the input, scales and shifts the channels of the planes, as in FiLM (Perez et al.
    2018). Training is faster with this short way from the input to the planes.

    Subclasses make tokens and summary in `forward`, and call `attend`.

    Args:
        summary_size: S, length of the summary.
        plane_size: R, nodes along each edge of a plane.
        plane_channels: Channels of a plane.
        patches: Patches along each edge of a plane.
        width: Width of the queries and of the tokens.
        num_layers: Number of layers.
    """

    def __init__(
        self,
        summary_size: int,
        plane_size: int,
        plane_channels: int,
        patches: int,
        width: int,
        num_layers: int,
    ):
        super().__init__()
        if plane_size % patches:
            raise UserError(f"planes of {plane_size} nodes cannot be cut into {patches} patches")
        self.patches, self.patch_size, self.width = patches, plane_size // patches, width
        self.queries = nn.Parameter(torch.randn(3 * patches**2, width) * 0.3)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                nhead=max(1, width // 32),
                dim_feedforward=4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.to_patches = nn.Linear(width, self.patch_size**2 * plane_channels)
        # All nodes of a patch start equal. The field is then smooth, and learns faster.
        nn.init.zeros_(self.to_patches.bias)
        with torch.no_grad():
            node = self.to_patches.weight[:plane_channels]
            self.to_patches.weight.copy_(node.repeat(self.patch_size**2, 1))
        self.modulation = nn.Linear(summary_size, 2 * plane_channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def attend(self, tokens: Tensor, summary: Tensor) -> Tensor:
        """Planes (B, 3, R, R, plane_channels) of tokens (B, T, width) and summary (B, S)."""
        queries = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens)
        patches = self.to_patches(self.norm(queries))
        edges = (3, self.patches, self.patches, self.patch_size, self.patch_size, -1)
        patches = patches.view(len(tokens), *edges).transpose(3, 4)
        planes = patches.flatten(4, 5).flatten(2, 3)
        scale, shift = self.modulation(summary)[:, None, None, None].chunk(2, dim=-1)
        return planes * (1.0 + scale) + shift


class PlaneTransformer(PlaneQueries):
    """Plane queries that attend to all positions of feature maps.

    The summary is the mean of the last map.

    Args:
        channels: C of each feature map.
        plane_size: R, nodes along each edge of a plane.
        plane_channels: Channels of a plane.
        patches: Patches along each edge of a plane.
        width: Width of the queries.
        num_layers: Number of layers.

    Shapes: maps (B, V, C, h, w) of V views -> planes (B, 3, R, R, plane_channels).
    """

    def __init__(
        self,
        channels: Sequence[int],
        plane_size: int,
        plane_channels: int,
        patches: int,
        width: int,
        num_layers: int,
    ):
        super().__init__(channels[-1], plane_size, plane_channels, patches, width, num_layers)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width)) for size in channels
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        pairs = zip(self.projections, maps, strict=True)
        tokens = torch.cat([self._tokens(*pair) for pair in pairs], dim=1)
        return self.attend(tokens, maps[-1].mean(dim=(1, 3, 4)))

    def _tokens(self, projection: nn.Module, maps: Tensor) -> Tensor:
        """Tokens (B, V h w, width) of one map of all views."""
        from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

        batch, views, _, height, width = maps.shape
        tokens = projection(maps.permute(0, 1, 3, 4, 2).flatten(2, 3))
        position = build_sincos2d_pos_embed(
            [height, width], tokens.shape[-1], device=tokens.device, dtype=tokens.dtype
        )
        return (tokens + position).flatten(1, 2)


class TriplaneDecoder(FusedDecoder):
    """Bilinear samples of three feature planes and the coordinates, then an MLP.

    The planes span the padded cube [-0.55, 0.55]^3. Their first and last nodes lie on its faces.
    The field is continuous. A point outside of the cube has the features and coordinates of the
    nearest point of the cube.

    Args:
        plane_channels: C, channels of a plane.
        hidden_size: Width of the hidden layers.
        num_layers: Number of hidden layers.

    Shapes: points (B, N, 3), planes (B, 3, R, R, C), indexed [xy, xz, yz] -> logits (B, N).
    """

    def __init__(self, plane_channels: int, hidden_size: int, num_layers: int):
        super().__init__()
        self.linear_in = nn.Linear(3 * plane_channels + 3, hidden_size)
        self.linears = nn.ModuleList(
            nn.Linear(hidden_size, hidden_size) for _ in range(num_layers - 1)
        )
        self.linear_out = nn.Linear(hidden_size, 1)

    def forward(self, points: Tensor, planes: Tensor) -> Tensor:
        points = points.clamp(*DEFAULT_BOUNDS)
        features = torch.cat([sample_planes(points, planes), points], dim=-1)
        features = F.relu(self.linear_in(features))
        for linear in self.linears:
            features = F.relu(linear(features))
        return self.linear_out(features).squeeze(-1)

    @torch.no_grad()
    def pack(
        self, conditioning: Tensor, precision: str | None = None, backend: str = "auto"
    ) -> PackedTriplane:
        """Packs the decoder for `occvae.query_triplane`.

        All that comes before the first ReLU is linear in the planes. The first layer is therefore
        applied to the planes, and the coordinates, which bilinear interpolation reproduces, are
        added to them.

        Args:
            conditioning: Planes (B, 3, R, R, C).
            precision: As in `FusedDecoder.pack`.
            backend: As in `pack_triplane`.
        """
        planes = conditioning.float()
        weights = self.linear_in.weight.float()
        channels = planes.shape[-1]
        packed = torch.stack(
            [
                planes[:, plane] @ weights[:, plane * channels : (plane + 1) * channels].T
                for plane in range(3)
            ],
            dim=1,
        )
        line = torch.linspace(*DEFAULT_BOUNDS, planes.shape[2], device=planes.device)
        x, y, z = line[:, None] * weights[:, -3:].T[:, None]  # each (R, H)
        packed[:, 0] += x[:, None] + y + self.linear_in.bias.float()
        packed[:, 1] += z
        width = len(weights)
        linears = cast("list[nn.Linear]", list(self.linears))
        layers: list[Tensor] = [each.weight for each in linears]
        biases: list[Tensor] = [each.bias for each in linears]
        return pack_triplane(
            packed,
            torch.stack(layers) if layers else packed.new_zeros((0, width, width)),
            torch.stack(biases) if biases else packed.new_zeros((0, width)),
            torch.cat([self.linear_out.weight[0], self.linear_out.bias]),
            precision=precision,
            backend=backend,
        )

    def query(self, points: Tensor, packed: PackedTriplane) -> Tensor:
        return query_triplane(points, packed)

    def query_shapes(self, points: Tensor, shape_index: Tensor, packed: PackedTriplane) -> Tensor:
        return query_triplane_shapes(points, shape_index, packed, is_sorted=True)


def sample_planes(points: Tensor, planes: Tensor) -> Tensor:
    """Bilinear samples (B, N, 3 C) of planes (B, 3, R, R, C) at points (B, N, 3)."""
    unit = points / DEFAULT_BOUNDS[1]
    # grid_sample names the column first.
    grid = torch.stack([unit[..., [second, first]] for first, second in AXES], dim=1)
    samples = F.grid_sample(
        planes.flatten(0, 1).permute(0, 3, 1, 2),
        grid.flatten(0, 1).unsqueeze(2),
        padding_mode="border",
        align_corners=True,
    )
    samples = samples.squeeze(3).unflatten(0, planes.shape[:2])
    return samples.permute(0, 3, 1, 2).flatten(2)


class TriplaneModel(OccupancyModel):
    """An image encoder whose feature maps become three planes, which a small MLP decodes.

    The positions of the feature maps of all views are the tokens that the planes attend to. The
    conditioning is the planes.

    Args:
        encoder: Module from images (M, 3, S, S) in [0, 1] to feature maps.
        planes: Module from the maps of all views to planes (B, 3, R, R, C).
        decoder: Module from points (B, N, 3) and planes to logits (B, N).
        image_size: Edge S in pixels that images are resized to.
        threshold: As in `OccupancyModel`.

    Shapes: images (B, V, 3, H, W) in [0, 1], points (B, N, 3) in [-0.55, 0.55] -> logits (B, N).
    """

    def __init__(
        self,
        encoder: nn.Module,
        planes: PlaneTransformer,
        decoder: TriplaneDecoder,
        image_size: int,
        threshold: float,
    ):
        super().__init__(encoder, decoder, image_size, threshold)
        self.planes = planes

    def encode(self, images: Tensor) -> Tensor:
        """Planes (B, 3, R, R, C) float32 from RGB images (B, V, 3, H, W) in [0, 1]."""
        check_images(images)
        maps = self.encoder(resize_images(images.flatten(0, 1), self.image_size))
        return self.planes([each.unflatten(0, images.shape[:2]) for each in maps]).float()


def plane_sizes(options: dict[str, int] | None, defaults: dict[str, int]) -> dict[str, int]:
    """Returns the default sizes with those of `plane_options` in their place.

    Raises:
        UserError: An option is unknown.
    """
    options = options or {}
    if unknown := options.keys() - defaults.keys():
        raise UserError(
            f"unknown plane_options {', '.join(sorted(unknown))}; choose from {', '.join(defaults)}"
        )
    return {**defaults, **options}


def triplane_model(
    encoder: FeatureMaps | HybridMaps,
    options: dict[str, int] | None,
    image_size: int,
    threshold: float,
) -> TriplaneModel:
    """Builds a model with a triplane decoder.

    Args:
        encoder: Returns the feature maps.
        options: Sizes that replace those of `SIZES`.
        image_size: Edge in pixels that images are resized to.
        threshold: Probability from which a point counts as occupied.

    Raises:
        UserError: An option is unknown, or the sizes do not fit together.
    """
    sizes = plane_sizes(options, SIZES)
    planes = PlaneTransformer(
        encoder.channels,
        plane_size=sizes["size"],
        plane_channels=sizes["channels"],
        patches=sizes["patches"],
        width=sizes["width"],
        num_layers=sizes["num_layers"],
    )
    decoder = TriplaneDecoder(sizes["channels"], sizes["hidden_size"], sizes["num_hidden"])
    return TriplaneModel(encoder, planes, decoder, image_size, threshold)
