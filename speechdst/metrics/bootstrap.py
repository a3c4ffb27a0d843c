"""Bootstrap confidence intervals over dialogues.

Turns of one dialogue share its cumulative state and its mistakes, so whole dialogues are drawn,
not turns (cluster bootstrap, percentile interval).
"""

import warnings
from collections.abc import Callable

import numpy as np
import scipy

SEED = 24
RESAMPLES = 1000


def ratio_interval(
    numerators: np.ndarray,
    denominators: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float] | None:
    """Interval of `sum(numerators) / sum(denominators)`, one entry per dialogue, [dialogues] each.

    Dialogues with nothing to count (0 of 0) are left out. None if fewer than two remain (one
    dialogue has no spread to resample), or if draws without any denominator make it undefined.
    """
    numerators = np.asarray(numerators, np.float64)
    denominators = np.asarray(denominators, np.float64)
    used = (numerators != 0) | (denominators != 0)
    counts = np.stack([numerators[used], denominators[used]])
    if not denominators.any():
        return None

    def ratio(sums):
        num, den = sums
        return np.divide(num, den, out=np.full_like(num, np.nan), where=den > 0)

    return interval(ratio, counts, confidence=confidence, resamples=resamples, seed=seed)


def interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float] | None:
    """Interval of a statistic of counts that are summed over dialogues.

    `counts` [kinds, dialogues]; `statistic`: sums [kinds, ...] -> values [...], nan where it is
    undefined. None if there are fewer than two dialogues or a draw leaves it undefined.
    """
    counts = np.asarray(counts, np.float64)
    if counts.shape[1] < 2:
        return None
    with warnings.catch_warnings():  # undefined draws are dealt with below
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            tuple(counts),
            lambda *drawn, axis=-1: statistic(np.stack([d.sum(axis) for d in drawn])),
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, 2_000_000 // counts.shape[1]),  # bounds memory at some 25 MB a kind
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def crossed(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Sums of counts over draws of both seeds and dialogues, [kinds, resamples].

    `counts` [kinds, seeds, dialogues]: seeds are drawn, and apart from them dialogues, so that an
    interval holds for other trainings and other dialogues (Owen 2007, "The pigeonhole bootstrap").
    """
    _, seeds, dialogues = counts.shape
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    of_dialogues = rng.multinomial(dialogues, np.full(dialogues, 1 / dialogues), resamples)
    return np.einsum("ksd,rs,rd->kr", counts.astype(np.float64), of_seeds, of_dialogues,
                     optimize=True)


def bounds(drawn: np.ndarray, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """The percentile interval of drawn values; draws that are undefined (nan) are left out as long
    as they are fewer than what the interval leaves out on one side."""
    defined = drawn[np.isfinite(drawn)]
    tail = (1 - confidence) / 2
    if len(defined) < (1 - tail) * len(drawn):
        return None, None
    return tuple(map(float, np.quantile(defined, (tail, 1 - tail))))
