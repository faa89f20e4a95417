"""Augmentations change colors in the same way in all views, and never move a pixel."""

import pytest
import torch

from occvae.data.augmentation import (
    RandomBackground,
    RandomLighting,
    apply_seeded,
    view_augmentation,
)


def make_images(views: int = 3, size: int = 16) -> torch.Tensor:
    """Images (V, 3, S, S) of the same colored square on white."""
    image = torch.full((3, size, size), 255, dtype=torch.uint8)
    image[:, 4:12, 6:10] = torch.tensor([200, 120, 40], dtype=torch.uint8).view(3, 1, 1)
    return image.repeat(views, 1, 1, 1)


def augmented(seed: int, images: torch.Tensor | None = None) -> torch.Tensor:
    return apply_seeded(
        view_augmentation(), make_images() if images is None else images, [0, 3, seed]
    )


def test_augmentation_depends_on_the_seed_and_restores_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = augmented(1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(augmented(1), first) and not torch.equal(augmented(2), first)
    assert first.dtype == torch.uint8 and first.shape == make_images().shape


def test_all_views_of_a_sample_get_the_same_change():
    for seed in range(5):
        found = augmented(seed)
        assert torch.equal(found, found[:1].expand_as(found))


def test_augmentation_moves_no_pixel():
    original = make_images(1)[0]
    for seed in range(20):
        found = augmented(seed, make_images(1))[0]
        inside = (original != 255).any(dim=0)
        assert len(found[:, inside].unique(dim=1).T) == 1
        assert len(found[:, ~inside].unique(dim=1).T) == 1


def test_backgrounds_are_light_and_the_object_keeps_its_color():
    colors = set()
    for seed in range(30):
        found = apply_seeded(RandomBackground(225, 255), make_images(), [seed])
        assert torch.equal(found[:, :, 4:12, 6:10], make_images()[:, :, 4:12, 6:10])
        colors.add(tuple(found[0, :, 0, 0].tolist()))
    assert len(colors) > 20 and min(map(min, colors)) >= 225


def test_lighting_shifts_every_pixel_by_the_same_color():
    gray = torch.full((1, 3, 4, 4), 128, dtype=torch.uint8)
    shifts = (
        torch.stack(
            [apply_seeded(RandomLighting(0.1), gray, [seed])[0, :, 0, 0] for seed in range(400)]
        ).float()
        - 128.0
    )
    assert shifts.mean(dim=0).abs().max() < 1.0
    # The first component dominates: 255 x 0.1 x 0.2175 x 0.58.
    assert shifts.std(dim=0).mean().item() == pytest.approx(3.2, rel=0.15)
