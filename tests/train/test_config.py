"""Overrides are typed, every mistake names its setting, and every setting is documented."""

import json
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

import pytest

from occvae.errors import UserError
from occvae.models import list_models
from occvae.models.presets import presets_of
from occvae.train.compiler import check_compiler
from occvae.train.config import DataConfig, OptimConfig, TrainConfig, apply_overrides, from_dict
from occvae.train.presets import make_preset
from occvae.train.schedule import warmup_cosine, warmup_halved
from occvae.train.settings import list_settings


def test_overrides_take_the_declared_types():
    config = apply_overrides(
        make_preset("default", "vitocc"),
        ["optim.lr=3e-4", "optim.steps=7", "model.hidden_size=64", "model.pretrained=true"],
    )
    assert (config.optim.lr, config.optim.steps) == (3e-4, 7)
    assert config.model == {"hidden_size": 64, "pretrained": True}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=fast", r"optim\.lr = 'fast': .*number"),
        ("optim.steps=1.5", r"optim\.steps = 1\.5: .*integer"),
        ("optim.steps=0", r"optim\.steps must be positive, got 0"),
        ("optim.learning=1", "unknown setting optim.learning; choose from steps, batch_size"),
        ("optim.lr=NaN", "optim.lr must be positive, got nan"),
        ("seed=-1", "seed must not be negative, got -1"),
        ("lr=1", r"unknown setting lr; did you mean optim\.lr\?$"),
        ("num_points=1", r"unknown setting num_points; did you mean data\.num_points\?$"),
        ("hidden_size=1", r"unknown setting hidden_size; did you mean model\.hidden_size\?$"),
        ("data.lr=1", r"unknown setting data\.lr; did you mean optim\.lr\?$"),
        ("model=3", "model is a section; set model.NAME=value"),
        ("arch=3", "arch = 3: expected the name"),
        ("optimizer.lr=1", "unknown setting optimizer; did you mean optim"),
        ("optim=3", "optim is a section"),
        ("optim.lr.x=3", "optim.lr is not a section"),
        ("lr", "not of the form"),
        (
            "model.hidden=64",
            "unknown setting model.hidden for vitocc; did you mean model.hidden_size",
        ),
        ("model.hidden_size=big", r"model\.hidden_size = 'big': .*integer"),
        ("precision=fp8", "precision = 'fp8'"),
        ("zero_stage=4", "zero_stage = 4"),
        ("arch=vitoc", "unknown arch 'vitoc'; did you mean vitocc"),
    ],
)
def test_mistakes_are_one_line_that_names_the_setting(override, message):
    with pytest.raises(UserError, match=message) as caught:
        apply_overrides(make_preset("default", "vitocc"), [override])
    assert "\n" not in str(caught.value)


PRESETS_OF_ARCHS = [(preset, arch) for arch in list_models() for preset in presets_of(arch)]


@pytest.mark.parametrize(("preset", "arch"), PRESETS_OF_ARCHS)
def test_presets_survive_their_own_serialization(preset, arch):
    config = make_preset(preset, arch)
    assert from_dict(config.to_dict()) == config


def test_fusion_presets_train_on_several_views():
    config = make_preset("default-fusion", "pix2vox-a")
    assert config.frozen == ("encoder", "decoder")
    assert (config.data.num_views, config.data.min_views) == (5, 1)
    assert config.optim.steps == make_preset("default", "pix2vox-a").optim.steps * 2 // 5
    assert make_preset("default-fusion", "pix2vox-f").data.min_views == 2


@pytest.mark.parametrize("arch", ["vitocc", "onet", "pix2vox-vae", "pix2voxpp-vae"])
def test_fusion_presets_are_refused_for_models_without_a_merger(arch):
    message = (
        f"preset 'cpu-small-fusion' is not for {arch}, but for pix2vox-a, pix2vox-f, pix2voxpp-a"
    )
    with pytest.raises(UserError, match=f"^{message}, pix2voxpp-f$"):
        make_preset("cpu-small-fusion", arch)


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="unknown preset 'gpu'"):
        make_preset("gpu", "vitocc")


@pytest.mark.parametrize("other", ["activation_checkpointing=true", "zero_stage=3"])
def test_compiling_excludes_what_changes_the_blocks(other):
    with pytest.raises(UserError, match="compile=true cannot be combined with"):
        apply_overrides(make_preset("default", "vitocc"), ["compile=true", other])


def test_a_missing_compiler_is_reported(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^compile=true needs a C\+\+ compiler, not found here; set"
    ):
        check_compiler("cpu")
    with pytest.raises(
        UserError, match=r"needs a C\+\+ compiler and the package triton, not found"
    ):
        check_compiler("cuda")
    monkeypatch.setenv("CXX", "mycc")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler \(CXX is mycc\), not found"):
        check_compiler("cpu")


def test_the_cosine_schedule_rises_and_falls():
    factor = warmup_cosine(10, 110)
    assert factor(0) == pytest.approx(0.1)
    assert factor(10) == pytest.approx(1.0)
    assert factor(60) == pytest.approx(0.5)
    assert factor(110) == pytest.approx(0.0)


def test_the_halved_schedule_rises_and_halves():
    factor = warmup_halved(10, 100)
    assert [factor(step) for step in (0, 9, 10, 59, 60, 99)] == [0.1, 1.0, 1.0, 1.0, 0.5, 0.5]


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "training.md"
SECTIONS = {TrainConfig: "", DataConfig: "data.", OptimConfig: "optim."}


def test_every_setting_is_documented():
    names = {prefix + field.name for kind, prefix in SECTIONS.items() for field in fields(kind)}
    assert {setting.name for setting in list_settings()} == names


def test_documented_defaults_are_the_defaults():
    config = TrainConfig()
    for setting in list_settings():
        if setting.type == "section":
            continue
        default = attrgetter(setting.name)(config)
        text = setting.default.partition(" (")[0]
        found = default if text == str(default) else json.loads(text)
        assert found == (list(default) if isinstance(default, tuple) else default), setting.name


def test_the_guide_lists_every_setting_as_documented():
    lines = GUIDE.read_text().splitlines()
    for setting in list_settings():
        cells = [f"`{setting.name}`", setting.type, setting.unit, setting.default, setting.meaning]
        assert f"| {' | '.join(cells)} |" in lines
