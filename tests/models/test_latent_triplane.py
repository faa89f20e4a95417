"""Triplanes of latent vectors: the decoder alone, and as the decoder of `occvae`."""

import copy

import pytest
import torch

import occvae
from occvae.errors import UserError
from occvae.models import create_model, save_pretrained
from occvae.models.latent_triplane import latent_triplane_decoder
from occvae.models.triplane import TriplaneDecoder
from occvae.ops.query_triplane import PackedTriplane
from tests.models.test_mixture import SMALL, SUBSETS, chosen, inputs, queries, same_mesh
from tests.models.test_triplane import PLANES

OPTIONS = PLANES | {"num_tokens": 3}


def decoder(latent_size=6, **options):
    torch.manual_seed(0)
    return latent_triplane_decoder(latent_size, OPTIONS | options).eval()


def model(**options):
    """A model whose experts and planes depend on the inputs, as after training."""
    torch.manual_seed(0)
    network = create_model("occvae", **SMALL, decoder="triplane", plane_options=OPTIONS | options)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith(("to_mean.weight", "to_log_variance.weight", "to_patches.weight")):
                value.normal_(0.0, 1.0)
            if name.endswith("linear_1.weight"):
                value.normal_(0.0, 0.3)
            if name.endswith("to_log_variance.bias"):
                value.zero_()
        network(inputs(), queries())  # sets the aggregate posterior
        network.eval()
        network.decoder.linear_out.bias -= network.predict_points(inputs(), queries()).median()
    return network


def test_the_planes_are_those_of_the_tokens_of_the_latent():
    network, latents, points = decoder(), torch.randn(2, 6), torch.rand(2, 50, 3) - 0.5
    linear = network.planes.to_tokens
    tokens = torch.stack(
        [latents @ rows.T for rows in linear.weight.split(32)], dim=1
    ) + linear.bias.view(3, 32)
    planes = network.planes.attend(tokens, latents)
    assert planes.shape == (2, 3, 8, 8, 4)
    plain = TriplaneDecoder(4, 16, 2)
    plain.load_state_dict(network.state_dict(), strict=False)
    torch.testing.assert_close(network(points, latents), plain(points, planes))


def test_every_token_and_the_length_of_the_latent_count():
    network, latents, points = decoder(), torch.randn(1, 6), torch.rand(1, 50, 3) - 0.5
    before = network(points, latents)
    assert not torch.allclose(network(points, 2 * latents), before)
    for token in range(3):
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.planes.to_tokens.weight[32 * token : 32 * token + 32].normal_()
        assert not torch.allclose(other(points, latents), before)


@pytest.mark.parametrize("num_hidden", [1, 2])
def test_a_packed_decoder_has_the_logits_of_float64(num_hidden):
    network = decoder(num_hidden=num_hidden)
    latents, points = torch.randn(2, 6), torch.rand(2, 500, 3) * 1.3 - 0.65
    with torch.no_grad():
        packed = network.pack(latents)
        found = network.query(points, packed)
        flat = network.query_shapes(
            points.flatten(0, 1), torch.arange(2).repeat_interleave(500), packed
        )
        expected = network.double()(points.double(), latents.double())
    assert isinstance(packed, PackedTriplane)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(flat.view(2, 500), found)


def test_the_number_of_parameters_is_documented():
    network = latent_triplane_decoder(128, None)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_091_201


def test_every_parameter_gets_a_gradient():
    network = model().train()
    output = network(inputs(batch=40), queries(40))
    output.logits.square().mean().backward()
    assert all(value.grad is not None for value in network.parameters())
    assert not [name for name, value in network.decoder.named_parameters() if not value.grad.any()]
    assert all(expert.to_mean.weight.grad.any() for expert in network.encoder.values())


def test_training_under_autocast_queries_planes_in_fp32():
    network = create_model("occvae", **SMALL, decoder="triplane", plane_options=OPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(inputs(), queries()).logits
    assert logits.isfinite().all()
    logits.float().square().mean().backward()
    assert network.encoder["images"].to_mean.weight.grad.any()


@pytest.mark.parametrize("names", SUBSETS)
def test_an_item_does_not_depend_on_the_batch(names):
    network = model()
    together = network.predict_points(chosen(names), queries())
    one = {name: value[1:2] for name, value in chosen(names).items()}
    alone = network.predict_points(one, queries()[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_the_encoders_are_those_of_a_model_with_another_decoder():
    names = [
        set(create_model("occvae", **SMALL, **options).state_dict())
        for options in ({}, {"decoder": "triplane", "plane_options": OPTIONS})
    ]
    parts = [{name for name in each if not name.startswith("decoder.")} for each in names]
    assert parts[0] == parts[1]


def test_predictions_use_the_fused_decoder_at_the_mean():
    network = model()
    with torch.no_grad():
        expected = network.decode(queries(), network.encode(inputs()))
    torch.testing.assert_close(
        network.predict_points(inputs(), queries()), expected, rtol=1e-3, atol=1e-4
    )
    assert network.has_fused_decoder


def test_meshes_of_inputs_hypotheses_latents_and_draws_are_watertight():
    network, options = model(), {"resolution": 32, "threshold": 0.5}
    meshes = network.reconstruct(inputs(), normals=True, refine_vertices=2, **options)
    hypotheses = network.mesh_samples(
        chosen(("images",)), 2, generator=torch.Generator().manual_seed(0), **options
    )
    drawn = network.sample_meshes(2, generator=torch.Generator().manual_seed(0), **options)
    with torch.no_grad():
        ends = network.encode(inputs())[:2]
    line = torch.lerp(ends[:1], ends[1:], torch.linspace(0.0, 1.0, 3)[:, None])
    steps = network.mesh_latents(line, **options)
    for mesh in [*meshes, *drawn, *steps, *(mesh for each in hypotheses for mesh in each)]:
        assert mesh.is_watertight and len(mesh.faces) > 20
    assert not same_mesh(*hypotheses[0]) and not same_mesh(*drawn)
    [first, *_] = network.reconstruct(inputs(), **options)
    assert len(first.faces) == len(steps[0].faces)


def test_an_export_gives_the_same_predictions_and_draws(tmp_path):
    network = model()
    save_pretrained(network, tmp_path / "export")
    loaded = occvae.from_pretrained(tmp_path / "export")
    expected = network.predict_points(inputs(), queries())
    assert torch.equal(loaded.predict_points(inputs(), queries()), expected)
    drawn = [part.sample(2, 8, torch.Generator().manual_seed(0)) for part in (network, loaded)]
    assert torch.equal(*drawn) and not torch.equal(drawn[0][0], drawn[0][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 3}, "unknown plane_options tokens; choose from .*, num_hidden, num_tokens"),
        ({"size": 9}, "planes of 9 nodes cannot be cut into 2 patches"),
        ({"num_tokens": 0}, "num_tokens must be positive, got 0"),
    ],
)
def test_errors_name_wrong_plane_options(options, message):
    with pytest.raises(UserError, match=message):
        decoder(**options)
