"""Augmentation moves each view by itself, changes colors alike in all views, and keeps edges."""

import numpy as np
import pytest
import torch

from occvae.data.augmentation import (
    add_noise,
    augment_views,
    blur,
    compress,
    draw_backgrounds,
    draw_color_maps,
    draw_lighting,
    draw_noise,
    draw_qualities,
    draw_sigmas,
    draw_sizes,
    draw_warps,
    estimate_alpha,
    linear_images,
    lower_resolution,
    recolor,
    rotate_hue,
    warp,
)
from occvae.images.preprocess import OBJECT_SHARE

SIZE = 48
COLOR = (200.0, 120.0, 40.0)


def disk(size: int = SIZE, share: float = 0.6) -> np.ndarray:
    """Opacity (S, S) of an antialiased disk in the middle of the frame."""
    line = (np.arange(4 * size) + 0.5) / (2 * size) - 1.0
    inside = line**2 + line[:, None] ** 2 < share**2
    return inside.reshape(size, 4, size, 4).mean(axis=(1, 3)).astype(np.float32)


def make_images(views: int = 3, size: int = SIZE) -> torch.Tensor:
    """Images (V, 3, S, S) of the same colored disk on white."""
    inverted = disk(size) * (255.0 - np.array(COLOR)).reshape(3, 1, 1)
    image = torch.from_numpy(np.round(255.0 - inverted).astype(np.uint8))
    return image.repeat(views, 1, 1, 1)


def augmented(seed: int, images: torch.Tensor | None = None) -> torch.Tensor:
    return augment_views(make_images() if images is None else images, [0, 3, seed])


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def test_augmentation_depends_only_on_images_and_seed():
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    original = make_images()
    assert augmented(1).shape == original.shape
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    torch.manual_seed(6)
    for seed in range(1, 20):
        images = make_images()
        assert torch.equal(augmented(seed, images), augmented(seed))
        assert torch.equal(images, original)
        assert not torch.equal(augmented(seed + 1), augmented(seed))


def test_the_number_of_threads_does_not_change_a_sample():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 128, 128), np.uint8)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append([augmented(seed, torch.from_numpy(images)) for seed in range(40)])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(("views", "size"), [(1, 96), (3, 33), (2, 128)])
def test_augmentation_keeps_shape_and_dtype(views, size):
    for seed in range(10):
        found = augmented(seed, make_images(views, size))
        assert found.shape == (views, 3, size, size) and found.dtype == torch.uint8
        assert found.is_contiguous()


