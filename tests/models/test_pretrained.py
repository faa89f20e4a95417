"""Exports load as the same model, and errors name broken files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from occvae.errors import UserError
from occvae.models import create_model, from_pretrained, save_pretrained
from occvae.models.pretrained import CONFIG, WEIGHTS, find_export
from tests.fakes import tiny_model, tiny_options, tiny_voxel_model


@pytest.fixture
def export(tmp_path) -> Path:
    save_pretrained(tiny_model(), tmp_path / "export", step=7)
    return tmp_path / "export"


def test_round_trip_gives_equal_outputs(tmp_path):
    model = tiny_model(threshold=0.4)
    images, points = torch.rand(2, 1, 3, 32, 32), torch.rand(2, 9, 3) - 0.5
    model(images, points)  # running statistics other than the initial ones
    save_pretrained(model, tmp_path / "a" / "b")
    loaded = from_pretrained(tmp_path / "a" / "b")
    assert not loaded.training
    assert (loaded.arch, loaded.threshold) == ("vitocc", 0.4)
    assert torch.equal(loaded(images, points), model.eval()(images, points))
    assert {file.name for file in (tmp_path / "a" / "b").iterdir()} == {CONFIG, WEIGHTS}


def test_half_precision_halves_the_file_and_keeps_the_outputs(tmp_path):
    model = tiny_model()
    images, points = torch.rand(2, 1, 3, 32, 32), torch.rand(2, 99, 3) - 0.5
    model(images, points)
    for half in (False, True):
        save_pretrained(model, tmp_path / str(half), half=half)
    sizes = [(tmp_path / str(half) / WEIGHTS).stat().st_size for half in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = from_pretrained(tmp_path / "True")
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    with torch.no_grad():
        expected = model.eval()(images, points)
        torch.testing.assert_close(loaded(images, points), expected, atol=2e-3, rtol=2e-3)
    stored, whole = (load_file(tmp_path / name / WEIGHTS) for name in ("True", "False"))
    vectors = [name for name, value in whole.items() if value.dim() < 2]
    assert vectors and all(torch.equal(stored[name], whole[name]) for name in vectors)


def test_an_encoder_is_copied_from_an_export(tmp_path):
    source = tiny_model()
    save_pretrained(source, tmp_path / "run" / "best")
    torch.manual_seed(1)
    options = {**tiny_options(), "encoder_weights": str(tmp_path / "run")}
    model = create_model("vitocc", **options, threshold=0.4)
    expected = source.encoder.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.encoder.state_dict().items())
    assert not torch.equal(model.decoder.linear_in.weight, source.decoder.linear_in.weight)


def test_an_encoder_of_another_size_is_refused(tmp_path):
    save_pretrained(tiny_model(), tmp_path)
    options = {**tiny_options(), "encoder_weights": str(tmp_path), "embedding_size": 8}
    with pytest.raises(UserError, match="safetensors: does not fit this encoder .*size.* set enc"):
        create_model("vitocc", **options)


def test_metadata_is_kept_and_sources_of_weights_are_not(tmp_path):
    model = tiny_model()
    model.options = {**model.options, "pretrained": True, "encoder_weights": "/gone.pth"}
    save_pretrained(model, tmp_path, step=7, metrics={"iou": 0.5})
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["arch"], config["step"], config["metrics"]) == ("vitocc", 7, {"iou": 0.5})
    assert not {"pretrained", "encoder_weights"} & config["options"].keys()
    from_pretrained(tmp_path)


def test_the_files_have_the_mode_of_other_new_files(export):
    (export / "other").touch()
    assert len({file.stat().st_mode for file in export.iterdir()}) == 1


def test_saving_replaces_an_export(export):
    other = tiny_model(num_blocks=2)
    save_pretrained(other, export)
    assert from_pretrained(export).state_dict().keys() == other.state_dict().keys()


def test_a_run_folder_gives_best_or_else_last(tmp_path):
    for name, threshold in (("last", 0.2), ("best", 0.4)):
        save_pretrained(tiny_model(threshold=threshold), tmp_path / name)
        assert from_pretrained(tmp_path).threshold == threshold
    assert find_export(tmp_path) == tmp_path / "best"
    assert find_export(tmp_path / "last" / WEIGHTS) == tmp_path / "last"
    (tmp_path / "best" / WEIGHTS).unlink()  # an incomplete export is skipped
    assert find_export(tmp_path) == tmp_path / "last"


@pytest.mark.parametrize("gone", [CONFIG, WEIGHTS])
def test_missing_files_are_refused(export, gone):
    (export / gone).unlink()
    with pytest.raises(UserError, match=f"export: holds no {CONFIG} with {WEIGHTS}; give an"):
        from_pretrained(export)
    with pytest.raises(UserError, match="nowhere: no such run or export; give the folder"):
        from_pretrained(export / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a model description"),
        (b"{", "not a model description"),
        (b"\xff\x00", "not a model description"),
        (b"[1]", "not a model description"),
        (b"null", "not a model description"),
        (b'{"arch": "vitocc"}', "not a model description"),
        (b'{"arch": "vitocc", "options": 3}', "not a model description"),
        (b'{"arch": "vitocc", "options": {"hidden_size": "big"}}', "not a model description"),
        (b'{"arch": "nerf", "options": {}}', "unknown arch 'nerf'"),
        (b'{"arch": ["vitocc"], "options": {}}', "not a model description"),
        (b'{"arch": "onet", "options": {"depth": 3}}', "onet has no option 'depth'"),
    ],
)
def test_broken_configs_are_refused(export, content, message):
    (export / CONFIG).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        from_pretrained(export)
    assert "\n" not in str(caught.value)


def test_exports_with_earlier_option_names_load(tmp_path):
    model = tiny_voxel_model(background_gray=240, normalization="symmetric")
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    options = config["options"]
    options["backdrop"] = options.pop("background_gray")
    options["normalisation"] = options.pop("normalization")
    (tmp_path / CONFIG).write_text(json.dumps(config))
    loaded = from_pretrained(tmp_path)
    assert (loaded.options, loaded.background_gray) == (model.options, 240)


@pytest.mark.parametrize("keep", [0, 5, 1000, -10])
def test_truncated_weights_are_refused(export, keep):
    path = export / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"{WEIGHTS}: not readable .*; export it again") as caught:
        from_pretrained(export)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"hidden_size": 16}, {"num_blocks": 2}, {"decoder": "cnn"}])
def test_weights_of_another_architecture_are_refused(export, change):
    config = json.loads((export / CONFIG).read_text())
    config["options"] |= change
    (export / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"{WEIGHTS}: does not fit vitocc: ") as caught:
        from_pretrained(export)
    assert "\n" not in str(caught.value)
