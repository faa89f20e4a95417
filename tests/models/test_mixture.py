"""occvae: the product of experts, the sets of inputs in training, and predictions."""

import numpy as np
import pytest
import torch
from torch import Tensor

import occvae
from occvae.errors import UserError
from occvae.models import create_model, mixture, save_pretrained
from occvae.models.mixture import MixtureModel, _draw_sets, _product
from occvae.train.config import OptimConfig
from occvae.train.objectives import create_objective

ENCODER = {"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 8}
SMALL = {
    "encoder": "vit_tiny_patch16_224",
    "encoder_options": ENCODER,
    "image_size": 16,
    "point_encoder_size": 8,
    "grid_resolution": 16,
    "grid_encoder_channels": 2,
    "embedding_size": 12,
    "latent_size": 6,
    "hidden_size": 32,
    "num_blocks": 1,
}
SUBSETS = [
    ("images",),
    ("points",),
    ("voxels",),
    ("images", "points"),
    ("points", "voxels"),
    ("images", "points", "voxels"),
]


def small_model() -> MixtureModel:
    """A model whose experts differ in means and variances, as after training."""
    torch.manual_seed(0)
    model = create_model("occvae", **SMALL)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("linear_1.weight", "gamma.weight", "beta.weight")):
                value.normal_(0.0, 0.3)
            if name.endswith(("to_mean.weight", "to_log_variance.weight")):
                value.normal_(0.0, 1.0)
            if name.endswith("to_log_variance.bias"):
                value.zero_()
    return model


def inputs(batch: int = 3, views: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.rand(batch, views, 3, 16, 16, generator=generator),
        "points": torch.rand(batch, 40, 3, generator=generator) - 0.5,
        "voxels": torch.rand(batch, 16, 16, 16, generator=generator) < 0.3,
    }


def queries(batch: int = 3, count: int = 50) -> Tensor:
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(1)) - 0.5


def chosen(names: tuple[str, ...], **options) -> dict[str, Tensor]:
    return {name: value for name, value in inputs(**options).items() if name in names}


