"""Converted checkpoints of Pix2Vox and Pix2Vox++ compute the published outputs."""

import json

import numpy as np
import pytest
import torch

from occvae.cli.main import main
from occvae.convert import pix2vox
from occvae.convert.checkpoint import places
from occvae.errors import UserError
from occvae.evaluation.shapes import StoredShapes
from occvae.images.io import encode_png
from occvae.models import create_model, from_pretrained, list_models
from occvae.models.registry import model_options
from tests.convert.published_pix2vox import (
    SPECS,
    pix2vox_image,
    pix2vox_states,
    pix2vox_volume,
)

# As published.
PARAMETERS = {"pix2vox-a": 114_244_467, "pix2vox-f": 7_436_307}


def needs_model(arch: str):
    ready = arch in list_models() and pix2vox.OPTIONS.keys() <= model_options(arch).keys()
    options = ", ".join(pix2vox.OPTIONS)
    return pytest.mark.skipif(not ready, reason=f"needs architecture {arch} with option {options}")


ARCHITECTURES = [pytest.param(arch, marks=needs_model(arch)) for arch in SPECS]
SMALLEST = "pix2voxpp-f"


def checkpoint(states: dict, prefix: str = "module.") -> dict:
    """A checkpoint as the published training script saves it."""
    entries = {"epoch_idx": 250, "best_iou": 0.66, "best_epoch": 240}
    for part, state in states.items():
        named = {prefix + name: tensor for name, tensor in state.items()}
        entries[f"{part}_state_dict"] = named
        entries[f"{part}_solver_state_dict"] = {"state": {0: {"step": torch.ones(1)}}}
    return entries


@pytest.fixture(scope="module")
def images():
    return torch.rand(1, 2, 3, 240, 240, generator=torch.Generator().manual_seed(0))


def assert_same_volumes(model, arch, states, images) -> None:
    with torch.no_grad():
        expected = pix2vox_volume(arch, states, images[..., 8:-8, 8:-8])
        volumes = model.eval().predict_voxels(images)
    assert expected.std() > 0.02  # a volume worth comparing
    torch.testing.assert_close(volumes, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", SPECS)
def test_every_name_has_a_place_of_its_own(arch):
    states = pix2vox_states(arch, names_only=True)
    state = {f"{part}.{name}": t for part, tensors in states.items() for name, t in tensors.items()}
    assert pix2vox.architecture(state) == arch
    placed, left_over = places(state, pix2vox.RULES[arch])
    assert not left_over and sorted(placed.values()) == sorted(state)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(t.numel() for name, t in state.items() if not name.endswith(statistics))
    assert count == PARAMETERS.get(arch, count)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_places_and_shapes_are_those_of_our_models(arch):
    states = pix2vox_states(arch, names_only=True)
    state = {f"{part}.{name}": t for part, tensors in states.items() for name, t in tensors.items()}
    placed, _ = places(state, pix2vox.RULES[arch])
    with torch.device("meta"):
        ours = create_model(arch, **pix2vox.OPTIONS).state_dict()
    shapes = {name: state[foreign].shape for name, foreign in placed.items()}
    assert shapes == {name: tensor.shape for name, tensor in ours.items()}


# Pix2Vox-A, the largest, is left out: the others have all its parts.
@pytest.mark.parametrize("arch", ARCHITECTURES[1:])
def test_converted_models_compute_the_published_volumes(arch, images):
    states = pix2vox_states(arch)
    model, origin = pix2vox.convert(checkpoint(states))
    assert model.arch == origin == arch
    assert_same_volumes(model, arch, states, images)


@needs_model(SMALLEST)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_command_converts_a_file(tmp_path, capsys, images, prefix):
    states = pix2vox_states(SMALLEST)
    torch.save(checkpoint(states, prefix), tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), "-o", str(tmp_path / "model")]) == 0
    said = capsys.readouterr().out
    assert f"({SMALLEST}) -> {tmp_path / 'model'} ({SMALLEST}): " in said
    assert (
        "left out because only training needs it: best_epoch, best_iou, decoder_solver_st" in said
    )
    model = from_pretrained(tmp_path / "model")
    assert_same_volumes(model, SMALLEST, states, images)
    assert (model.image_size, model.background_gray) == (240, 240)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["converted_from"]["system"], config["splits"]) == (SMALLEST, "pix2vox")


@needs_model(SMALLEST)
def test_renderings_are_prepared_as_published(tiny_dataset, monkeypatch):
    """The model sees the middle on gray, and nothing of the margin, which is red here."""
    rendering = np.full((137, 137, 4), (255, 0, 0, 255), np.uint8)
    rendering[4:-4, 4:-4] = 0
    rendering[40:90, 30:100] = (20, 200, 90, 255)
    content = encode_png(rendering)
    monkeypatch.setattr("occvae.data.shards.Shard.image", lambda *place: content)
    model = create_model(SMALLEST, **pix2vox.OPTIONS).eval()
    seen = []
    model.encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    model.encode(StoredShapes(tiny_dataset, "val", model).observed(0))
    [image], expected = seen[0], pix2vox_image(rendering)
    differ = ((image - expected).abs() > 1e-6).any(dim=0)
    rim = torch.zeros(224, 224, dtype=torch.bool)
    rim[60:154, 42:171] = True
    rim[66:148, 48:165] = False
    assert not differ[~rim].any()


@needs_model(SMALLEST)
def test_tensors_that_do_not_fit_are_listed(tmp_path):
    def refusal(change) -> str:
        states = pix2vox_states(SMALLEST)
        change(states)
        with pytest.raises(UserError) as caught:
            pix2vox.convert(checkpoint(states))
        return str(caught.value)

    assert "missing: merger.combine.0.0.bias, " in refusal(lambda states: states.pop("merger"))
    assert "missing: decoder.to_volume.weight" in refusal(
        lambda states: states["decoder"].pop("layer5.0.weight")
    )
    assert "left over: refiner.layer9.0.bias" in refusal(
        lambda states: states.update(refiner={"layer9.0.bias": torch.ones(1)})
    )
    assert "another shape: decoder.layer1.0.weight" in refusal(
        lambda states: states["decoder"].update({"layer1.0.weight": torch.ones(8, 8, 4, 4, 4)})
    )
    assert "another shape: encoder.resnet.0.weight" in refusal(
        lambda states: states["encoder"].update({"resnet.0.weight": torch.ones(3)})
    )


def test_other_forks_are_refused():
    variational = {"encoder_state_dict": {"fc_mu.weight": torch.ones(2)}, "decoder_state_dict": {}}
    with pytest.raises(UserError, match=r"a variational fork of Pix2Vox \(encoder.fc_mu.weight\)"):
        pix2vox.convert(variational)
    unknown = {"encoder_state_dict": {"swin.weight": torch.ones(2)}, "decoder_state_dict": {}}
    with pytest.raises(UserError, match="neither the VGG of Pix2Vox nor the ResNet"):
        pix2vox.convert(unknown)
