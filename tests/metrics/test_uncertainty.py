"""Measures of how an uncertainty ranks errors."""

import numpy as np
import pytest

from occvae.metrics.uncertainty import error_auroc, rank_correlation


def test_auroc_counts_ordered_pairs():
    rng = np.random.default_rng(0)
    deviations, wrong = rng.integers(0, 5, 40) / 5.0, rng.random(40) < 0.4
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high in deviations[wrong]
        for low in deviations[~wrong]
    ]
    assert error_auroc(deviations, wrong) == pytest.approx(np.mean(pairs))
    assert error_auroc(wrong.astype(float), wrong) == 1.0
    assert error_auroc(np.zeros(40), wrong) == 0.5
    assert error_auroc(deviations, np.zeros(40, bool)) is None
    assert error_auroc(deviations, np.ones(40, bool)) is None


def test_rank_correlation_is_that_of_the_ranks():
    values = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    assert rank_correlation(values, values**3) == pytest.approx(1.0)
    assert rank_correlation(values, -values) == pytest.approx(-1.0)
    ranks = np.array([3, 1, 4, 2, 5])
    other = np.array([2, 1, 5, 4, 3])
    expected = np.corrcoef(ranks, other)[0, 1]
    assert rank_correlation(values, other) == pytest.approx(expected)
    assert rank_correlation(values, np.ones(5)) is None
    assert rank_correlation(values[:2], values[:2]) is None
