"""Means by category, macro and micro means, with bootstrap confidence intervals."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np

_DRAWN_AT_ONCE = 1 << 20


class Mean(TypedDict):
    """A mean and its confidence interval. The mean of a category also has its `count` of shapes."""

    mean: float
    interval: list[float]
    count: NotRequired[int]


class Summary(TypedDict):
    """The result of `summarize`."""

    per_category: dict[str, Mean]
    macro: Mean
    micro: Mean
    count: int


def summarize(
    values: Sequence[float] | np.ndarray,
    categories: Sequence[str],
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Returns the mean of each category, over categories (macro) and over shapes (micro).

    Intervals are percentiles of the bootstrap (Efron 1979), which draws shapes with replacement. It
    draws among all shapes for the micro mean, and within each category for the others. Intervals
    show how much a mean depends on the choice of test shapes, not on the training.

    Args:
        values: (S,) one value per shape.
        categories: (S,) category of each shape.
        confidence: confidence level of the intervals, between 0 and 1.
        num_resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        A dict of JSON values: `per_category` {name: {mean, interval, count}}, `macro` and `micro`
        {mean, interval}, and `count` of shapes.

    Raises:
        ValueError: there are no values, lengths differ, a value is not finite, or `confidence` is
            out of range. Failed shapes must count by the rule of the protocol instead of as NaN.
    """
    numbers, labels = np.asarray(values, np.float64), np.asarray(categories)
    _check(numbers, labels, confidence)
    rng = np.random.default_rng(seed)
    names = np.unique(labels)
    groups = [numbers[labels == name] for name in names]
    resampled = [_resampled_means(group, num_resamples, rng) for group in groups]
    return {
        "per_category": {
            str(name): {**_entry(group.mean(), means, confidence), "count": len(group)}
            for name, group, means in zip(names, groups, resampled, strict=True)
        },
        "macro": _entry(
            float(np.mean([group.mean() for group in groups])),
            np.mean(resampled, axis=0),
            confidence,
        ),
        "micro": _entry(numbers.mean(), _resampled_means(numbers, num_resamples, rng), confidence),
        "count": len(numbers),
    }


def _check(values: np.ndarray, categories: np.ndarray, confidence: float) -> None:
    if values.ndim != 1 or len(values) == 0 or categories.shape != values.shape:
        raise ValueError(
            "values and categories must be (S,) with S at least 1, "
            f"got {values.shape} and {categories.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"values must be finite, got {values[bad[0]]} at {bad[0]}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


def _resampled_means(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns (count,) means of resamples, computed in parts to bound memory."""
    size = len(values)
    rows = max(1, _DRAWN_AT_ONCE // size)
    parts = [
        values[rng.integers(0, size, (min(rows, count - start), size))].mean(axis=1)
        for start in range(0, count, rows)
    ]
    return np.concatenate(parts)


def _entry(mean: float, means: np.ndarray, confidence: float) -> Mean:
    tail = 0.5 * (1.0 - confidence)
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return {"mean": float(mean), "interval": [float(low), float(high)]}
