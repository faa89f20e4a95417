"""Decoders against their formulas in float64 NumPy, and packing."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from occvae.models.batch_norm import ConditionalBatchNorm
from occvae.models.decoders import CbnBlock, CbnDecoder, CnnDecoder
from occvae.ops.query_occupancy import query_occupancy
from tests.builders import random_decoder

DECODERS = [CbnDecoder(16, 24, 2), CnnDecoder(16)]


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Randomizes parameters and running statistics, so that no zero weight hides a path."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) * 0.2
            value.data.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return module


def inputs(batch: int = 3, count: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(batch, count, 3, generator=generator) - 0.5
    return points, torch.randn(batch, 16, generator=generator)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_decoders_have_the_published_sizes():
    assert parameters(CbnDecoder()) == 2_106_625
    assert parameters(CnnDecoder()) == 176_929


@pytest.mark.parametrize("decoder", DECODERS, ids=["cbn", "cnn"])
def test_a_points_logit_does_not_depend_on_other_points(decoder):
    decoder = randomized(decoder).eval()
    points, conditioning = inputs()
    with torch.no_grad():
        expected = decoder(points, conditioning)
        single = decoder(points[1:2, 7:8], conditioning[1:2])
        shuffled = decoder(points.flip(1), conditioning).flip(1)
        none = decoder(points[:, :0], conditioning)
    assert expected.shape == (3, 50) and none.shape == (3, 0)
    torch.testing.assert_close(single[0, 0], expected[1, 7], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled, expected, rtol=1e-4, atol=1e-5)


def linear(state: dict, name: str, x: np.ndarray) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def conditional_norm(state: dict, name: str, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    mean, variance = state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"]
    normalized = (x - mean) / np.sqrt(variance + 1e-5)
    gamma, beta = linear(state, f"{name}.gamma", c), linear(state, f"{name}.beta", c)
    return np.maximum(gamma[:, None] * normalized + beta[:, None], 0.0)


def test_cbn_decoder_is_the_published_formula():
    decoder = randomized(CbnDecoder(16, 24, 2)).eval()
    state = {key: value.double().numpy() for key, value in decoder.state_dict().items()}
    points, conditioning = inputs()
    p, c = points.double().numpy(), conditioning.double().numpy()
    x = linear(state, "linear_in", p)
    for block in ("blocks.0", "blocks.1"):
        update = linear(
            state, f"{block}.linear_0", conditional_norm(state, f"{block}.norm_0", x, c)
        )
        x = x + linear(
            state, f"{block}.linear_1", conditional_norm(state, f"{block}.norm_1", update, c)
        )
    expected = linear(state, "linear_out", conditional_norm(state, "norm_out", x, c))[..., 0]
    with torch.no_grad():
        found = decoder.double()(points.double(), conditioning.double())
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_conditional_batch_norm_has_correct_gradients(training):
    norm = randomized(ConditionalBatchNorm(3, 2)).double().train(training)
    # Running statistics change with each call, but do not affect outputs in training mode.
    features = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    conditioning = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (features, conditioning))


@pytest.mark.parametrize("training", [True, False])
def test_blocks_start_as_identities(training):
    block = CbnBlock(8, 4).train(training)
    features = torch.randn(2, 5, 8)
    kept = features.clone()
    torch.testing.assert_close(block(features, torch.randn(2, 4)), kept, rtol=0, atol=0)
    torch.testing.assert_close(features, kept, rtol=0, atol=0)  # features were not changed in place


def test_conditional_batch_norm_starts_as_plain_batch_norm():
    features = torch.randn(2, 30, 6) * 3 + 1
    found = ConditionalBatchNorm(6, 4)(features, torch.randn(2, 4))
    expected = nn.BatchNorm1d(6, affine=False)(features.flatten(0, 1)).view_as(features)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("decoder", DECODERS, ids=["cbn", "cnn"])
def test_every_parameter_gets_a_gradient(decoder):
    decoder = randomized(decoder).train()
    points, conditioning = inputs()
    decoder.zero_grad()
    decoder(points, conditioning.requires_grad_()).square().mean().backward()
    without = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    # Except for biases directly before a batch norm, which subtracts them again.
    assert all(name.endswith("bias") for name in without), without
    assert conditioning.grad.any()


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_packing_folds_every_norm_and_bias(backend, blocks):
    decoder = random_decoder(40, blocks)
    points, conditioning = inputs()
    packed = decoder.pack(conditioning, backend=backend)
    assert not packed.affines.requires_grad and packed.num_shapes == 3
    with torch.no_grad():
        expected = decoder(points, conditioning)
        torch.testing.assert_close(query_occupancy(points, packed), expected, rtol=1e-5, atol=1e-5)
        for name, value in decoder.named_parameters():  # each has an effect
            before = value.clone()
            value.add_(0.5)
            changed = query_occupancy(points, decoder.pack(conditioning, backend=backend))
            assert not torch.allclose(changed, expected, rtol=1e-3, atol=1e-3), name
            torch.testing.assert_close(changed, decoder(points, conditioning), rtol=1e-4, atol=1e-4)
            value.copy_(before)


def test_packing_computes_in_float64():
    """Folding loses digits if statistics are far from zero. float32 would lose four here."""
    decoder = random_decoder(32, 1)
    norm = decoder.blocks[0].norm_1.norm
    decoder.blocks[0].linear_0.bias.data += 5000.0
    norm.running_mean += 5000.0
    points, conditioning = inputs()
    with torch.no_grad():
        found = query_occupancy(points, decoder.pack(conditioning)).double()
        expected = decoder.double()(points.double(), conditioning.double())
    assert (found - expected).norm() < 1e-6 * expected.norm()


def test_a_packed_decoder_is_a_copy():
    decoder = random_decoder(32, 1)
    points, conditioning = inputs()
    packed = decoder.pack(conditioning)
    expected = query_occupancy(points, packed)
    with torch.no_grad():
        for value in [*decoder.parameters(), *decoder.buffers()]:
            value.zero_()
    assert torch.equal(query_occupancy(points, packed), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, bf16; got 'fp8'"),
        ({"backend": "fast"}, "backend must be one of auto, native, reference; got 'fast'"),
        ({"conditioning": torch.zeros(16)}, r"conditioning must be \(B, 16\), B > 0; got \(16,\)"),
        ({"conditioning": torch.zeros(0, 16)}, r"got \(0, 16\)"),
        ({"conditioning": torch.zeros(2, 15)}, r"must be \(B, 16\), B > 0; got \(2, 15\)"),
    ],
)
def test_packing_checks_its_arguments(change, message):
    arguments = {"conditioning": torch.zeros(1, 16)} | change
    with pytest.raises(ValueError, match=message):
        random_decoder(32, 1).pack(**arguments)


def test_training_decoders_are_not_packed():
    with pytest.raises(ValueError, match=r"pack\(\) folds running statistics: call eval\(\) first"):
        random_decoder(32, 1).train().pack(torch.zeros(1, 16))
