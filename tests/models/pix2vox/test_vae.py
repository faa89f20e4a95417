"""Posteriors, their fusion, the variational model, and draws of new shapes."""

import numpy as np
import pytest
import torch
from torch import nn

from occvae.errors import UserError
from occvae.models.posterior import Posterior, mean_of_views, product_of_experts
from occvae.train.losses import kl_divergence
from tests.fakes import tiny_voxel_model

MASK = torch.tensor([[True, False, True, True], [False, True, False, False]])


def vae(**options):
    """A model whose latents affect the volumes, as after training."""
    model = tiny_voxel_model("pix2vox-vae", **options).eval()
    with torch.no_grad():
        model.to_mean.weight.mul_(10.0)
        model.from_latent.weight.mul_(10.0)
        model.to_log_variance.weight.normal_(0.0, 0.1)
        model.to_log_variance.bias.zero_()
    return model


def views(count: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def experts() -> tuple[torch.Tensor, torch.Tensor]:
    """Means and log variances of the four views of MASK, in float64."""
    rng = np.random.default_rng(0)
    return tuple(torch.from_numpy(rng.normal(size=(4, 5))) for _ in range(2))


def test_the_product_of_experts_is_the_product_of_densities():
    """Compared on a fine lattice, after normalization."""
    means, log_variances = experts()
    mean, log_variance = product_of_experts(means, log_variances, MASK)
    z = np.linspace(-12, 12, 48_001)
    for item, members in ((0, [0, 1, 2]), (1, [3])):
        for dimension in range(5):
            log_density = -0.5 * z**2
            for member in members:
                std = np.exp(0.5 * log_variances[member, dimension].item())
                log_density += -0.5 * ((z - means[member, dimension].item()) / std) ** 2
            density = np.exp(log_density - log_density.max())
            density /= density.sum()
            expected = (density * z).sum()
            assert mean[item, dimension].item() == pytest.approx(expected, abs=1e-6)
            variance = (density * (z - expected) ** 2).sum()
            assert log_variance[item, dimension].exp().item() == pytest.approx(variance, rel=1e-6)


def test_every_further_view_reduces_the_variance():
    means, log_variances = experts()
    variances = [
        product_of_experts(means[:n], log_variances[:n], torch.ones(1, n, dtype=torch.bool))[1]
        for n in range(1, 5)
    ]
    assert (torch.cat(variances).diff(dim=0) < 0).all()
    assert (variances[0] < 0).all()  # the prior has variance 1


def test_mean_fusion_equals_averaging_the_features():
    model = vae(fusion="mean")
    features, mask = model.encode_views(views(), None)
    pooled = features.view(2, 3, -1).mean(dim=1)
    posterior = model.encode(views())
    torch.testing.assert_close(posterior.mean, model.to_mean(pooled), rtol=1e-4, atol=1e-5)
    expected = model.to_log_variance(pooled)
    torch.testing.assert_close(posterior.log_variance, expected, rtol=1e-4, atol=1e-5)
    means, log_variances = experts()
    torch.testing.assert_close(mean_of_views(means, log_variances, MASK)[0][1], means[3])


def test_samples_have_the_moments_of_the_posterior():
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -3.0]])
    posterior = Posterior(mean.expand(20_000, 2), log_variance.expand(20_000, 2))
    drawn = posterior.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(dim=0), mean[0], atol=0.03, rtol=0.0)
    torch.testing.assert_close(drawn.var(dim=0), log_variance[0].exp(), rtol=0.05, atol=0.0)


def test_the_merger_of_the_original_is_an_identity():
    model = vae(parity=True)
    with torch.no_grad():
        latents = model.encode(views()).mean
        single = model.decode(latents).merged
        for _ in range(2):
            merged = model.decode(latents, num_copies=3).merged
            torch.testing.assert_close(merged, single, rtol=0.0, atol=1e-6)
            for parameter in model.merger.parameters():
                parameter.normal_()  # whatever it has learned


def test_by_default_every_parameter_gets_a_gradient():
    """From one view and from several, without a merger."""
    for count in (1, 3):
        model = vae().train()
        assert model.merger is None
        posterior = model.encode(views(count))
        output = model(views(count))
        kl = posterior.mean.square().sum() + posterior.log_variance.sum()
        (output.refined.sum() + output.merged.square().sum() + kl).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name


def test_images_reach_volumes_only_through_the_latent():
    """Otherwise information would pass by the KL term, and drawn latents would mean little."""
    model = vae().train()
    nn.init.constant_(model.to_log_variance.weight, 0.0)
    nn.init.constant_(model.to_mean.weight, 0.0)
    nn.init.constant_(model.to_mean.bias, 0.3)
    volumes = []
    for images in (views(), 1.0 - views()):
        torch.manual_seed(0)
        volumes.append(model.train()(images).refined)
    assert torch.equal(*volumes)


def test_posteriors_stay_finite_for_extreme_log_variances():
    for bias in (-1e4, 1e4):
        model = vae()
        nn.init.constant_(model.to_log_variance.bias, bias)
        posterior = model.encode(views())
        assert posterior.mean.isfinite().all()
        assert kl_divergence(posterior.mean, posterior.log_variance).isfinite().all()


def test_evaluation_uses_the_mean_unless_parity_is_set():
    assert torch.equal(vae().predict_voxels(views()), vae().predict_voxels(views()))
    seed = vae(parity=True)
    assert not torch.equal(seed.predict_voxels(views()), seed.predict_voxels(views()))
    model = vae().train()
    assert not torch.equal(model(views()).merged, model(views()).merged)


