"""Settings come from a preset, then a file, then overrides; mistakes are named."""

import pytest

from occvae.cli.main import main
from occvae.errors import UserError
from occvae.models import list_models
from occvae.models.presets import presets_of
from occvae.train.config import TrainConfig
from occvae.train.config_file import format_config
from occvae.train.main import _ensure_data
from occvae.train.run_options import RunOptions, configure


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.yaml"


def configured(file, text: str, *overrides: str, **options) -> TrainConfig:
    file.write_text(text)
    return configure(RunOptions(config=str(file), overrides=overrides, **options))


def test_the_file_replaces_the_preset_and_overrides_replace_the_file(file):
    text = "optim:\n  lr: 3e-4\n  steps: 7\ndata.num_points: 16\nfrozen: [encoder]\n"
    config = configured(file, text, "optim.steps=8", preset="cpu-small", data="there")
    assert (config.optim.lr, config.optim.steps, config.data.num_points) == (3e-4, 8, 16)
    assert config.optim.batch_size == 32  # of the preset
    assert config.frozen == ("encoder",) and config.data.root == "there"


def test_model_options_of_the_file_are_added_to_those_of_the_preset(file):
    preset = configure(RunOptions(arch="onet", preset="cpu-small")).model
    config = configured(file, "model: {num_blocks: 1}", arch="onet", preset="cpu-small")
    assert preset and config.model == {**preset, "num_blocks": 1}


@pytest.mark.parametrize(
    ("text", "options", "arch"),
    [
        ("arch: onet", {}, "onet"),
        ("arch: onet", {"arch": "pix2vox-f"}, "pix2vox-f"),
        ("", {"arch": "onet"}, "onet"),
        ("", {}, "vitocc"),
    ],
)
def test_the_preset_belongs_to_the_architecture(file, text, options, arch):
    config = configured(file, text, preset="cpu-small", **options)
    assert config == configure(RunOptions(arch=arch, preset="cpu-small"))
    overridden = configured(file, text, f"arch={arch}", preset="cpu-small", **options)
    assert overridden == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1", r"unknown setting lr; did you mean optim\.lr\?"),
        ("optim: {rate: 1}", r"unknown setting optim\.rate; choose from"),
        ("optim.rate: 1", r"unknown setting optim\.rate; choose from"),
        ("model: {hidden: 1}", r"unknown setting model\.hidden for vitocc"),
        ("optim: {lr: fast}", r"optim\.lr = 'fast'"),
        ("optim:", "optim is a section"),
        ("arch: 3", "arch must be a name, got 3"),
        ("arch: vitoc", "unknown arch 'vitoc'; did you mean vitocc"),
        ("seed: 1\nseed: 2", "line 2: seed occurs twice"),
        ("optim: {lr: 1}\noptim.lr: 2", r"optim\.lr occurs twice"),
        ("- lr", "expected settings such as"),
        ("1: 2", "expected settings such as"),
        ("a: [", "line 1: "),
        ("a: !!python/object:os.system 1", "line 1: could not determine a constructor"),
        ("\0", "is not a YAML file"),
    ],
)
def test_mistakes_in_a_file_are_one_line(file, text, message):
    with pytest.raises(UserError, match=message) as caught:
        configured(file, text, preset="cpu-small")
    assert "\n" not in str(caught.value)
    if "arch" not in text:
        assert str(caught.value).startswith(f"--config {file}: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read \(No such file"):
        configure(RunOptions(config=str(tmp_path / "nowhere.yaml")))


@pytest.mark.parametrize("arch", list_models())
def test_printed_settings_are_complete(file, arch):
    """Read under another preset, they give the same settings."""
    for preset in presets_of(arch):
        printed = format_config(configure(RunOptions(arch=arch, preset=preset)))
        assert format_config(configured(file, printed, preset="cpu-small")) == printed
        assert format_config(configured(file, printed, preset="default")) == printed


def test_print_config_prints_and_does_not_train(tmp_path, monkeypatch, capsys, file):
    monkeypatch.chdir(tmp_path)
    options = ["--preset", "default-fusion", "--arch", "pix2vox-a", "optim.lr=1e-5"]
    assert main(["train", *options, "--print-config"]) == 0
    file.write_text(capsys.readouterr().out)
    assert main(["train", "--config", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == file.read_text()
    assert "lr: 1.0e-05\n" in file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("option", [{"preset": "default"}, {"config": "a"}, {"print_config": True}])
def test_a_resumed_run_keeps_its_settings(option):
    with pytest.raises(UserError, match="cannot be combined with --resume"):
        RunOptions(resume=True, **option).check()


def test_the_size_of_the_embedded_dataset_is_printed_before_it_is_built(
    tmp_path, monkeypatch, capsys
):
    def build(root):
        printed.append(capsys.readouterr().out)

    printed = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("occvae.data.build.build_default", build)
    _ensure_data("data/procedural", named=False)
    [text] = printed
    assert text.startswith(
        "data/procedural: building the embedded dataset of 768 shapes (about 650"
    )
    assert " min on " in text and text.endswith("--data FOLDER trains on another dataset\n")