def product_in_float64(gaussians: list[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the product of Gaussians (mean, log variance) and of N(0, 1).

    The product of two Gaussians is taken again and again: N(a, s) N(b, t) is proportional to
    N((a t + b s) / (s + t), s t / (s + t)).
    """
    mean, variance = np.zeros(1), np.ones(1)
    for other, log_variance in gaussians:
        b, t = other.double().numpy(), np.exp(log_variance.double().numpy())
        mean = (mean * t + b * variance) / (variance + t)
        variance = variance * t / (variance + t)
    return mean, variance


def test_the_number_of_parameters_is_documented():
    with torch.device("meta"):
        model = create_model("occvae")
    assert sum(parameter.numel() for parameter in model.parameters()) == 35_792_321


@pytest.mark.parametrize("names", SUBSETS)
def test_the_posterior_is_the_product_of_the_experts_and_the_prior(names):
    model, observed = small_model().eval(), chosen(names)
    with torch.no_grad():
        experts = []
        for name, value in observed.items():
            parts = value.unbind(1) if name == "images" else [value]
            experts += [model.encoder[name](part) for part in parts]
        posterior = model.posterior(observed)
    mean, variance = product_in_float64(experts)
    np.testing.assert_allclose(posterior.mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(posterior.log_variance.exp().numpy(), variance, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(model.posterior(**observed).mean, posterior.mean)
        assert torch.equal(model.encode(**observed), posterior.mean)


def test_extreme_variances_stay_finite_and_exact():
    means = torch.tensor([[[3.0, 1.0], [-1.0, 2.0], [0.5, -4.0]]])
    log_variances = torch.tensor([[[20.0, -20.0], [-20.0, -20.0], [0.0, 20.0]]])
    posterior = _product(means, log_variances, torch.ones(1, 3, dtype=torch.bool))
    mean, variance = product_in_float64(
        list(zip(means[0], log_variances[0], strict=True)),
    )
    np.testing.assert_allclose(posterior.mean[0].numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(posterior.log_variance[0].numpy(), np.log(variance), rtol=1e-5)


def test_under_autocast_precisions_are_added_in_fp32():
    model = small_model().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        posterior = model.posterior(inputs())
    assert posterior.mean.dtype == posterior.log_variance.dtype == torch.float32


def test_the_order_of_views_does_not_matter():
    model, observed = small_model().eval(), inputs(views=4)
    turned = {**observed, "images": observed["images"][:, [2, 0, 3, 1]]}
    with torch.no_grad():
        first, second = model.posterior(observed), model.posterior(turned)
    torch.testing.assert_close(first.mean, second.mean)
    torch.testing.assert_close(first.log_variance, second.log_variance)


def test_every_further_input_makes_the_posterior_narrower():
    model = small_model().eval()
    with torch.no_grad():
        widths = [
            model.posterior(chosen(names, views=views)).log_variance
            for names, views in (
                (("images",), 1),
                (("images",), 2),
                (("images", "points"), 2),
                (("images", "points", "voxels"), 2),
            )
        ]
    assert (torch.stack(widths).diff(dim=0) < 0).all() and (widths[0] < 0).all()


def test_values_of_missing_experts_change_nothing():
    means, log_variances = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    expected = _product(means, log_variances, mask)
    broken = [value.clone().requires_grad_() for value in (means, log_variances)]
    with torch.no_grad():
        for value in broken:
            value[~mask] = torch.nan
    found = _product(*broken, mask)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.log_variance, expected.log_variance)
    (found.mean.sum() + found.log_variance.sum()).backward()
    for value in broken:
        assert value.grad[mask].all() and not value.grad[~mask].any()


def test_an_input_that_is_not_given_has_no_effect():
    model = small_model().eval()
    expected = model.predict_points(chosen(("images", "points")), queries())
    with torch.no_grad():
        for parameter in model.encoder["voxels"].parameters():
            parameter.fill_(torch.nan)
    found = model.predict_points(chosen(("images", "points")), queries())
    assert torch.equal(found, expected)


def test_the_sets_of_training():
    torch.manual_seed(0)
    sets = _draw_sets(2000, views=3, device=torch.device("cpu"))
    assert sets.shape == (2000, 2, 5)
    assert (sets[:, 0] == torch.tensor([True, True, True, False, False])).all()
    views, points, voxels = sets[:, 1, :3].sum(dim=1), sets[:, 1, 3], sets[:, 1, 4]
    assert (points | voxels).all()
    for share, expected in (
        (points & ~voxels & (views == 0), 1 / 3),
        (points & ~voxels & (views > 0), 1 / 3),
        (voxels, 1 / 3),
        (views == 1, 1 / 6),
        (views == 3, 1 / 6),
    ):
        assert share.float().mean().item() == pytest.approx(expected, abs=0.04)
    assert sets[:, 1, :3].float().mean(dim=0).std() < 0.03  # no view is preferred


def test_training_decodes_each_half_of_the_points_for_its_own_set(monkeypatch):
    model = small_model().eval()
    with torch.no_grad():  # the latents are then the means
        for expert in model.encoder.values():
            expert.to_log_variance.weight.zero_()
            expert.to_log_variance.bias.fill_(-20.0)
    sets = torch.tensor([[True, True, False, False], [False, False, True, False]])
    monkeypatch.setattr(mixture, "_draw_sets", lambda batch, *_: sets.expand(batch, -1, -1))
    with torch.no_grad():
        output = model(inputs(), queries())
        for term, names in enumerate((("images",), ("points",))):
            posterior = model.posterior(chosen(names))
            torch.testing.assert_close(output.mean[term::2], posterior.mean)
            torch.testing.assert_close(output.log_variance[term::2], posterior.log_variance)
            logits = model.decode(queries()[:, term::2], posterior.mean)
            torch.testing.assert_close(output.logits[:, term::2], logits, rtol=1e-2, atol=1e-2)


def test_the_loss_is_the_bound_of_both_sets():
    model = small_model()
    optim = OptimConfig(kl_weight=0.01, kl_warmup_steps=4, free_nats=0.2, dice_weight=0.0)
    objective = create_objective(model, optim)
    labels = (queries() > 0).float()[..., 0]
    output = model(inputs(), queries())
    loss, figures = objective.loss(output, {"occupancies": labels}, step=1)
    logits, truth = output.logits.detach().double().numpy(), labels.double().numpy()
    probabilities = 1.0 / (1.0 + np.exp(-logits))
    likelihood = truth * np.log(probabilities) + (1.0 - truth) * np.log(1.0 - probabilities)
    mean = output.mean.detach().double().numpy()
    variance = np.exp(output.log_variance.detach().double().numpy())
    nats = 0.5 * (mean**2 + variance - 1.0 - np.log(variance)).mean(axis=0)
    assert mean.shape == (6, 6)  # two posteriors for each of three shapes
    expected = -likelihood.mean() + 0.5 * 0.01 * np.maximum(nats, 0.2).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert figures["kl"].item() == pytest.approx(nats.sum(), rel=1e-5)


def test_every_parameter_gets_a_gradient():
    """On any set of inputs, which ranks need that draw other sets."""
    for seed in range(3):
        model = small_model()
        torch.manual_seed(seed)
        output = model(inputs(batch=1), queries(1))
        (output.logits.square().mean() + output.mean.square().mean()).backward()
        assert not [name for name, value in model.named_parameters() if value.grad is None]
    model = small_model()
    output = model(inputs(batch=40), queries(40))
    terms = output.mean.square().mean() + output.log_variance.square().mean()
    (output.logits.square().mean() + terms).backward()
    assert not [name for name, value in model.named_parameters() if not value.grad.any()]


@pytest.mark.parametrize("names", SUBSETS)
def test_an_item_does_not_depend_on_the_batch(names):
    model = small_model()
    model(inputs(), queries())  # sets the running statistics
    together = model.predict_points(chosen(names), queries())
    one = {name: value[1:2] for name, value in chosen(names).items()}
    alone = model.predict_points(one, queries()[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_predictions_use_the_fused_decoder_at_the_mean():
    model = small_model().eval()
    with torch.no_grad():
        expected = model.decode(queries(), model.encode(inputs()))
    found = model.predict_points(inputs(), queries())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert model.has_fused_decoder


def test_an_export_gives_the_same_predictions_and_draws(tmp_path):
    model = small_model()
    model(inputs(), queries())
    save_pretrained(model, tmp_path / "export")
    loaded = occvae.from_pretrained(tmp_path / "export")
    expected = model.predict_points(inputs(), queries())
    assert torch.equal(loaded.predict_points(inputs(), queries()), expected)
    drawn = [part.sample(2, 8, torch.Generator().manual_seed(0)) for part in (model, loaded)]
    assert torch.equal(*drawn) and not torch.equal(drawn[0][0], drawn[0][1])


def test_new_shapes_come_from_the_posteriors_of_all_inputs():
    model = small_model()
    model(inputs(), queries())
    with torch.no_grad():
        expected = model.eval().posterior(inputs()).mean.mean(dim=0)
    torch.testing.assert_close(model.aggregate.mean, expected, rtol=1e-3, atol=1e-4)
    latents = model.draw_latents(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(latents.mean(dim=0), model.aggregate.mean, rtol=0.0, atol=0.03)


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({}, "at least one; got {}"),
        ({"clouds": torch.zeros(2, 5, 3)}, "unknown inputs clouds"),
        ({"points": torch.zeros(2, 5, 3), "voxels": torch.zeros(3, 16, 16, 16)}, "one batch size"),
        ({"points": torch.zeros(2, 5, 2)}, r"cloud must be \(B, N, 3\)"),
        ({"voxels": torch.zeros(2, 8, 8, 8)}, r"grid must be \(B, 16, 16, 16\)"),
        ({"images": torch.zeros(2, 3, 8, 8)}, "images must be"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(observed, message):
    with pytest.raises(ValueError, match=message):
        small_model().posterior(observed)


def test_training_needs_all_inputs_and_an_even_number_of_points():
    with pytest.raises(ValueError, match="training takes images, points, voxels; got points"):
        small_model()(chosen(("points",)), queries())
    with pytest.raises(UserError, match="data.num_points must be even for occvae, got 49"):
        small_model()(inputs(), queries(count=49))


def test_reconstruct_takes_any_mixture():
    model = small_model()
    model(inputs(), queries())
    with torch.no_grad():  # moves the surface into the cube
        model.decoder.linear_out.bias -= model.predict_points(inputs(), queries()).median()
    options = {"resolution": 32, "threshold": 0.5}
    expected = model.reconstruct(inputs(), **options)
    assert len(expected) == 3 and all(mesh.is_watertight for mesh in expected)
    found = model.reconstruct(**inputs(), **options)
    assert all(map(same_mesh, found, expected))
    [single] = model.reconstruct(
        points=inputs()["points"][0].numpy(), voxels=inputs()["voxels"][0], **options
    )
    assert not same_mesh(single, expected[0])
    [single] = model.reconstruct(inputs()["images"][0, 0], **options)
    [same] = model.reconstruct(images=inputs()["images"][:1, :1], **options)
    assert same_mesh(single, same)


def same_mesh(first, second) -> bool:
    return np.array_equal(first.vertices, second.vertices)


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({}, "give each input for the same objects, got no input"),
        ({"scan": np.zeros((4, 3))}, "occvae observes images, points, voxels, not scan"),
        (
            {"points": np.zeros((4, 3)), "voxels": np.zeros((2, 16, 16, 16))},
            "same objects, got 1 of points, 2 of voxels",
        ),
        ({"points": np.full((4, 3), np.nan)}, "not finite"),
    ],
)
def test_mixtures_that_cannot_be_used_are_refused(observed, message):
    with pytest.raises(UserError, match=message):
        small_model().reconstruct(observed)