def test_samples_are_reproducible_and_differ():
    model = vae()
    drawn = model.sample(3, generator=torch.Generator().manual_seed(4))
    assert drawn.shape == (3, 32, 32, 32) and not torch.allclose(drawn[0], drawn[1])
    again = model.sample(3, generator=torch.Generator().manual_seed(4))
    assert torch.equal(drawn, again)
    assert model.sample(1, resolution=16).shape == (1, 16, 16, 16)


def test_samples_come_from_the_aggregate_posterior():
    model = vae()
    model(views())
    assert model.aggregate.num_batches == 0
    posterior = model.train().encode(views())
    model(views())
    assert model.aggregate.num_batches == 1 and model.training
    torch.testing.assert_close(model.aggregate.mean, posterior.mean.mean(dim=0))
    drawn = model.eval().sample(2, generator=torch.Generator().manual_seed(4))
    latents = model.aggregate.draw(2, torch.Generator().manual_seed(4))
    assert torch.equal(drawn, model.decode(latents).refined)


def test_hypotheses_vary_with_the_variance_of_the_posterior():
    model = vae()
    generator = torch.Generator().manual_seed(0)
    volumes = model.predict_samples(views(), 4, generator=generator)
    assert volumes.shape == (2, 4, 32, 32, 32) and not torch.equal(volumes[:, 0], volumes[:, 1])
    torch.nn.init.constant_(model.to_log_variance.bias, -30.0)
    mean, std = model.predict_uncertainty(views(), 4)
    assert std.max() < 1e-4
    torch.testing.assert_close(mean, model.predict_voxels(views()), rtol=1e-3, atol=1e-3)
    torch.nn.init.constant_(model.to_log_variance.bias, 0.0)
    assert model.predict_uncertainty(views(), 4)[1].max() > 1e-3
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        model.predict_uncertainty(views(), 1)


def test_hypotheses_become_meshes():
    meshes = vae(threshold=0.4).reconstruct(views(), 32, num_samples=3, blocks=True)
    assert [len(hypotheses) for hypotheses in meshes] == [3, 3]
    assert len(vae(threshold=0.4).reconstruct(views(), 32)) == 2


def test_interpolation_ends_at_both_predictions():
    model = vae()
    first, second = views(2), 1.0 - views(3)
    path = model.interpolate(first, second, steps=3)
    assert path.shape == (2, 3, 32, 32, 32)
    torch.testing.assert_close(path[:, 0], model.predict_voxels(first))
    torch.testing.assert_close(path[:, 2], model.predict_voxels(second))
    assert not torch.allclose(path[:, 1], path[:, 0])


def test_latents_decode_to_the_meshes_of_their_images():
    model = vae(threshold=0.4)
    latents = model.encode_latents(views())
    torch.testing.assert_close(latents, model.encode(views()).mean)
    expected = model.reconstruct(views(), 32)
    for mesh, other in zip(model.mesh_latents(latents, 32), expected, strict=True):
        np.testing.assert_array_equal(mesh.faces, other.faces)
        np.testing.assert_allclose(mesh.vertices, other.vertices, atol=1e-5)


def test_axes_of_the_latents_have_the_variances_of_the_aggregate_posterior():
    model = vae()
    generator = torch.Generator().manual_seed(0)
    size = model.latent_size
    mean = torch.randn(size, generator=generator)
    mixing = torch.randn(size, size, generator=generator)
    covariance = mixing @ mixing.T
    model.aggregate.mean.copy_(mean)
    model.aggregate.second_moment.copy_(covariance + mean.outer(mean))
    axes = model.latent_axes(size)
    torch.testing.assert_close(axes.T @ axes, covariance, rtol=1e-3, atol=1e-2)
    lengths = axes.norm(dim=1)
    assert (lengths[:-1] >= lengths[1:]).all()
    heads = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    assert (heads > 0).all()
    torch.testing.assert_close(model.latent_axes(2), axes[:2])
    torch.testing.assert_close(model.mean_latent(), mean)


def test_numbers_out_of_range_are_refused():
    model = vae()
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        model.interpolate(views(), views(), steps=0)
    with pytest.raises(ValueError, match="first and second must have one batch size, got 2, 1"):
        model.interpolate(views(), views(batch=1))
    with pytest.raises(ValueError, match="count must be at least 1; got -1"):
        model.sample(-1)
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        model.predict_samples(views(), 0)
    with pytest.raises(ValueError, match="resolution must be at least 1; got 0"):
        model.predict_voxels(views(), resolution=0)
    with pytest.raises(TypeError, match="view_mask must be a tensor, got list"):
        model.encode(views(), [[True] * 3] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "sum"}, "unknown fusion 'sum'; choose from poe, mean"),
        ({"fusion": "sum", "parity": True}, "unknown fusion 'sum'; choose from poe, mean"),
        ({"latent_size": 0}, "latent_size must be positive, got 0"),
        ({"width": float("nan")}, "width must be a positive factor, got nan"),
        ({"width": 0.0}, "width must be a positive factor, got 0.0"),
        *[
            ({"resolution": wrong}, f"resolution must be 32, 64 or 128, got {wrong}")
            for wrong in (-32, 0, 1, 4, 48)
        ],
    ],
)
def test_mistakes_give_one_line(options, message):
    with pytest.raises(UserError, match=message):
        vae(**options)
