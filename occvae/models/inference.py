"""What every model checks and does around its networks when it is asked for a prediction."""

from torch import Tensor, nn
from torch.nn import functional as F

from occvae.errors import UserError


class evaluation_mode:
    """Context that switches a module to eval and each of its parts back to what it was."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __enter__(self) -> None:
        self.was_training = [(part, part.training) for part in self.module.modules()]
        self.module.eval()

    def __exit__(self, *exception: object) -> None:
        for part, training in self.was_training:
            part.training = training


def check_threshold(threshold: float) -> None:
    if not 0.0 < threshold < 1.0:
        raise UserError(f"threshold must be a probability between 0 and 1, got {threshold}")


def check_images(images: Tensor) -> None:
    """ValueError unless images are floating point (B, V, 3, H, W) with at least one image."""
    valid = images.dim() == 5 and images.shape[2] == 3 and images.numel() > 0
    if not (valid and images.is_floating_point()):
        raise ValueError(
            "images must be floating point (B, V, 3, H, W) in [0, 1], "
            f"got {images.dtype} {tuple(images.shape)}"
        )


def resize_images(images: Tensor, image_size: int) -> Tensor:
    """(M, 3, H, W) to (M, 3, image_size, image_size), antialiased; as it is if it fits."""
    size = (image_size, image_size)
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
