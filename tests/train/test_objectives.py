"""The loss of each kind of model, computed by hand."""

import math

import pytest
import torch
from torch import nn

from occvae.models import create_model
from occvae.models.protocol import VoxelOutput
from occvae.train.config import OptimConfig
from occvae.train.objectives import VoxelObjective, create_objective
from tests.fakes import ball_model, octahedron_model, tiny_voxel_model


def batch(size: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    voxels = torch.rand(1, 4, 4, 4, generator=generator) < 0.4
    return {"images": torch.zeros(size, 1, 3, 8, 8), "voxels": voxels.expand(size, 4, 4, 4)}


def output(size: int = 2, **posterior) -> VoxelOutput:
    """Returns equal outputs for all items, so that the loss must not depend on the batch size."""
    merged, refined = torch.full((2, size, 4, 4, 4), 0.25)
    return VoxelOutput(merged, 2.0 * refined, **posterior)


def gaussians(size: int) -> dict[str, torch.Tensor]:
    mean = torch.tensor([[2.0, 0.0, 0.05]]).expand(size, 3)
    return {"mean": mean, "log_variance": torch.tensor([[-1.0, 0.0, 0.0]]).expand(size, 3)}


def test_the_loss_sums_ten_times_the_cross_entropy_of_both_volumes():
    voxels = batch()["voxels"][0].double()
    expected = sum(
        -10.0 * (voxels * math.log(p) + (1 - voxels) * math.log(1 - p)).mean().item()
        for p in (0.25, 0.5)
    )
    loss, figures = VoxelObjective(OptimConfig()).loss(output(), batch(), 0)
    assert loss.item() == pytest.approx(expected, rel=1e-6) and figures == {}


def test_without_a_refiner_the_loss_has_one_volume():
    objective = VoxelObjective(OptimConfig())
    volume = torch.full((2, 4, 4, 4), 0.5)
    loss, _ = objective.loss(VoxelOutput(volume, volume), batch(), 0)
    assert loss.item() == pytest.approx(10.0 * math.log(2.0), rel=1e-6)


def test_one_backward_pass_equals_the_two_of_the_published_code():
    model = tiny_voxel_model().train()
    images, voxels = torch.rand(2, 2, 3, 64, 64), torch.rand(2, 32, 32, 32) < 0.3
    found = model(images)
    for volume in (found.merged, found.refined):
        loss = 10.0 * nn.functional.binary_cross_entropy(volume, voxels.float())
        loss.backward(retain_graph=True)
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    objective = create_objective(model, OptimConfig())
    objective.loss(found, {"voxels": voxels}, 0)[0].backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        # Large terms cancel in these sums, so single elements may be lost in rounding.
        assert (parameter.grad - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5


def kl_term(size: int, *, sum_kl: bool = False, step: int = 0, **optim) -> float:
    objective = VoxelObjective(OptimConfig(**optim), sum_kl)
    with_kl, _ = objective.loss(output(size, **gaussians(size)), batch(size), step)
    without, _ = objective.loss(output(size), batch(size), step)
    return (with_kl - without).item()


def test_only_the_summed_kl_term_depends_on_the_batch_size():
    first = 0.5 * (4.0 + math.exp(-1.0) - 1.0 + 1.0)
    expected = 0.5 * (first + 0.5 * 0.05**2)
    for size in (1, 2, 8):
        assert kl_term(size, kl_weight=0.5) == pytest.approx(expected, rel=1e-4)
        assert kl_term(size, kl_weight=0.5, sum_kl=True) == pytest.approx(size * expected, rel=1e-4)


def test_the_kl_term_warms_up():
    full = kl_term(2, kl_weight=0.5)
    for step, share in ((0, 0.1), (4, 0.5), (9, 1.0), (1000, 1.0)):
        found = kl_term(2, kl_weight=0.5, kl_warmup_steps=10, step=step)
        assert found == pytest.approx(share * full, rel=1e-3)


def test_active_units_are_dimensions_whose_means_differ_between_images():
    """A narrow posterior that is the same for all images carries no information."""
    objective = VoxelObjective(OptimConfig())
    posterior = gaussians(2)
    _, figures = objective.loss(output(2, **posterior), batch(), 0)
    assert figures["active_units"] == 0
    assert figures["kl"].item() == pytest.approx(2.18519, abs=1e-4)
    posterior["mean"] = posterior["mean"] + torch.tensor([[0.0, 0.11, 0.09], [0.0, -0.11, -0.09]])
    _, figures = objective.loss(output(2, **posterior), batch(), 0)
    assert figures["active_units"] == 1  # variances 0, 0.0121 and 0.0081
    _, figures = objective.loss(output(1, **gaussians(1)), batch(1), 0)
    assert figures["active_units"] == 0


def test_the_loss_of_points_is_the_cross_entropy():
    model = ball_model()
    points, occupancies = torch.rand(2, 7, 3) - 0.5, torch.ones(2, 7)
    inputs = {"images": torch.rand(2, 1, 3, 8, 8), "points": points, "occupancies": occupancies}
    objective = create_objective(model, OptimConfig())
    logits = model(*objective.inputs(inputs))
    loss, figures = objective.loss(logits, inputs, 0)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, occupancies)
    assert torch.equal(loss, expected) and figures == {}
    probabilities, truth = objective.iou_inputs(logits, inputs)
    assert torch.equal(probabilities, logits.sigmoid()) and truth is occupancies


def test_validation_predicts_like_evaluation(monkeypatch):
    model = octahedron_model().train()
    inputs = {"images": torch.rand(2, 1, 3, 32, 32), "points": torch.rand(2, 70, 3) - 0.5}
    monkeypatch.setattr(model, "decode", None)  # predictions must not use the decoder of training
    with torch.no_grad():
        found = create_objective(model, OptimConfig()).predict(model, inputs)
    assert model.training
    assert torch.equal(found, model.eval().predict_points(inputs["images"], inputs["points"]))


def test_validation_of_voxels_uses_the_output_of_the_model():
    model = tiny_voxel_model().eval()
    inputs = {"images": torch.rand(2, 1, 3, 64, 64)}
    with torch.no_grad():
        found = create_objective(model, OptimConfig()).predict(model, inputs)
        assert torch.equal(found.refined, model(inputs["images"]).refined)


def test_the_loss_of_an_autoencoder_adds_the_kl_term():
    torch.manual_seed(0)
    model = create_model("onet-vae", latent_size=3, hidden_size=8, encoder_size=8)
    optim = OptimConfig(kl_weight=0.5, kl_warmup_steps=10)
    objective = create_objective(model, optim)
    occupancies = (torch.rand(2, 9) < 0.5).float()
    inputs = {
        "labeled_points": torch.rand(2, 7, 4),
        "points": torch.rand(2, 9, 3) - 0.5,
        "occupancies": occupancies,
    }
    output = model(*objective.inputs(inputs))
    loss, figures = objective.loss(output, inputs, 4)
    mean, std = output.mean, (0.5 * output.log_variance).exp()
    prior = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), prior)
    expected = nn.functional.binary_cross_entropy_with_logits(output.logits, occupancies)
    expected = expected + 0.5 * 0.5 * kl.sum(dim=1).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(figures["kl"], kl.sum(dim=1).mean())
    predicted = objective.predict(model, inputs)
    probabilities, truth = objective.iou_inputs(predicted, inputs)
    expected = model.predict_points(inputs["labeled_points"], inputs["points"]).sigmoid()
    assert torch.equal(probabilities, expected) and truth is occupancies
