"""Scores by inputs of a model of mixtures."""

import json
import math

import numpy as np
import pytest
import torch

from occvae.cli.main import main
from occvae.errors import UserError
from occvae.evaluation import evaluate
from occvae.evaluation import inputs as module
from occvae.evaluation.inputs import evaluate_inputs, format_inputs_table, parse_inputs
from occvae.models import save_pretrained
from tests.fakes import tiny_model
from tests.models.test_mixture import inputs as random_inputs
from tests.models.test_mixture import queries, small_model

SETS = "images:1,images:2,points:50,scan,voxels,images:1+scan"

CHOSEN = {"num_shapes": 6, "threshold": 0.5}


@pytest.fixture(scope="module")
def model():
    """An untrained model with a predicted surface."""
    model = small_model()
    model(random_inputs(), queries())
    with torch.no_grad():
        model.decoder.linear_out.bias -= model.predict_points(random_inputs(), queries()).median()
    return model.eval()


@pytest.fixture(scope="module")
def report(model, tiny_cloud_dataset) -> dict:
    return evaluate_inputs(model, tiny_cloud_dataset, parse_inputs(SETS, model), **CHOSEN)


def test_every_set_has_scores_of_its_own(report, model, tiny_cloud_dataset):
    found = report["by_inputs"]
    assert list(found) == SETS.split(",")
    means = [entry["iou_voxels"]["micro"]["mean"] for entry in found.values()]
    assert len(set(means)) == len(means)
    one = evaluate(model, tiny_cloud_dataset, mesh_resolution=None, **CHOSEN)
    assert found["images:1"]["iou_voxels"] == one["metrics"]["iou_voxels"]
    assert found["images:1"]["shuffled_inputs"] == one["controls"]["shuffled_inputs"]
    assert report["mean_shape"] == one["controls"]["mean_shape"]
    for name, entry in found.items():
        assert 0.0 <= entry["error_auroc"]["micro"]["mean"] <= 1.0
        if name != "voxels":  # from which this model predicts nothing, with equal errors
            assert -1.0 <= entry["error_rank_correlation"] <= 1.0


def test_what_the_model_observes(model):
    sets = {given.name: given for given in parse_inputs(f"{SETS},scan:7", model)}
    kinds = {name: tuple(given.observation.kinds()) for name, given in sets.items()}
    assert kinds["images:1+scan"] == ("images", "points") and kinds["voxels"] == ("voxels",)
    assert sets["images:2"].num_views == 2
    points, scan = (sets[name].observation.points for name in ("points:50", "scan"))
    assert (points.num_points, points.scans, points.noise) == (50, 0.0, 0.005)
    assert (scan.num_points, scan.scans) == (300, 1.0)
    assert sets["scan:7"].observation.points.num_points == 7


def test_measures_of_a_known_posterior(model, tiny_cloud_dataset, monkeypatch):
    """All voxels are predicted as empty, and the deviation is 1 where they are not."""
    truths = []

    def uncertainty(model, observed, where, *_):
        truth = observed["voxels"].flatten()[where].float()
        truths.append(truth)
        return torch.full_like(truth, 0.25), truth

    monkeypatch.setattr(
        type(model),
        "predict_voxels",
        lambda self, observed, resolution: torch.zeros_like(observed["voxels"], dtype=torch.float),
    )
    monkeypatch.setattr(module, "_uncertainty", uncertainty)
    report = evaluate_inputs(model, tiny_cloud_dataset, parse_inputs("voxels", model), num_shapes=6)
    found = report["by_inputs"]["voxels"]
    shares = np.array([float(truth.mean()) for truth in truths])
    nll = -(shares * math.log(0.25) + (1.0 - shares) * math.log(0.75))
    assert found["iou_voxels"]["micro"]["mean"] == 0.0
    assert found["nll"]["micro"]["mean"] == pytest.approx(nll.mean(), rel=1e-5)
    assert found["error_auroc"]["micro"]["mean"] == 1.0
    assert found["error_rank_correlation"] is None  # all errors are equal
    row = format_inputs_table(report).splitlines()[2].split()
    assert row[:2] == ["voxels", "0.000"] and row[-2:] == ["1.000", "-"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image:1", r"--inputs image:1: expected images:N, points:N, scan, scan:N, voxels"),
        ("images", "--inputs images: expected"),
        ("images:0", "--inputs images:0: expected"),
        ("voxels:32", "--inputs voxels:32: expected"),
        ("scan+points:3", r"--inputs scan\+points:3: expected .* each kind of input once"),
        ("scan,,voxels", "--inputs : expected"),
        ("scan,scan", "--inputs scan,scan: a set of inputs is given twice"),
    ],
)
def test_wrong_sets_are_refused(model, text, message):
    with pytest.raises(UserError, match=message):
        parse_inputs(text, model)


def test_models_of_one_kind_are_refused():
    with pytest.raises(UserError, match="observes images only; leave it out"):
        parse_inputs("images:1", tiny_model())


def test_more_views_than_stored_are_refused(model, tiny_cloud_dataset):
    with pytest.raises(UserError, match="num_views must be between 1 and 4, .*; got 5"):
        evaluate_inputs(model, tiny_cloud_dataset, parse_inputs("images:5", model))


def test_the_command_prints_a_table(model, tiny_cloud_dataset, tmp_path, capsys):
    save_pretrained(model, tmp_path / "export")
    words = ["evaluate", "--model", str(tmp_path / "export"), "--data", str(tiny_cloud_dataset)]
    words += ["--shapes", "4", "--no-meshes", "--inputs", "images:1,images:1+scan"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "by inputs: voxel IoU" in out and "\nimages:1+scan  0." in out
    [path] = (tmp_path / "export").glob("evaluation-*inputs-images-1-images-1-scan.json")
    report = json.loads(path.read_text())["inputs"]
    assert list(report["by_inputs"]) == ["images:1", "images:1+scan"]
    assert main([*words, "--force", "--views", "1,2"]) == 2
    assert "give --inputs images:1,images:5 instead" in capsys.readouterr().err


def test_the_uncertainty_is_that_of_hypotheses(model):
    observed = {name: value[:1] for name, value in random_inputs().items()}
    where = torch.tensor([5, 900, 2000])
    found = module._uncertainty(model, observed, where, 16, seed=3)
    generator = torch.Generator().manual_seed(3)
    expected = model.predict_uncertainty(
        observed, module.NUM_HYPOTHESES, resolution=16, generator=generator
    )
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other.flatten()[where], rtol=1e-3, atol=1e-5)
