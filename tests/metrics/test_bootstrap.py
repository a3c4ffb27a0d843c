import numpy as np
import pytest

from speechdst.metrics.bootstrap import ratio_interval


def test_interval_covers_the_ratio_and_is_fixed_by_the_seed():
    rng = np.random.default_rng(1)
    den = rng.integers(1, 20, 400)
    num = rng.binomial(den, 0.3)
    low, high = ratio_interval(num, den)
    ratio = num.sum() / den.sum()
    # Binomial standard error is about 0.0072 over some 4000 turns: the interval is near +-2 of it.
    assert low < ratio < high and 0.02 < high - low < 0.04
    assert (low, high) == ratio_interval(num, den)
    assert (low, high) != ratio_interval(num, den, seed=3)


def test_dependent_turns_widen_the_interval():
    den = np.full(50, 10)
    apart = ratio_interval(np.full(50, 5), den)
    together = ratio_interval(np.repeat([0, 10], 25), den)  # dialogues all right or all wrong
    assert apart == (0.5, 0.5)
    assert together[1] - together[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(50), rel=0.2)


def test_too_little_to_resample():
    assert ratio_interval(np.array([1]), np.array([2])) is None
    assert ratio_interval(np.array([0, 0, 1]), np.array([0, 0, 2])) is None
    assert ratio_interval(np.array([1, 1]), np.array([0, 0])) is None
    assert ratio_interval(np.array([]), np.array([])) is None
