"""Whether a predicted uncertainty ranks the errors."""

import numpy as np
from scipy.stats import rankdata, spearmanr


def error_auroc(deviations: np.ndarray, wrong: np.ndarray) -> float | None:
    """Returns the probability that a wrong prediction has a larger deviation than a right one.

    It is the area under the ROC curve of the deviation as a detector of errors. Ties count as one
    half. 1 means that every wrong prediction is less certain than every right one, and 0.5 means
    that the deviation says nothing about errors.

    Args:
        deviations: (N,) standard deviations over hypotheses.
        wrong: (N,) bool, whether the prediction is wrong.

    Returns:
        The probability, or None if all predictions are right or all are wrong.
    """
    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return None
    ranks = rankdata(deviations)[wrong].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(wrong) - count)))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Returns Spearman's rank correlation of two (N,) arrays, or None if one is constant."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)
