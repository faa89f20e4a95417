"""The 3D networks of Pix2Vox: decoder, mergers and refiner (Xie et al. 2019, 2020).

The number of layers follows from the resolution R. The decoder doubles a cube of 2^3 up to R^3. The
refiner halves R^3 down to 4^3 and doubles it back. At 32^3 both have the published layers.
"""

import math

import torch
from torch import Tensor, nn

from occvae.errors import UserError

START = 2  # edge of the decoder's first cube
MAP_CHANNELS = 8  # channels of the decoder's last feature map
RAW_CHANNELS = MAP_CHANNELS + 1  # input of the mergers: that map, and the volume made from it


def scaled(channels: int, width: float) -> int:
    """Scales a number of channels to a multiple of 8: features are reshaped to 2^3 cubes."""
    return max(8, 8 * round(channels * width / 8))


def check_resolution(resolution: int) -> None:
    """Raises a UserError unless the resolution is 32, 64 or 128."""
    if resolution not in (32, 64, 128):
        raise UserError(f"resolution must be 32, 64 or 128, got {resolution}")


def initialize(module: nn.Module) -> None:
    """Initializes as published: Kaiming for convolutions, N(0, 0.01^2) for linear layers."""
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
    """Initializes a last layer such that most voxels start with a probability of about 0.1.

    Most voxels of the data are empty. The last layers have no bias to express this, and Kaiming
    weights give logits of both signs, which start at a cross-entropy far above that of an empty
    volume. The computation assumes inputs that are rectified standard normal values, with mean 0.4.
    """
    taps = math.prod(
        kernel // stride for kernel, stride in zip(layer.kernel_size, layer.stride, strict=True)
    )
    mean = -2.0 / (0.4 * layer.in_channels * taps)
    nn.init.normal_(layer.weight, mean, 0.1 * abs(mean))


class VolumeDecoder(nn.Module):
    """Transposed convolutions from features to a feature map and the logits of a volume.

    Args:
        num_features: F, a multiple of 8. Features are reshaped to (F / 8, 2, 2, 2).
        channels: Channels after each of the four published doublings. The last is 8. Finer volumes
            have more doublings, all with 8 channels.
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
        # In bf16, probabilities near 1 would round to 1, and the cross-entropy would be infinite.
        return maps, self.to_volume(maps).float()


def _doubling(in_channels: int, channels: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(in_channels, channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(channels),
        activation,
    )


def _scoring(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(in_channels, channels, 3, padding=1),
        nn.BatchNorm3d(channels),
        nn.LeakyReLU(0.2),
    )


class ContextMerger(nn.Module):
    """Scores every voxel of a view from its surroundings in that view (Pix2Vox).

    `merge` turns the scores of all views into weights. 8,571 parameters.

    Shapes: raw features (M, 9, R, R, R) -> scores (M, 1, R, R, R) float32.
    """

    CHANNELS = (RAW_CHANNELS, 16, 8, 4, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        pairs = zip(self.CHANNELS[:-1], self.CHANNELS[1:], strict=True)
        self.layers = nn.Sequential(*(_scoring(*pair) for pair in pairs))
        self.apply(initialize)

    def forward(self, raw: Tensor) -> Tensor:
        return self.layers(raw).float()


class MultiScaleMerger(nn.Module):
    """Scores as `ContextMerger` does, from the outputs of four layers together (Pix2Vox++).

    Each layer has a larger receptive field than the previous one.

    Shapes: raw features (M, 9, R, R, R) -> scores (M, 1, R, R, R) float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_scoring(RAW_CHANNELS, RAW_CHANNELS) for _ in range(4))
        self.combine = nn.Sequential(
            _scoring(4 * RAW_CHANNELS, RAW_CHANNELS), _scoring(RAW_CHANNELS, 1)
        )
        self.apply(initialize)

    def forward(self, raw: Tensor) -> Tensor:
        contexts = []
        for scale in self.scales:
            raw = scale(raw)
            contexts.append(raw)
        return self.combine(torch.cat(contexts, dim=1)).float()


def merge(volumes: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """Merges the volumes of the views, with weights that are a softmax of scores over the views.

    This is the context-aware fusion of Pix2Vox.

    Args:
        volumes: (M, R, R, R) probabilities of the views that exist, item by item.
        scores: (M, R, R, R) scores from the merger.
        mask: (B, V) bool with M true entries, the views of each item that exist.

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
    """A 3D U-Net that corrects the merged volume, with fully connected layers at 4^3.

    The output is the mean of the input and the output of the U-Net, as published. 34,880,352
    parameters at R = 32 and width 1.

    Args:
        resolution: R, edge of the volume.
        width: Factor of the channels and of the hidden units at the bottom.

    Shapes: volume (B, R, R, R) in [0, 1] -> (B, R, R, R) in [0, 1].
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
