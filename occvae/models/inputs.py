"""From images in any form to the tensors that models take."""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from occvae.errors import UserError
from occvae.images.arrays import check_unit_range
from occvae.images.io import ImageSource, source_name
from occvae.images.preprocess import PreparedImage, prepare_image

ImageInput = ImageSource | Sequence[ImageSource] | Sequence[Sequence[ImageSource]]
"""One image, or a list of objects. An object is an image, or a list of views of it."""


class ImageSettings(Protocol):
    """What this module needs to know of a model."""

    image_size: int  # 0 if the model observes no images
    background_gray: int


def load_image(image: ImageSource, model: ImageSettings, background: str = "auto") -> Tensor:
    """Loads an image as the model expects it: object cut out, scaled and centered.

    `model.reconstruct` does this itself. Use this function to see what the model sees, or to treat
    the background in another way. Warns if the background is not removed.

    Args:
        image: A path, encoded bytes, a Pillow image, or an array or tensor. Arrays are uint8 or
            floating point in [0, 1], (H, W), (H, W, C) or (C, H, W), gray, RGB or RGBA.
        model: A model. Its `image_size` and `background_gray` are used.
        background: `auto`, `keep`, `remove` or `rembg`, as in
            `occvae.images.preprocess.prepare_image`.

    Returns:
        (3, S, S) float32 RGB in [0, 1], S = `model.image_size`.

    Raises:
        UserError: The source is not an image, or shows no object. With `remove`, the border is not
            plain. With `rembg`, the library is not installed.
    """
    prepared = prepare_for(model, image, background)
    if prepared.warning:
        warnings.warn(
            f"{source_name(image)}: {prepared.warning}; use occvae.load_image with background="
            "'rembg', or with 'keep' if the image is good as it is",
            stacklevel=2,
        )
    return torch.from_numpy(prepared.pixels.copy()).permute(2, 0, 1).float() / 255.0


def prepare_for(model: ImageSettings, image: ImageSource, background: str) -> PreparedImage:
    """Prepares an image for a model, see `occvae.images.preprocess.prepare_image`.

    Raises:
        UserError: The model observes no images, or as `prepare_image`.
    """
    if model.image_size == 0:
        raise UserError(
            f"{source_name(image)}: this model observes no images; its `observation` tells what it "
            "takes"
        )
    return prepare_image(image, model.image_size, background, model.background_gray)


def to_batch(images: ImageInput, model: ImageSettings) -> Tensor:
    """Returns images in any form that `Model.reconstruct` takes as (B, V, 3, H, W) in [0, 1].

    Raises:
        UserError: There are no images, one cannot be prepared, or objects differ in their number
            of views.
    """
    if isinstance(images, Tensor) and images.dim() == 5:
        if images.is_floating_point() and images.numel():
            check_unit_range(float(images.min()), float(images.max()))
        return images
    objects: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
    views = [item if isinstance(item, list | tuple) else [item] for item in objects]
    if not views or not all(views):
        raise UserError("there are no images: the list, or a list in it, is empty")
    counts = {len(item) for item in views}
    if len(counts) > 1:
        raise UserError(
            f"all objects must have the same number of views, got {min(counts)} to {max(counts)}; "
            "reconstruct them one by one"
        )
    return torch.stack([torch.stack([_view(image, model) for image in item]) for item in views])


def _view(image: ImageSource, model: ImageSettings) -> Tensor:
    """One view (3, S, S). Floating point tensors are model input, as from `load_image`."""
    if not (isinstance(image, Tensor) and image.is_floating_point()):
        return load_image(image, model)
    expected = (3, model.image_size, model.image_size)
    if image.shape != expected:
        raise UserError(
            f"a floating point tensor is one prepared image {expected} or a batch "
            f"(B, V, 3, H, W), got {tuple(image.shape)}; prepare it with occvae.load_image"
        )
    check_unit_range(float(image.min()), float(image.max()))
    return image.float()
