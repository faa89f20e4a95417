"""Loss functions against their formulas in float64."""

import math

import numpy as np
import pytest
import torch

from occvae.train.losses import kl_divergence, kl_loss, occupancy_loss, voxel_loss


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 40, generator=generator) * 3
    return logits, (torch.rand(3, 40, generator=generator) < 0.3).float()


def expected_loss(logits: torch.Tensor, occupancies: torch.Tensor, dice_weight: float) -> float:
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    y = occupancies.double().numpy()
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    dice = (2 * (p * y).sum(axis=1) + 1) / (p.sum(axis=1) + y.sum(axis=1) + 1)
    return entropy + dice_weight * (1 - dice).mean()


@pytest.mark.parametrize("dice_weight", [0.0, 0.5, 2.0])
def test_occupancy_loss_equals_its_formula(dice_weight):
    logits, occupancies = inputs()
    found = occupancy_loss(logits, occupancies, dice_weight)
    assert found.shape == () and found.dtype == torch.float32
    assert found.item() == pytest.approx(expected_loss(logits, occupancies, dice_weight), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16])
def test_occupancies_may_have_any_dtype(dtype):
    logits, occupancies = inputs()
    found = occupancy_loss(logits, occupancies.to(dtype), 1.0)
    assert torch.equal(found, occupancy_loss(logits, occupancies, 1.0))


def test_low_precision_logits_are_computed_in_float32():
    logits, occupancies = inputs()
    low = logits.bfloat16()
    found = occupancy_loss(low, occupancies, 1.0)
    assert found.item() == pytest.approx(expected_loss(low.float(), occupancies, 1.0), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certain_correct_predictions_cost_nothing_for_empty_and_full_shapes(value):
    occupancies = torch.full((2, 10), value)
    logits = 200.0 * (occupancies - 0.5)
    assert occupancy_loss(logits, occupancies, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    wrong = occupancy_loss(-logits, occupancies, 1.0)
    assert wrong.isfinite() and wrong.item() > 90


def test_the_dice_term_is_computed_per_shape():
    """It averages over shapes, so that a large shape does not outweigh a small one."""
    logits = torch.full((2, 100), -20.0)
    occupancies = torch.zeros(2, 100)
    occupancies[0, :50], occupancies[1, :2] = 1.0, 1.0
    logits[0, :50] = 20.0
    dice = occupancy_loss(logits, occupancies, 1.0) - occupancy_loss(logits, occupancies, 0.0)
    assert dice.item() == pytest.approx((0.0 + (1 - 1 / 3)) / 2, abs=1e-5)


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
def test_gradients_equal_finite_differences(dice_weight):
    logits, occupancies = inputs()
    logits = logits[:, :8].clone().requires_grad_()
    occupancy_loss(logits, occupancies[:, :8], dice_weight).backward()
    step = 1e-4
    for i in range(8):
        shifted = logits.detach().double()
        shifted[1, i] += step
        upper = expected_loss(shifted, occupancies[:, :8], dice_weight)
        shifted[1, i] -= 2 * step
        lower = expected_loss(shifted, occupancies[:, :8], dice_weight)
        assert logits.grad[1, i].item() == pytest.approx((upper - lower) / (2 * step), abs=1e-5)


def test_tensors_of_different_shapes_are_refused():
    with pytest.raises(ValueError):
        occupancy_loss(torch.zeros(2, 8), torch.zeros(2, 7), 0.0)


def test_voxel_loss_is_ten_times_the_cross_entropy():
    probabilities = torch.tensor([[[[0.9, 0.2]]], [[[0.5, 0.1]]]])
    voxels = torch.tensor([[[[True, False]]], [[[True, True]]]])
    entropies = [-math.log(p) for p in (0.9, 0.8, 0.5, 0.1)]
    found = voxel_loss(probabilities, voxels, 0.0).item()
    assert found == pytest.approx(10.0 * sum(entropies) / 4, rel=1e-6)
    dice = [1 - (2 * 0.9 + 1) / (1.1 + 1 + 1), 1 - (2 * 0.6 + 1) / (0.6 + 2 + 1)]
    with_dice = voxel_loss(probabilities, voxels, 0.5).item()
    assert with_dice - found == pytest.approx(10.0 * 0.5 * sum(dice) / 2, rel=1e-5)


def test_certain_wrong_voxels_have_a_finite_loss():
    loss = voxel_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), 0.0)
    assert loss.isfinite() and loss > 100


def test_kl_equals_that_of_torch_distributions():
    rng = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 3, 5, generator=rng, dtype=torch.float64)
    gaussian = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    expected = torch.distributions.kl_divergence(gaussian, prior)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_free_nats_bound_the_kl_from_below():
    kl = torch.tensor([[0.1, 3.0], [0.3, 1.0]]).requires_grad_()
    assert kl_loss(kl, 0.0).item() == pytest.approx(0.2 + 2.0)
    loss = kl_loss(kl, 0.5)
    assert loss.item() == pytest.approx(0.5 + 2.0)
    loss.backward()
    assert kl.grad[:, 0].tolist() == [0.0, 0.0] and kl.grad[:, 1].tolist() == [0.5, 0.5]
