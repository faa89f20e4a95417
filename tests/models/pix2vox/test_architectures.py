"""Parameter counts, shapes and pretrained backbones are as published."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from occvae.errors import UserError
from occvae.models import create_model
from occvae.models.pix2vox.encoder import create_backbone
from tests.fakes import tiny_voxel_model

FAMILY = ["pix2vox-a", "pix2vox-f", "pix2vox-vae", "pix2voxpp-a", "pix2voxpp-f", "pix2voxpp-vae"]


def published(arch: str, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(arch, **options)


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_pix2vox_a_has_the_published_parts():
    model = published("pix2vox-a")
    assert size(model.encoder) == 7_772_480
    assert size(model.encoder) - size(model.encoder.backbone) == 4_853_504
    assert size(model.decoder) == 71_583_064
    assert size(model.merger) == 8_571
    assert size(model.refiner) == 34_880_352
    assert size(model) == 114_244_467


@pytest.mark.parametrize(
    ("arch", "count", "megabytes"),
    [
        ("pix2vox-a", 114_244_467, 457.0),
        ("pix2vox-f", 7_436_307, 29.8),
        ("pix2voxpp-a", 96_329_421, 385.4),
        ("pix2voxpp-f", 4_843_245, 19.4),
    ],
)
def test_sizes_are_those_of_the_released_weights(arch, count, megabytes):
    model = published(arch)
    assert size(model) == count
    stored = sum(4 * tensor.numel() for tensor in model.state_dict().values())
    assert stored / 1e6 == pytest.approx(megabytes, abs=0.06)


def test_the_vae_has_the_parts_of_the_original():
    model = published("pix2vox-vae", parity=True)
    assert size(model.encoder, model.to_mean, model.to_log_variance) == 9_869_760
    assert size(model.decoder, model.from_latent) == 72_648_024
    assert size(model) == 9_869_760 + 72_648_024 + 8_571 + 34_880_352
    assert size(published("pix2vox-vae")) == size(model) - 8_571  # without a merger


def test_the_vae_with_a_merger_has_the_parts_of_pix2voxpp_a():
    model, plain = published("pix2voxpp-vae"), published("pix2voxpp-a")
    for part in ("encoder", "decoder", "merger", "refiner"):
        assert size(getattr(model, part)) == size(getattr(plain, part))
    heads = 2 * (12_544 + 1) * 64 + (64 + 1) * 12_544
    assert size(model) == size(plain) + heads == 98_750_541


@pytest.mark.parametrize("arch", FAMILY)
def test_number_of_stages_follows_from_the_resolution(arch):
    for resolution, doublings, halvings in ((32, 4, 3), (64, 5, 4), (128, 6, 5)):
        model = published(arch, resolution=resolution)
        assert len(model.decoder.doublings) == doublings
        if model.refiner is not None:
            assert len(model.refiner.down) == halvings
            assert model.refiner.bottom[0].in_features == 8192


@pytest.mark.parametrize("arch", FAMILY)
@pytest.mark.parametrize("resolution", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_any_number_of_views_gives_volumes(arch, resolution):
    model = tiny_voxel_model(arch, resolution=resolution).eval()
    for views in (1, 3):
        output = model(torch.rand(2, views, 3, 64, 64))
        for volume in (output.merged, output.refined):
            assert volume.shape == (2, resolution, resolution, resolution)
            assert volume.dtype == torch.float32
            assert 0.0 <= volume.min() and volume.max() <= 1.0


@pytest.mark.parametrize("arch", FAMILY)
def test_every_parameter_gets_a_gradient(arch):
    model = tiny_voxel_model(arch).train()
    output = model(torch.rand(2, 2, 3, 64, 64))
    sum(part.square().mean() for part in output if part is not None).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("arch", [name for name in FAMILY if "vae" not in name])
def test_cropping_equals_smaller_images(arch):
    plain = tiny_voxel_model(arch, image_size=128).eval()
    cropping = tiny_voxel_model(arch, image_size=144, crop=8).eval()
    images = torch.rand(1, 2, 3, 144, 144)
    found = cropping.predict_voxels(images)
    assert torch.equal(found, plain.predict_voxels(images[..., 8:-8, 8:-8].contiguous()))
    images[..., :8, :] = images[..., -8:] = torch.nan
    assert torch.equal(cropping.predict_voxels(images), found)


def test_resolution_128_works():
    output = tiny_voxel_model("pix2voxpp-f", resolution=128).eval()(torch.rand(1, 1, 3, 64, 64))
    assert output.refined.shape == (1, 128, 128, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 48}, "resolution must be 32, 64 or 128, got 48"),
        ({"image_size": 100}, "image_size must be a multiple of 8"),
        ({"image_size": 16}, "image_size must be a multiple of 8 and large enough, got 16"),
        ({"crop": -8}, "crop must not be negative, got -8"),
        ({"crop": 3}, "image_size minus twice the crop must be a multiple of 8 .*, got 58"),
        ({"crop": 32}, "image_size minus twice the crop must be a multiple of 8 .*, got 0"),
        ({"background_gray": 256}, "background_gray must be a gray from 0 to 255, got 256"),
        ({"threshold": 0.0}, "threshold must be a probability"),
        ({"backbone": "vgg99"}, "unknown backbone 'vgg99'"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"backbone": "vit_tiny_patch16_224"}, "but not of stride 8; choose another backbone"),
        ({"encoder_weights": "nowhere.pth"}, "nowhere.pth: no such weights file"),
    ],
)
def test_mistakes_give_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        tiny_voxel_model(**options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory) -> str:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return str(path)


def test_the_pretrained_backbone_is_kept_unless_legacy_init_is_set(resnet_file):
    """The original loads the weights and then overwrites them with random ones."""
    stored = torch.load(resnet_file)["layer2.0.conv1.weight"]
    for legacy_init in (False, True):
        model = tiny_voxel_model(encoder_weights=resnet_file, legacy_init=legacy_init)
        found = model.encoder.backbone.backbone.layer2[0].conv1.weight
        assert torch.equal(found, stored) != legacy_init


def test_weights_of_another_network_are_refused(resnet_file):
    with pytest.raises(UserError, match="resnet18.pth: not the weights of resnet50"):
        tiny_voxel_model(backbone="resnet50", encoder_weights=resnet_file)
    for other in ("vgg11_bn", "convnext_atto", "mobilenetv3_small_050"):
        with pytest.raises(UserError, match=f"resnet18.pth: not the weights of {other}"):
            tiny_voxel_model(backbone=other, encoder_weights=resnet_file)
    with pytest.raises(UserError, match="resnet18.pth: not the weights of vgg16_bn"):
        tiny_voxel_model(backbone="vgg16_bn", encoder_weights=resnet_file)


def test_a_backbone_is_the_first_part_of_its_network(resnet_file):
    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(resnet_file))
    network.eval()
    backbone, channels = create_backbone("resnet18", False, resnet_file)
    images = torch.rand(1, 3, 64, 64)
    seen = []
    network.layer2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network((images - backbone.mean) / backbone.std)
    assert channels == seen[0].shape[1] == 128
    torch.testing.assert_close(backbone.eval()(images), seen[0])


def test_weights_of_a_timm_network_are_loaded_from_a_file(tmp_path):
    network = timm.create_model("mobilenetv3_small_050")
    torch.save(network.state_dict(), tmp_path / "network.pth")
    model = tiny_voxel_model(
        backbone="mobilenetv3_small_050", encoder_weights=str(tmp_path / "network.pth")
    )
    loaded = model.encoder.backbone.backbone.network.conv_stem.weight
    assert torch.equal(loaded, network.conv_stem.weight)


def test_any_timm_network_with_stride_8_is_a_backbone():
    backbone, channels = create_backbone("mobilenetv3_small_050", False, None)
    assert backbone.eval()(torch.rand(1, 3, 64, 64)).shape == (1, channels, 8, 8)
