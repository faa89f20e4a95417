"""pix2voxpp-vae: the views meet in the latent space and in the multi-scale merger."""

import pytest
import torch
from torch import nn

from occvae.errors import UserError
from occvae.models.pix2vox.blocks import MultiScaleMerger
from occvae.train.config import OptimConfig
from occvae.train.losses import kl_divergence
from occvae.train.objectives import create_objective
from tests.fakes import tiny_voxel_model

MASK = torch.tensor([[True, False, True], [False, True, False]])


def vae(**options):
    """A model whose latents and merger affect the volumes, as after training."""
    model = tiny_voxel_model("pix2voxpp-vae", **options).eval()
    with torch.no_grad():
        model.to_mean.weight.mul_(10.0)
        model.from_latent.weight.mul_(10.0)
        model.to_log_variance.weight.normal_(0.0, 0.1)
        model.to_log_variance.bias.zero_()
    return model


def views(count: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def alone(model, images: torch.Tensor) -> torch.Tensor:
    """The volumes (B, R, R, R) before the refiner, of the posterior's mean alone."""
    _, logits = model.decoder(model.from_latent(model.encode(images).mean))
    return logits.sigmoid().squeeze(1)


def test_the_volumes_of_all_views_and_of_each_view_are_merged():
    """Compared with the sum over the candidates, written out for each item."""
    model = vae()
    with torch.no_grad():
        output = model(views(), MASK)
        for item, members in ((0, [0, 2]), (1, [1])):
            images = [views()[item : item + 1, members]]
            images += [views()[item : item + 1, [member]] for member in members]
            latents = torch.cat([model.encode(group).mean for group in images])
            maps, logits = model.decoder(model.from_latent(latents))
            scores = model.merger(torch.cat([maps, logits.sigmoid()], dim=1)).exp()
            expected = (scores * logits.sigmoid()).sum(dim=0)[0] / scores.sum(dim=0)[0]
            torch.testing.assert_close(output.merged[item], expected, rtol=1e-4, atol=1e-5)
            refined = model.refiner(expected[None])[0]
            torch.testing.assert_close(output.refined[item], refined, rtol=1e-4, atol=1e-5)


def test_the_merger_matters_for_several_views_only():
    assert isinstance(vae().merger, MultiScaleMerger)
    several, single = [], []
    for seed in (1, 2):
        model = vae()
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.merger.parameters():
                parameter.normal_()
            several.append(model(views()).merged)
            single.append(model(views(), torch.eye(3, dtype=torch.bool)[:2]).merged)
    assert (several[0] - several[1]).abs().max() > 1e-3
    torch.testing.assert_close(*single, rtol=0.0, atol=1e-6)


def test_a_single_view_gives_the_volume_of_its_posterior_however_it_is_given():
    model = vae()
    mask = torch.tensor([[False, True, False]] * 2)
    with torch.no_grad():
        expected = alone(model, views()[:, 1:2])
        torch.testing.assert_close(model(views()[:, 1:2]).merged, expected)
        torch.testing.assert_close(model(views(), mask).merged, expected, rtol=1e-4, atol=1e-6)


def test_the_order_of_views_and_the_pixels_of_missing_ones_do_not_matter():
    model = vae()
    with torch.no_grad():
        expected = model(views(), MASK).refined
        order = [2, 0, 1]
        found = model(views()[:, order], MASK[:, order]).refined
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        images = views().masked_fill(~MASK[..., None, None, None], torch.nan)
        assert torch.equal(model(images, MASK).refined, expected)


def test_every_parameter_gets_a_gradient_from_the_loss():
    model = vae().train()
    objective = create_objective(model, OptimConfig())
    batch = {"voxels": torch.rand(2, 32, 32, 32).round()}
    loss, figures = objective.loss(model(views(), MASK), batch, 0)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert figures["kl"].isfinite()


def test_the_kl_term_averages_over_all_latents():
    model = vae()
    with torch.no_grad():
        output = model(views(), MASK)
        found = kl_divergence(output.mean, output.log_variance).sum(dim=1)
        groups = [views()[0:1, [0, 2]], views()[1:2, [1]]]
        groups += [views()[0:1, [0]], views()[0:1, [2]], views()[1:2, [1]]]
        posteriors = [model.encode(group) for group in groups]
        expected = torch.cat([kl_divergence(*posterior).sum(dim=1) for posterior in posteriors])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_images_reach_volumes_only_through_latents():
    model = vae().train()
    nn.init.constant_(model.to_log_variance.weight, 0.0)
    nn.init.constant_(model.to_mean.weight, 0.0)
    volumes = []
    for images in (views(), 1.0 - views()):
        torch.manual_seed(0)
        volumes.append(model.train()(images).refined)
    assert torch.equal(*volumes)


def test_all_latents_of_an_item_are_drawn_with_the_same_noise():
    """So the draws from a single view agree, and merging them changes nothing."""
    model = vae()
    mask = torch.tensor([[False, True, False]] * 2)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    masked = model.predict_samples(views(), 2, view_mask=mask, generator=generators[0])
    single = model.predict_samples(views()[:, 1:2], 2, generator=generators[1])
    torch.testing.assert_close(masked, single, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(single[:, 0], single[:, 1])


def test_hypotheses_of_narrow_posteriors_are_the_prediction():
    model = vae()
    nn.init.constant_(model.to_log_variance.weight, 0.0)
    nn.init.constant_(model.to_log_variance.bias, -30.0)
    samples = model.predict_samples(views(), 2)
    expected = model.predict_voxels(views())
    torch.testing.assert_close(samples.mean(dim=1), expected, rtol=1e-3, atol=1e-3)


def test_shapes_are_sampled_interpolated_and_meshed():
    model = vae(threshold=0.4)
    assert model.sample(2, resolution=16).shape == (2, 16, 16, 16)
    path = model.interpolate(views(2), 1.0 - views(3), steps=3)
    assert path.shape == (2, 3, 32, 32, 32)
    meshes = model.reconstruct(views(), 32, num_samples=2, blocks=True)
    assert [len(hypotheses) for hypotheses in meshes] == [2, 2]


def test_a_latent_without_dimensions_is_refused():
    with pytest.raises(UserError, match="latent_size must be positive, got 0"):
        vae(latent_size=0)