def test_views_of_a_sample_share_colors_and_background_but_not_their_position():
    middle = slice(SIZE // 2 - 4, SIZE // 2 + 4)
    colors = []
    for seed in range(40):
        found = augmented(seed).float()
        assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
        object_colors = found[:, :, middle, middle].mean(dim=(2, 3))
        assert (object_colors - object_colors[0]).abs().max() < 4.0  # noise
        corners = found[:, :, :3, :3].mean(dim=(2, 3))
        assert (corners - corners[0]).abs().max() < 8.0  # JPEG
        colors.append(object_colors[0])
    assert torch.stack(colors).std(dim=0).min() > 20.0


def test_a_warp_moves_the_image_and_the_outside_is_white():
    layers = torch.from_numpy(np.random.default_rng(0).random((2, 4, 16, 16), np.float32))
    same, moved = warp(layers, np.stack([np.eye(3), [[1, 0, 0.5], [0, 1, 0], [0, 0, 1]]]))
    torch.testing.assert_close(same, layers[0], atol=1e-5, rtol=0)
    # Positions of the original lie 0.5 to the right: 4 of 16 pixels.
    torch.testing.assert_close(moved[:, :, :12], layers[1, :, :, 4:], atol=1e-5, rtol=0)
    assert (moved[:, :, 12:] == 0.0).all()


def test_warps_stay_in_their_ranges():
    homographies = draw_warps(generator(), 2000)
    back = np.linalg.inv(homographies)
    center = back[:, :2, 2] / back[:, 2:, 2]  # where the middle of the original moves to
    assert 0.11 < np.abs(center).max() < 0.13
    assert np.abs(center.mean(axis=0)).max() < 0.01
    linear = homographies[:, :2, :2]
    scale = np.linalg.det(linear) ** -0.5
    assert 0.85 <= scale.min() < 0.86 and 1.14 < scale.max() <= 1.15
    angle = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert -5.0 <= angle.min() < -4.9 and 4.9 < angle.max() <= 5.0
    assert 0.039 < np.abs(homographies[:, 2, :2]).max() <= 0.04


def test_an_object_of_usual_size_stays_in_the_frame():
    turn = np.linspace(0.0, 2.0 * np.pi, 60)
    rim = np.stack([OBJECT_SHARE * np.cos(turn), OBJECT_SHARE * np.sin(turn), np.ones(60)])
    for homography in draw_warps(generator(), 2000):
        moved = np.linalg.inv(homography) @ rim
        assert np.abs(moved[:2] / moved[2]).max() < 1.0


def test_opacity_is_recovered_from_an_antialiased_image():
    inverted = 255.0 - make_images(1).numpy().astype(np.float32)
    found = estimate_alpha(inverted)
    assert found.shape == (1, 1, SIZE, SIZE) and found.dtype == np.float32
    error = np.abs(found[0, 0] - disk())
    # Pixels whose neighbors are all mixed appear too opaque.
    assert error.mean() < 0.003 and error.max() < 0.3
    assert (found[0, 0][disk() == 0.0] == 0.0).all()
    assert (found[0, 0][disk() == 1.0] == 1.0).all()


def test_recoloring_commutes_with_a_white_background():
    opacity = torch.from_numpy(disk())
    color = torch.tensor(COLOR).view(3, 1, 1)
    layers = torch.cat([opacity * (255.0 - color), opacity[None]])[None]
    [matrix], [offset] = draw_color_maps(np.random.default_rng(3), 1)
    expected = torch.from_numpy(matrix @ np.array(COLOR) + offset).float().view(3, 1, 1) * opacity
    torch.testing.assert_close(recolor(layers, matrix, offset)[0], expected, atol=1e-2, rtol=0)


def test_a_new_background_leaves_no_fringe():
    """Edges lie between the colors of the object and the background, without rests of white."""
    black = make_images(1).clone()
    black[:] = torch.from_numpy(np.round(255.0 * (1.0 - disk())).astype(np.uint8))
    seen = 0
    for seed in range(60):
        found = augmented(seed, black)[0].float()
        border = torch.cat([found[:, 0], found[:, -1], found[:, :, 0], found[:, :, -1]], dim=1)
        if border.amin() < 225:
            seen += 1
            # JPEG overshoots at a few pixels. The edge of the disk is 4 % of the pixels.
            brightest = found.flatten(1).quantile(0.99, dim=1)
            assert (brightest <= border.amax(dim=1) + 6.0).all()
    assert seen > 15


def test_backgrounds_are_white_in_half_of_the_samples_and_else_light():
    found = linear_images(draw_backgrounds(generator(), 400), 8, torch.device("cpu"))
    others = [image for image in found if (image != 255.0).any()]
    assert 160 < len(others) < 240
    values = torch.stack(others)
    assert values.min() > 100.0 and values.max() <= 255.0
    mean = values.mean(dim=(2, 3))
    assert mean.min(dim=0).values.max() < 170.0 and mean.max(dim=0).values.min() > 245.0
    assert (mean.amax(dim=1) - mean.amin(dim=1)).max() > 15.0  # tinted
    steps = values[:, :, 1:] - values[:, :, :-1]
    assert 2.0 < steps.abs().max() < 30.0 / 8 + 0.01  # a gradient of up to 30 over the frame


def test_color_maps_cover_brightness_saturation_and_permutations():
    maps, _ = draw_color_maps(generator(), 600)
    gains = np.stack([matrix.sum(axis=1) for matrix in maps])
    assert np.abs(gains - gains[:, :1]).max() < 1e-9  # gray stays gray
    assert gains.min() < 0.4 and 1.3 < gains.max() < 1.7
    colorful = np.array([np.ptp(matrix @ [1.0, 0.0, -1.0]) / matrix.sum() * 3 for matrix in maps])
    assert 0.15 < (colorful < 0.45).mean() < 0.25  # gray or nearly gray
    largest = {tuple(matrix.argmax(axis=0)) for matrix in maps}
    assert len(largest & {(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}) == 6


def test_a_third_of_a_turn_of_hue_permutes_the_channels():
    turned = rotate_hue(np.deg2rad(120.0))
    assert np.allclose(turned, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert np.allclose(rotate_hue(0.3) @ rotate_hue(0.4), rotate_hue(0.7))


def test_lighting_has_the_strength_of_alexnet():
    shifts = draw_lighting(generator(), 400)
    assert np.abs(shifts.mean(axis=0)).max() < 1.0
    # The first component dominates: 255 x 0.1 x 0.2175 x 0.58.
    assert shifts.std(axis=0).mean() == pytest.approx(3.2, rel=0.15)


@pytest.mark.parametrize(
    ("lose", "draw", "share"), [(blur, draw_sigmas, 0.3), (lower_resolution, draw_sizes, 0.15)]
)
def test_some_samples_lose_sharpness_and_keep_their_mean(lose, draw, share):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8))
    images = images.float() if lose is blur else images
    results = [lose(images, value) for value in draw(generator(), 300, 64).tolist()]
    changed = torch.stack([found for found in results if found is not images])
    assert changed.dtype == images.dtype and changed.shape[1:] == images.shape
    assert share == pytest.approx(len(changed) / len(results), abs=0.07)
    assert (changed.float().mean(dim=(1, 2, 3, 4)) - images.float().mean()).abs().max() < 2.0
    contrast = changed.float().std(dim=(1, 2, 3, 4)) / images.float().std()
    assert contrast.max() < 1.001 and contrast.min() < 0.6


def test_noise_is_on_the_object_only():
    image, opacity = torch.full((2, 3, 32, 32), 128.0), torch.zeros(2, 1, 32, 32)
    opacity[:, :, :16] = 1.0
    strengths = []
    for strength, seed in draw_noise(generator(), 200).T:
        noise = add_noise(image, opacity, strength, seed) - image
        assert (noise[:, :, 16:] == 0.0).all()
        strengths.append(float(noise[:, :, :16].std()))
    assert 75 < sum(strength == 0.0 for strength in strengths) < 125
    assert 3.5 < max(strengths) < 4.3


def test_some_samples_are_compressed():
    images = make_images(2)
    changed = 0
    for quality in draw_qualities(generator(), 200).tolist():
        found = compress(images, quality)
        assert (found.float() - images.float()).abs().mean() < 6.0
        changed += not torch.equal(found, images)
    assert 25 < changed < 60  # 20 %
