"""Recomputed activations change neither losses nor gradients nor running statistics."""

import copy

import pytest
import torch

from occvae.models.registry import create_model
from occvae.train.activation_checkpointing import checkpoint_activations
from occvae.train.config import OptimConfig
from occvae.train.objectives import create_objective

VIT = {"depth": 2, "embed_dim": 48, "num_heads": 2, "patch_size": 8}
SMALL = {"image_size": 32, "hidden_size": 32, "num_blocks": 2}
VOXELS = {"image_size": 64, "width": 0.03}
CASES = {
    "vitocc": dict(encoder="vit_tiny_patch16_224", encoder_options=VIT, **SMALL),
    "onet": SMALL,
    "pix2voxpp-a": dict(backbone="resnet18", **VOXELS),
    "pix2vox-vae": dict(backbone="vgg16_bn", **VOXELS),
    "pix2voxpp-vae": dict(backbone="resnet18", **VOXELS),
}


@pytest.mark.parametrize("arch", CASES)
def test_checkpointing_gives_the_same_step_with_fewer_activations(arch):
    torch.manual_seed(0)
    model = create_model(arch, **CASES[arch])
    other = copy.deepcopy(model)
    assert checkpoint_activations(other) >= 4
    edge = 32 if model.target == "voxels" else 1
    batch = {
        "images": torch.rand(2, 2, 3, model.image_size, model.image_size),
        "points": torch.rand(2, 16, 3) - 0.5,
        "occupancies": torch.rand(2, 16).round(),
        "voxels": torch.rand(2, edge, edge, edge).round(),
    }
    first, second = (step(candidate, batch) for candidate in (model, other))
    assert first[0] == second[0]
    assert first[2] > 1.2 * second[2]  # bytes kept for the backward pass
    for (name, expected), found in zip(first[1].items(), second[1].values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=name)
    for (name, expected), found in zip(model.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7, msg=name)


def step(model, batch) -> tuple[float, dict[str, torch.Tensor], int]:
    """Returns the loss, the gradients by name, and the bytes of saved activations."""
    objective = create_objective(model, OptimConfig())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = objective.loss(model(*objective.inputs(batch)), batch, 0)
    kept = sum(sizes.values())
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, kept
