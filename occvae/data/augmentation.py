"""Random changes of color, lighting and background that leave the shape unchanged.

They follow Pix2Vox (Xie et al. 2019). All views of a sample get the same change. Mirroring changes
the shape as well, so dataset.py does it where it reads the shape.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

# Principal components of ImageNet's colors and their standard deviations (Krizhevsky et al. 2012).
_COLOR_AXES = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_COLOR_STDS = torch.tensor([0.2175, 0.0188, 0.0045])


def view_augmentation() -> v2.Transform:
    """Returns the random change of background and colors for the views of one sample.

    It takes and returns images (V, 3, S, S) uint8. The background of its input must be white.
    """
    return v2.Compose(
        [
            RandomBackground(225, 255),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            RandomLighting(0.1),
            v2.RandomChannelPermutation(),
        ]
    )


def apply_seeded(transform: Callable[[Tensor], Tensor], images: Tensor, seed: list[int]) -> Tensor:
    """Applies a random transform such that its result depends only on the images and the seed.

    The state of torch's global generator is restored afterwards.

    Args:
        transform: changes images at random, with torch's global generator.
        images: input of the transform.
        seed: up to three integers, `[seed, epoch, index]` of a sample.

    Returns:
        The transformed images.
    """
    number = int(np.random.default_rng([*seed, 1]).integers(2**62))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        return transform(images)


class RandomBackground(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Paints white pixels in one random color, with each channel uniform in [low, high].

    Pixels that antialiasing mixed with white keep their color, as in Pix2Vox.

    Args:
        low: smallest value of a channel, 0 to 255.
        high: largest value of a channel, 0 to 255.
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
    """Adds a random combination of the principal components of natural colors (AlexNet).

    Args:
        std: standard deviation of the random factor of each component.
    """

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        amounts = torch.randn(3) * self.std * _COLOR_STDS
        return {"shift": 255.0 * (_COLOR_AXES @ amounts).view(3, 1, 1)}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        return (inpt + params["shift"]).round().clamp(0, 255).to(torch.uint8)
