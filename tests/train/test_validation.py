"""Validations: IoU by shape and category, what got worse, and the end of runs without a gain."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from occvae.train.checkpoint import Progress, list_checkpoints
from occvae.train.validation import Validation, Validator
from occvae.train.validation_report import describe_validation
from occvae.visualize.report.training import Drop
from tests.fakes import ball_model
from tests.tiny import TINY_RUN
from tests.train import validation_ranks
from tests.train.ranks import no_rank_left, start
from tests.train.runs import metrics, run, succeed

pytestmark = pytest.mark.usefixtures(no_rank_left.__name__)
CATEGORIES = {"a1": "apple", "a2": "apple", "b1": "bread", "c1": "cake"}
FIRST = Validation({"a1": 0.5, "a2": 0.7, "b1": 0.3, "c1": 0.9}, CATEGORIES)
BEFORE = Progress("onet", 10, 80, None, -1.0, 8)


def after_first() -> Progress:
    progress = replace(BEFORE)
    assert progress.record_validation(FIRST.iou, FIRST.shapes)
    return progress


def test_metrics_are_means_of_shapes_and_of_categories():
    assert FIRST.metrics() == pytest.approx(
        {
            "val/iou": 0.6,
            "val/category_mean": 0.6,
            "val/iou/apple": 0.6,
            "val/iou/bread": 0.3,
            "val/iou/cake": 0.9,
        }
    )


def test_the_largest_drops_come_first_and_small_ones_are_left_out():
    second = Validation({"a1": 0.4, "a2": 0.66, "b1": 0.05, "new": 0.1}, CATEGORIES | {"new": "x"})
    assert second.drops(FIRST.shapes) == [
        Drop("b1", "bread", 0.3, 0.05),
        Drop("a1", "apple", 0.5, 0.4),
    ]
    many = {f"s{number:02}": number / 100 for number in range(10, 40)}
    worst = Validation(dict.fromkeys(many, 0.0), dict.fromkeys(many, "x")).drops(many)
    assert [drop.id for drop in worst] == ["s39", "s38", "s37", "s36", "s35"]


def test_progress_keeps_the_shapes_of_the_best_validation():
    progress = after_first()
    progress.step = 20
    for count in (1, 2):
        assert not progress.record_validation(0.6, {"a1": 0.6})  # equal is not better
        assert progress.num_without_gain == count
    assert (progress.best_step, progress.best_shapes) == (10, FIRST.shapes)
    assert progress.record_validation(0.61, {"a1": 0.61})
    assert (progress.best_step, progress.best_shapes) == (20, {"a1": 0.61})
    assert progress.num_without_gain == 0


def test_the_lines_name_the_extremes_and_the_shapes_that_got_worse():
    assert describe_validation(FIRST, BEFORE, 10) == [
        "step 10: validation IoU 0.6000 (best), category mean 0.6000, "
        "lowest bread 0.30, highest cake 0.90"
    ]
    second = Validation({**FIRST.shapes, "b1": 0.1}, CATEGORIES)
    assert describe_validation(second, after_first(), 20) == [
        "step 20: validation IoU 0.5500, category mean 0.5333, "
        "lowest bread 0.10, highest cake 0.90",
        "  worse than at step 10: b1 0.30 -> 0.10",
    ]
    [line] = describe_validation(Validation({"a1": 0.5}, CATEGORIES), BEFORE, 10)
    assert line == "step 10: validation IoU 0.5000 (best)"


def expected_ious(validator: Validator) -> dict[str, float]:
    """Returns IoUs by id, computed in NumPy from the stored points."""
    model, ious = ball_model(), {}
    for number in validator.numbers:
        sample = validator.dataset[number]
        logits = model.predict_points(sample["images"][None] / 255.0, sample["points"][None])
        inside = logits[0].numpy() >= 0
        truth = sample["occupancies"].numpy() > 0.5
        ious[validator.dataset.ids[number]] = (inside & truth).sum() / (inside | truth).sum()
    return ious


def test_two_ranks_find_the_ious_of_all_shapes(tiny_dataset, tmp_path):
    files = [str(tiny_dataset), str(tmp_path / "found")]
    for rank in start(tmp_path, files, ranks=2, entry=validation_ranks.main):
        assert rank.status() == 0, rank.text()
    first, second = (json.loads((tmp_path / f"found-{rank}").read_text()) for rank in (0, 1))
    assert first == second

    validator = validation_ranks.make_validator(str(tiny_dataset))
    expected = expected_ious(validator)
    assert len(expected) == validation_ranks.NUM_SHAPES and len(set(expected.values())) > 3
    assert first["shapes"] == pytest.approx(expected, abs=1e-6)
    by_category = defaultdict(list)
    for number in validator.numbers:
        ids, categories = validator.dataset.ids, validator.dataset.categories
        by_category[categories[number]].append(expected[ids[number]])
    means = {f"val/iou/{name}": fmean(ious) for name, ious in by_category.items()}
    assert {"val/iou/even", "val/iou/odd"} == means.keys()
    found = first["metrics"]
    assert {name: found[name] for name in means} == pytest.approx(means, abs=1e-6)
    assert found["val/iou"] == pytest.approx(fmean(expected.values()), abs=1e-6)
    assert found["val/category_mean"] == pytest.approx(fmean(means.values()), abs=1e-6)


def test_the_sheet_shows_the_same_shapes_with_their_ious(tiny_dataset, tmp_path, monkeypatch):
    """Also a shape that was not validated gets its IoU."""
    rows = []
    monkeypatch.setattr(
        "occvae.train.validation.write_contact_sheet", lambda *arguments: rows.append(arguments[-1])
    )
    validator = validation_ranks.make_validator(str(tiny_dataset))
    for shapes in ({}, dict.fromkeys(validator.dataset.ids, 0.125)):
        validator.write_sheets(tmp_path, 3, ball_model(), shapes)
    measured, known = rows
    assert measured.keys() == known.keys() and len(known) == 6
    names = {number: validator.dataset.categories[number] for number in known}
    assert known == {number: f"{name}\nIoU 0.12" for number, name in names.items()}
    validator.numbers = list(known)
    expected = expected_ious(validator)
    for number, label in measured.items():
        iou = expected[validator.dataset.ids[number]]
        assert label == f"{names[number]}\nIoU {iou:.2f}"


IOUS = [0.3, 0.5, 0.4, 0.5, 0.2, 0.6]  # of the validations, one per step


def script_validations() -> None:
    """Replaces the IoUs of a run. Every shape has that of the validation, but the first 0.3."""
    from occvae.train.trainer import Trainer

    def measure(self, model):
        iou = IOUS[self.trainer.progress.step - 1]
        ious = torch.full((len(self.numbers),), iou, dtype=torch.float64)
        ious[0] = 0.3
        return ious

    create = Trainer.__init__

    def create_and_connect(self, *arguments, **options):
        create(self, *arguments, **options)
        self.validator.trainer = self

    Trainer.__init__, Validator.measure = create_and_connect, measure


STEPS = ["optim.steps=6", "validate_every=1", "save_every=100", "log_every=100", "stop_after=3"]


@pytest.fixture(scope="module")
def stopped(tiny_dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "stopped"
    [rank] = run(tiny_dataset, out, *TINY_RUN, *STEPS, prepare=script_validations)
    assert rank.status() == 0, rank.text()
    mean = next(line["val/iou"] for line in metrics(out) if line["step"] == 2)
    message = (
        f"stopped early at step 5: 3 validations without a higher IoU than {mean:.4f} of step 2"
    )
    assert message in rank.text()
    return out


def test_a_run_without_gains_ends_as_finished(stopped):
    assert [line["step"] for line in metrics(stopped) if "val/iou" in line] == [1, 2, 3, 4, 5]
    assert [folder.name for folder in list_checkpoints(stopped)] == ["step-0", "step-5"]
    for name, step in (("best", 2), ("last", 5)):
        assert json.loads((stopped / name / "config.json").read_text())["step"] == step


def test_the_files_of_a_run_tell_that_it_stopped_early(stopped):
    report = json.loads((stopped / "validation.json").read_text())
    shown = {"step": 5, "last_step": 6, "stopped_early": True, "best_step": 2}
    assert {name: report[name] for name in shown} == shown
    assert report["compared_with_step"] == 2 and len(report["worse"]) == 5
    assert report["worse"][0].items() >= {"before": 0.5, "now": 0.2}.items()
    page = (stopped / "index.html").read_text()
    assert "the last 3 validations had no higher IoU" in page
    assert "IoU at step 2" in page and report["worse"][0]["id"] in page


def test_an_early_end_is_resumed_only_on_request(stopped, tiny_dataset):
    before = (stopped / "index.html").read_text()
    [rank] = run(tiny_dataset, stopped, "--resume", prepare=script_validations)
    assert rank.status() == 0, rank.text()
    assert "stopped early at step 5; set stop_after=0 to continue" in rank.text()
    assert (stopped / "index.html").read_text() == before
    assert [folder.name for folder in list_checkpoints(stopped)] == ["step-0", "step-5"]

    succeed(tiny_dataset, stopped, "--resume", "stop_after=0", prepare=script_validations)
    assert [folder.name for folder in list_checkpoints(stopped)] == ["step-5", "step-6"]
    report = json.loads((stopped / "validation.json").read_text())
    # The resumed run still knows the shapes of step 2: the first stayed at 0.3, none got worse.
    assert report["best_step"] == 6 and report["compared_with_step"] == 2
    assert report["worse"] == [] and not report["stopped_early"]
    assert np.isclose(
        json.loads((stopped / "best" / "config.json").read_text())["val_iou"], 0.59, atol=0.02
    )
