"""Means and their intervals."""

import numpy as np
import pytest

from occvae.metrics import summarize


def test_means_are_by_category_over_categories_and_over_shapes():
    report = summarize([1.0, 2.0, 3.0, 10.0], ["a", "a", "a", "b"])
    assert report["count"] == 4
    assert report["macro"]["mean"] == 6.0 and report["micro"]["mean"] == 4.0
    entries = report["per_category"]
    assert {name: (row["mean"], row["count"]) for name, row in entries.items()} == {
        "a": (2.0, 3),
        "b": (10.0, 1),
    }
    assert entries["b"]["interval"] == [10.0, 10.0]
    low, high = report["macro"]["interval"]
    assert 5.5 <= low < 6.0 < high <= 6.5  # only a varies, by half
    low, high = report["micro"]["interval"]
    assert low < 2.0 and high > 7.0  # b may be drawn never or often


def test_intervals_cover_the_truth_as_often_as_their_confidence():
    rng = np.random.default_rng(0)
    names = np.array(["a", "b"] * 40)
    centers = np.where(names == "a", 0.2, 0.6)
    covered = {"macro": 0, "micro": 0}
    for _ in range(200):
        values = centers + rng.normal(0, 0.1, len(names))
        report = summarize(values, names, confidence=0.8, num_resamples=200)
        for key in covered:
            low, high = report[key]["interval"]
            covered[key] += low <= 0.4 <= high
    # Binomial(200, 0.8): standard deviation 5.7.
    assert 142 <= covered["macro"] <= 178
    # Drawing shapes regardless of category adds the spread between categories.
    assert covered["micro"] >= 190


def test_the_width_is_that_of_a_normal_distribution():
    values = np.random.default_rng(1).normal(0, 1, 2500)
    low, high = summarize(values, ["a"] * 2500)["micro"]["interval"]
    assert high - low == pytest.approx(2 * 1.96 / 50, rel=0.1)


def test_the_same_seed_gives_the_same_intervals():
    values, names = np.random.default_rng(2).random(30), ["a"] * 10 + ["b"] * 20
    assert summarize(values, names) == summarize(values, names)
    assert summarize(values, names) != summarize(values, names, seed=1)


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ([], [], "S at least 1"),
        ([1.0, 2.0], ["a"], "S at least 1, got"),
        ([1.0, np.nan], ["a", "a"], "must be finite, got nan at 1"),
    ],
)
def test_invalid_values_are_refused(values, names, message):
    with pytest.raises(ValueError, match=message):
        summarize(values, names)
    with pytest.raises(ValueError, match="confidence must be between"):
        summarize([1.0], ["a"], confidence=95)
