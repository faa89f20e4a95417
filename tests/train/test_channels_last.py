"""Convolutions with channels last compute the same, and are exported the same."""

import copy

import torch

from occvae.models import create_model, from_pretrained, save_pretrained
from occvae.train.engine import use_channels_last
from tests.fakes import tiny_voxel_model


def test_outputs_gradients_and_exports_do_not_depend_on_the_layout(tmp_path):
    torch.manual_seed(0)
    plain = create_model("onet", image_size=32, hidden_size=16, num_blocks=1).eval()
    other = copy.deepcopy(plain)
    use_channels_last(other)
    weight = other.encoder.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    images, points = torch.rand(3, 1, 3, 32, 32), torch.rand(3, 20, 3) - 0.5
    for model in (plain, other):
        model(images, points).square().mean().backward()
    for (name, first), second in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(second, first, msg=name)
        torch.testing.assert_close(second.grad, first.grad, rtol=1e-3, atol=1e-6, msg=name)
    save_pretrained(other, tmp_path)
    loaded = from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in other.state_dict().items())


def test_convolutions_of_volumes_keep_their_layout():
    model = tiny_voxel_model("pix2voxpp-a")
    use_channels_last(model)
    output = model(torch.rand(2, 2, 3, 64, 64))
    assert output.refined.isfinite().all()
    assert all(p.is_contiguous() for p in model.decoder.parameters())
