"""How far somebody's labels can be trusted: agreement with what is known."""

from collections.abc import Sequence

import numpy as np
import scipy


def alpha(one: Sequence[int], other: Sequence[int]) -> float | None:
    """Krippendorff's alpha of two raters for categories, every unit rated by both (Krippendorff
    2011, "Computing Krippendorff's Alpha-Reliability", section B): 1 is perfect, 0 is chance; None
    if there is only one category, so that there is nothing to agree on."""
    values, counts = np.unique(np.concatenate([one, other]), return_counts=True)
    n = counts.sum()
    if len(values) < 2:
        return None
    observed = np.mean(np.not_equal(one, other))
    expected = 1 - float((counts * (counts - 1)).sum()) / (n * (n - 1))
    return float(1 - observed / expected)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's, ties shared; None if one of them is always the same."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(scipy.stats.spearmanr(one, other).statistic)
