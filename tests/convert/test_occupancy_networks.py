"""Converted checkpoints of occupancy_networks compute the published outputs. Others fail."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from occvae.cli.main import main
from occvae.convert import convert_checkpoint
from occvae.errors import UserError
from occvae.models import from_pretrained
from tests.convert.published_onet import onet_logits, onet_state

SMALL = {"blocks": (2, 2, 2, 2), "width": 16}


def save(path: Path, state: dict, prefix: str = "", wrapped: bool = True, **torch_options) -> Path:
    state = {prefix + name: tensor for name, tensor in state.items()}
    training = {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]},
        "epoch_it": 7,
        "it": 1000,
        "loss_val_best": np.float64(0.5),
    }
    torch.save({"model": state, **training} if wrapped else state, path, **torch_options)
    return path


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 224, 224, generator=generator, dtype=torch.float64)
    points = torch.rand(2, 50, 3, generator=generator, dtype=torch.float64) * 1.1 - 0.55
    return images, points


def assert_same_logits(model, state: dict, inputs) -> None:
    images, points = inputs
    state = {name: tensor.double() for name, tensor in state.items()}
    expected = onet_logits(state, images, points)
    assert expected.std() > 0.1  # a field worth comparing
    assert (expected[0] - expected[1]).abs().max() > 0.01  # that depends on the image
    with torch.no_grad():
        logits = model.double()(images[:, None], points)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("prefix", "legacy"),
    [
        ("", False),
        ("module.", True),
        pytest.param("", True, marks=pytest.mark.slow),
        pytest.param("module.", False, marks=pytest.mark.slow),
    ],
)
def test_a_converted_model_computes_the_published_logits(tmp_path, capsys, inputs, legacy, prefix):
    state = onet_state(legacy)
    source = save(tmp_path / "onet.pt", state, prefix)
    assert main(["convert", str(source), "-o", str(tmp_path / "model")]) == 0
    layout = "legacy" if legacy else "current"
    said = capsys.readouterr().out
    assert f"(occupancy_networks, {layout} layout) -> {tmp_path / 'model'} (onet)" in said
    numbers = sum(tensor.numel() for tensor in state.values())
    assert f"{len(state)} tensors, {numbers:,} numbers" in said
    assert "left out because only training needs it: epoch_it, it, loss_val_best, optimizer" in said
    model = from_pretrained(tmp_path / "model")
    assert (model.arch, model.threshold, model.image_size) == ("onet", 0.2, 224)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["converted_from"]["file"], config["splits"]) == ("onet.pt", "onet")
    assert_same_logits(model, state, inputs)


@pytest.mark.parametrize(
    ("encoder", "blocks", "bottleneck"),
    [
        ("resnet34", (3, 4, 6, 3), False),
        pytest.param("resnet50", (3, 4, 6, 3), True, marks=pytest.mark.slow),
    ],
)
def test_other_resnets_are_converted(tmp_path, inputs, encoder, blocks, bottleneck):
    state = onet_state(False, blocks, bottleneck, width=16)
    model = convert_checkpoint(save(tmp_path / "a.pt", state)).model
    assert model.options["encoder"] == encoder and not model.training
    assert_same_logits(model, state, inputs)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_bare_state_dict_is_converted(tmp_path, prefix):
    state = onet_state(True, **SMALL)
    conversion = convert_checkpoint(save(tmp_path / "a.pt", state, prefix, wrapped=False))
    assert conversion.ignored == []
    weight = conversion.model.state_dict()["decoder.norm_out.gamma.weight"]
    assert torch.equal(weight, state["decoder.bn.fc_gamma.weight"])


def test_every_tensor_has_its_own_place(tmp_path):
    """Tensors with distinct values all appear in the model, each once."""
    state = onet_state(False, **SMALL)
    for number, (name, tensor) in enumerate(state.items()):
        state[name] = torch.full_like(tensor, number)
    model = convert_checkpoint(save(tmp_path / "a.pt", state)).model
    found = sorted(int(tensor.flatten()[0]) for tensor in model.state_dict().values())
    assert found == list(range(len(state)))


def test_files_of_old_torch_are_converted(tmp_path):
    """Without zip format, without counters, and with scalars under numpy 1's module name."""
    state = onet_state(True, **SMALL)
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    path = save(tmp_path / "a.pt", state, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    old = content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    assert old != content
    path.write_bytes(old)
    model = convert_checkpoint(path).model
    weight = model.state_dict()["decoder.linear_in.weight"]
    assert torch.equal(weight, state["decoder.fc_p.weight"][:, :, 0])


def changed(change) -> dict:
    state = onet_state(False, **SMALL)
    change(state)
    return state


def drop(*names):
    return lambda state: [state.pop(name) for name in names]


def put(name, tensor):
    return lambda state: state.update({name: tensor})


BIAS = "decoder.fc_out.bias"
NOT_DENSE = f"contains entries that are not dense tensors: {BIAS}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("decoder.bn.bn.running_var"), "missing: decoder.norm_out.norm.running_var"),
        (drop("encoder.features.bn1.bias"), "missing: encoder.backbone.bn1.bias"),
        (drop("encoder.features.layer4.1.conv1.weight"), "missing: encoder.backbone.layer4.1.conv"),
        (drop("decoder.fc_p.bias"), "missing or empty: decoder.fc_p.bias"),
        (put("decoder.fc_p.bias", torch.tensor(1.0)), "missing or empty: decoder.fc_p.bias"),
        (put("decoder.fc_p.bias", torch.zeros(0)), "missing or empty: decoder.fc_p.bias"),
        (put("decoder.fc_z.weight", torch.ones(16, 8)), "left over: decoder.fc_z.weight"),
        (put("decoder.bn.fc_beta.bias", torch.ones(16)), "left over: decoder.bn.fc_beta.bias"),
        (
            put("encoder.fc.weight", torch.ones(9, 9)),
            "another shape: encoder.fc.weight float32 (9, 9)",
        ),
        (
            put("decoder.fc_p.bias", torch.ones(10**6)),
            "of another shape: decoder.block0.bn_0.bn.runn",
        ),
        (put(BIAS, torch.ones(1, dtype=torch.int64)), f"{BIAS} int64 (1,) for float32 (1,)"),
        (put(BIAS, torch.tensor([torch.nan])), f"not finite: {BIAS}"),
        (put(BIAS, torch.ones(1).to_sparse()), NOT_DENSE),
        (put(BIAS, torch.ones(1).expand(10**12)), NOT_DENSE),
        (put(BIAS, "bias"), NOT_DENSE),
    ],
)
def test_tensors_that_do_not_fit_are_listed(tmp_path, capsys, change, message):
    source = save(tmp_path / "a.pt", changed(change))
    assert main(["convert", str(source), "-o", str(tmp_path / "model")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {source}: ") and message in line
    assert not (tmp_path / "model").exists()


def test_long_lists_are_shortened(tmp_path):
    def without_blocks(state):
        drop(*[name for name in state if name.startswith("decoder.block3.")])(state)

    with pytest.raises(UserError, match=r"left over: decoder\.block4\.bn_0.* and 8 more"):
        convert_checkpoint(save(tmp_path / "a.pt", changed(without_blocks)))


class Hostile:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_files_are_refused(tmp_path, capsys, zipped):
    source, target = tmp_path / "a.pt", tmp_path / "made"
    content = {"model": onet_state(False, **SMALL), "extra": Hostile(target)}
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    assert main(["convert", str(source), "-o", str(tmp_path / "model")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "not loaded, because it contains posix.mkdir, not only tensors and numbers" in line
    assert not target.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_truncated_files_are_refused(tmp_path, capsys, share):
    source = save(tmp_path / "a.pt", onet_state(False, **SMALL))
    source.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    assert main(["convert", str(source), "-o", str(tmp_path / "model")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "not a readable checkpoint" in line and "is the download complete?" in line


def self_containing() -> list:
    entry: list = []
    entry.append(entry)
    return entry


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list instead of named weights"),
        (
            {},
            "not a checkpoint of occupancy_networks, Pix2Vox or Pix2Vox++; its first keys are none",
        ),
        ({"state_dict": {"a": torch.ones(1)}}, "its first keys are state_dict"),
        ({"model": 3}, "not a checkpoint of occupancy_networks, Pix2Vox or Pix2Vox++"),
        ({"model": {"decoder.fc_p.weight": torch.ones(4, 3)}}, "without image encoder"),
        (
            {"model": onet_state(False, (2, 2, 2, 1), width=16)},
            "its image encoder has (2, 2, 2, 1) residual blocks; only resnet18, resnet34",
        ),
        (
            {
                "model": onet_state(False, **SMALL),
                "loop": self_containing(),
                "ema": [torch.ones(1)],
            },
            "left over: tensors in ema",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError) as caught:
        convert_checkpoint(tmp_path / "a.pt")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "the name of the output folder is empty; give a folder"),
        ("file", "file/config.json: cannot be written, {here}/file is not a folder"),
        ("file/model", "file/model/config.json: cannot be written, {here}/file is not a folder"),
    ],
)
def test_folders_are_refused_before_anything_is_converted(
    tmp_path, monkeypatch, capsys, folder, message
):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr("occvae.convert.convert_checkpoint", lambda _: pytest.fail("too late"))
    assert main(["convert", "a.pt", "-o", folder]) == 2
    assert capsys.readouterr().err == f"error: {message.format(here=tmp_path)}\n"


def test_a_missing_file_is_refused(capsys):
    assert main(["convert", "nowhere.pt", "-o", "model"]) == 2
    assert capsys.readouterr().err == "error: nowhere.pt: no such file\n"
