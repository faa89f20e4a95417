"""Batches are augmented like their samples, whatever the batch."""

import numpy as np
import pytest
import torch

from occvae.data import augmentation, batch_augmentation
from occvae.data.batch_augmentation import augment_batch
from tests.data.test_augmentation import make_images


def photograph(size: int, views: int = 1) -> torch.Tensor:
    """Smooth textures (V, 3, S, S) of float32 whole numbers with sharp edges."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0.0, 255.0, (views, 3, 5, 5))).float()
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255)
    images[..., size // 3 : size // 2, size // 4 : size // 2] = 20.0
    return images.round()


@pytest.mark.parametrize("size", [48, 61])
def test_a_batch_of_one_sample_is_the_sample(size):
    """The same changes are drawn, so the images differ by rounding, most after JPEG."""
    changed, differences = 0, []
    for number in range(40):
        images = make_images(2, size)
        images[:, 0, : size // 2] -= 20 * (images[:, 0, : size // 2] < 255)
        expected = augmentation.augment_views(images, [number]).float()
        found = augment_batch(images[None], np.random.default_rng([number, 1]))
        assert found.dtype == torch.uint8 and found.shape == (1, *images.shape)
        differences.append((found[0].float() - expected).abs().mean().item())
        changed += bool((expected - images.float()).abs().mean() > 2.0)
    assert changed > 30
    assert max(differences) < 1.5 and np.quantile(differences, 0.7) < 0.1


def test_samples_of_a_batch_differ_and_views_share_their_colors():
    images = make_images(2).repeat(8, 1, 1, 1, 1)
    found = augment_batch(images, np.random.default_rng(0)).float()
    middle = found[..., 20:28, 20:28].mean(dim=(-1, -2))
    assert (middle[:, 0] - middle[:, 1]).abs().max() < 4.0
    assert middle.std(dim=0).min() > 15.0
    assert all(not torch.equal(*sample) for sample in found)


def test_the_generator_decides_alone_and_images_stay():
    images = make_images(2).repeat(4, 1, 1, 1, 1)
    original, state = images.clone(), torch.get_rng_state()
    first, again, other = (augment_batch(images, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(images, original) and torch.equal(torch.get_rng_state(), state)


def test_blurs_are_those_of_scipy():
    samples, sigmas = photograph(40)[None].repeat(3, 1, 1, 1, 1), np.array([0.3, 0.8, 2.1])
    found = batch_augmentation.blur(samples, sigmas)
    for sample, blurred, sigma in zip(samples, found, sigmas, strict=True):
        torch.testing.assert_close(blurred, augmentation.blur(sample, sigma), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [48, 61])
def test_lower_resolutions_are_those_of_interpolation(size):
    samples, sizes = photograph(size)[None].repeat(2, 1, 1, 1, 1), np.array([25, 40])
    found = batch_augmentation.lower_resolution(samples, sizes)
    for sample, coarse, fewer in zip(samples, found, sizes, strict=True):
        expected = augmentation.lower_resolution(sample.to(torch.uint8), int(fewer)).float()
        assert (coarse - sample).abs().mean() > 0.5
        assert (coarse - expected).abs().max() <= 2.0


@pytest.mark.parametrize("size", [48, 61])
def test_compression_is_that_of_pillow(size):
    samples, qualities = photograph(size, 2)[None].repeat(3, 1, 1, 1, 1), np.array([30, 60, 89])
    found = batch_augmentation.compress(samples, qualities)
    for sample, compressed, quality in zip(samples, found, qualities, strict=True):
        expected = augmentation.compress(sample.to(torch.uint8), int(quality)).float()
        lost = (expected - sample).abs().mean()
        assert (compressed - expected).abs().mean() < min(1.2, 0.5 * lost)


def test_opacities_are_those_of_a_sample():
    inverted = 255.0 - make_images(2).float()
    expected = torch.from_numpy(augmentation.estimate_alpha(inverted.numpy()))
    torch.testing.assert_close(batch_augmentation.estimate_alpha(inverted), expected)
