"""Random changes of the images of an object that leave its shape alone.

The colors, noise and backgrounds of Pix2Vox (Xie et al. 2019), drawn once for all views of a
sample. Mirroring, which changes the shape too, is done where the shape is read, see dataset.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

# Principal components of the colors of ImageNet and their deviations (Krizhevsky et al. 2012).
_COLOR_AXES = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_COLOR_STDS = torch.tensor([0.2175, 0.0188, 0.0045])


def view_augmentation() -> v2.Transform:
    """(V, 3, S, S) uint8 on white to the same with another background, colors and noise."""
    return v2.Compose(
        [
            RandomBackground(225, 255),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            RandomLighting(0.1),
            v2.RandomChannelPermutation(),
        ]
    )


def apply_seeded(transform: Callable[[Tensor], Tensor], images: Tensor, seed: list[int]) -> Tensor:
    """A random transform as a function of a seed, whatever else draws random numbers."""
    number = int(np.random.default_rng([*seed, 1]).integers(2**62))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        return transform(images)


class RandomBackground(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """White pixels take one random color, each of its channels uniform in [low, high].

    Pixels that the antialiasing mixed with white keep their color, as in the original.
    """

    def __init__(self, low: int, high: int):
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        color = torch.randint(self.low, self.high + 1, (3, 1, 1), dtype=torch.uint8)
        return {"color": color}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        is_white = inpt.amin(dim=-3, keepdim=True) == 255
        return torch.where(is_white, params["color"], inpt)


class RandomLighting(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Adds a random multiple of the principal components of natural colors (AlexNet)."""

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        amounts = torch.randn(3) * self.std * _COLOR_STDS
        return {"shift": 255.0 * (_COLOR_AXES @ amounts).view(3, 1, 1)}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        return (inpt + params["shift"]).round().clamp(0, 255).to(torch.uint8)
