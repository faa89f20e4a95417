"""The registry of architectures, and suggestions for unknown names."""

import pytest

import occvae
from occvae.errors import UserError
from occvae.models import registry
from occvae.models.registry import create_model, list_models, model_options, register_model
from tests.fakes import tiny_options


def test_list_models_filters_by_pattern():
    assert {"onet", "vitocc"} <= set(list_models())
    assert list_models("vit*") == ["vitocc"]
    assert list_models("nothing*") == []
    assert occvae.list_models is list_models


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("vitoc", {}, "unknown arch 'vitoc'; did you mean vitocc"),
        ("transformer", {}, "unknown arch 'transformer'; choose from .*onet.*vitocc"),
        ("", {}, "unknown arch ''; choose from"),
        ("onet", {"hiden_size": 8}, "onet has no option 'hiden_size'; did you mean hidden_size"),
        ("onet", {"decoder": "cbm"}, "unknown decoder 'cbm'; choose from cbn, cnn"),
        ("onet", {"threshold": 1.0}, "threshold must be a probability between 0 and 1, got 1.0"),
        ("onet", {"threshold": float("nan")}, "threshold must be a probability"),
    ],
)
def test_mistakes_give_one_line_with_near_names(arch, options, message):
    with pytest.raises(UserError, match=message) as caught:
        create_model(arch, **options)
    assert "\n" not in str(caught.value)


def test_a_models_options_build_it_again():
    model = create_model("vitocc", **tiny_options())
    assert model.training
    assert (model.arch, model.options) == ("vitocc", model.options | tiny_options())
    assert model.options.keys() == model_options("vitocc").keys()
    assert model_options("vitocc").keys() >= tiny_options().keys()


def test_registering_adds_a_name_once(monkeypatch):
    monkeypatch.setattr(registry, "_ARCHITECTURES", {})

    def some_net():
        """A builder that is never called."""

    assert register_model(some_net) is some_net
    assert list_models() == ["some-net"]
    with pytest.raises(ValueError, match="'some-net' is registered twice"):
        register_model(some_net)
