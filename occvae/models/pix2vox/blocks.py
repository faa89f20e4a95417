"""The three-dimensional parts of Pix2Vox: decoder, mergers and refiner (Xie et al. 2019, 2020).

Their number of layers follows from the resolution: the decoder doubles a cube of 2^3 until it is
reached, the refiner halves down to 4^3 and doubles back. At 32^3 both are as published.
"""

import math

import torch
from torch import Tensor, nn

from occvae.errors import UserError

START = 2  # edge of the cube that the decoder starts from
MAP_CHANNELS = 8  # of the decoder's last feature map
RAW_CHANNELS = MAP_CHANNELS + 1  # with the volume made of it: what a merger judges views by


def scaled(channels: int, width: float) -> int:
    """Channels of a narrower or wider version: a multiple of 8, so that they fill a cube of 2^3."""
    return max(8, 8 * round(channels * width / 8))


def check_resolution(resolution: int) -> None:
    if resolution not in (32, 64, 128):
        raise UserError(f"resolution must be 32, 64 or 128, got {resolution}")


def initialize(module: nn.Module) -> None:
    """The published initial weights: Kaiming for convolutions, N(0, 0.01^2) for linear layers."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
        nn.init.ones_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def start_empty(layer: nn.ConvTranspose3d) -> None:
    """Initial weights that make most voxels improbable, about 0.1, as in the data they are.

    The last layers have no bias that could learn it, and Kaiming's weights begin with logits of
    both signs and cross-entropies far above that of an empty volume. The inputs are rectified
    normal values, of mean 0.4.
    """
    taps = math.prod(
        kernel // stride for kernel, stride in zip(layer.kernel_size, layer.stride, strict=True)
    )
    mean = -2.0 / (0.4 * layer.in_channels * taps)
    nn.init.normal_(layer.weight, mean, 0.1 * abs(mean))


class VolumeDecoder(nn.Module):
    """Features to a feature map and the logits of a volume, by transposed convolutions.

    Args:
        num_features: a multiple of 8; read as a cube of 2^3.
        channels: of the four published doublings; finer volumes repeat the last, which is 8.
        resolution: R.

    Shapes: features (M, F) -> map (M, 8, R, R, R), logits (M, 1, R, R, R) float32.
    """

    def __init__(self, num_features: int, channels: tuple[int, ...], resolution: int):
        super().__init__()
        check_resolution(resolution)
        self.start_channels = num_features // START**3
        doublings = int(math.log2(resolution // START))
        channels = (*channels, *[MAP_CHANNELS] * (doublings - len(channels)))
        pairs = zip((self.start_channels, *channels[:-1]), channels, strict=True)
        self.doublings = nn.Sequential(*(_doubling(*pair, nn.ReLU()) for pair in pairs))
        self.to_volume = nn.ConvTranspose3d(MAP_CHANNELS, 1, 1, bias=False)
        self.apply(initialize)
        start_empty(self.to_volume)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.doublings(features.view(-1, self.start_channels, START, START, START))
        # Rounded to bf16, probabilities near 1 would be 1 and their cross-entropy endless.
        return maps, self.to_volume(maps).float()


def _doubling(in_channels: int, channels: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(in_channels, channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(channels),
        activation,
    )


def _judgement(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(in_channels, channels, 3, padding=1),
        nn.BatchNorm3d(channels),
        nn.LeakyReLU(0.2),
    )


class ContextMerger(nn.Module):
    """Scores of each voxel of each view, from the view's own context (Pix2Vox).

    Shapes: raw features (M, 9, R, R, R) -> scores (M, 1, R, R, R) float32.
    """

    CHANNELS = (RAW_CHANNELS, 16, 8, 4, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        pairs = zip(self.CHANNELS[:-1], self.CHANNELS[1:], strict=True)
        self.layers = nn.Sequential(*(_judgement(*pair) for pair in pairs))
        self.apply(initialize)

    def forward(self, raw: Tensor) -> Tensor:
        return self.layers(raw).float()


class MultiScaleMerger(nn.Module):
    """The same from the contexts of four layers together, each wider than the last (Pix2Vox++)."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_judgement(RAW_CHANNELS, RAW_CHANNELS) for _ in range(4))
        self.combine = nn.Sequential(
            _judgement(4 * RAW_CHANNELS, RAW_CHANNELS), _judgement(RAW_CHANNELS, 1)
        )
        self.apply(initialize)

    def forward(self, raw: Tensor) -> Tensor:
        contexts = []
        for scale in self.scales:
            raw = scale(raw)
            contexts.append(raw)
        return self.combine(torch.cat(contexts, dim=1)).float()


def merge(volumes: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """Context-aware fusion: the mean of the views' volumes, weighted by a softmax over the views.

    Args:
        volumes: (M, R, R, R) probabilities of the views that are there, one item after the other.
        scores: (M, R, R, R), of the merger.
        mask: (B, V) bool with M true entries, which views of each item are there.

    Returns:
        (B, R, R, R) in [0, 1].
    """
    shape = (*mask.shape, *volumes.shape[1:])
    padded_scores = scores.new_full(shape, -torch.inf)
    padded_volumes = volumes.new_zeros(shape)
    padded_scores[mask] = scores
    padded_volumes[mask] = volumes
    return (padded_scores.softmax(dim=1) * padded_volumes).sum(dim=1).clamp(0.0, 1.0)


class Refiner(nn.Module):
    """A 3D U-Net with a fully connected bottom at 4^3, which corrects the merged volume.

    Args:
        resolution: R, of the volume.
        width: factor of the channels and of the hidden units at the bottom.

    Shapes: volume (B, R, R, R) probabilities -> the same: the mean of the input and its correction.
    """

    BOTTOM_EDGE, BOTTOM_CHANNELS, HIDDEN = 4, 128, 2048

    def __init__(self, resolution: int, width: float):
        super().__init__()
        halvings = int(math.log2(resolution // self.BOTTOM_EDGE))
        channels = [
            scaled(self.BOTTOM_CHANNELS >> (halvings - 1 - number), width)
            for number in range(halvings)
        ]
        self.down = nn.ModuleList(
            _halving(*pair) for pair in zip((1, *channels[:-1]), channels, strict=True)
        )
        bottom, hidden = channels[-1] * self.BOTTOM_EDGE**3, scaled(self.HIDDEN, width)
        self.bottom = nn.Sequential(
            nn.Linear(bottom, hidden), nn.ReLU(), nn.Linear(hidden, bottom), nn.ReLU()
        )
        upward = channels[::-1]
        self.up = nn.ModuleList(
            _doubling(*pair, nn.ReLU()) for pair in zip(upward[:-1], upward[1:], strict=True)
        )
        self.to_volume = nn.ConvTranspose3d(channels[0], 1, 4, stride=2, padding=1, bias=False)
        self.apply(initialize)
        start_empty(self.to_volume)

    def forward(self, volume: Tensor) -> Tensor:
        features, skips = volume[:, None], []
        for layer in self.down:
            features = layer(features)
            skips.append(features)
        features = features + self.bottom(features.flatten(1)).view_as(features)
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            features = layer(features) + skip
        refined = self.to_volume(features).float().sigmoid().squeeze(1)
        return 0.5 * (volume + refined)


def _halving(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(in_channels, channels, 4, padding=2),
        nn.BatchNorm3d(channels),
        nn.LeakyReLU(0.2),
        nn.MaxPool3d(2),
    )
