"""Steps that all models share when they predict: eval mode, input checks, resizing."""

from torch import Tensor, nn
from torch.nn import functional as F

from occvae.errors import UserError


class evaluation_mode:
    """Context manager: eval mode inside, and afterwards the previous mode of every submodule."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __enter__(self) -> None:
        self.was_training = [(part, part.training) for part in self.module.modules()]
        self.module.eval()

    def __exit__(self, *exception: object) -> None:
        for part, training in self.was_training:
            part.training = training


def check_threshold(threshold: float) -> None:
    """Raises a UserError unless the threshold is a probability between 0 and 1."""
    if not 0.0 < threshold < 1.0:
        raise UserError(f"threshold must be a probability between 0 and 1, got {threshold}")


def check_images(images: Tensor) -> None:
    """Raises a ValueError unless images are floating point, (B, V, 3, H, W) and not empty."""
    valid = images.dim() == 5 and images.shape[2] == 3 and images.numel() > 0
    if not (valid and images.is_floating_point()):
        raise ValueError(
            "images must be floating point (B, V, 3, H, W) in [0, 1], "
            f"got {images.dtype} {tuple(images.shape)}"
        )


def resize_images(images: Tensor, image_size: int) -> Tensor:
    """Resizes images (M, 3, H, W) to (M, 3, image_size, image_size) with antialiasing.

    The aspect ratio is not kept. Images of that size are returned unchanged.
    """
    size = (image_size, image_size)
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
