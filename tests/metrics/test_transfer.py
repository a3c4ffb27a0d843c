import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.metrics import transfer
from speechdst.metrics.bootstrap import bounds, crossed

TURNS = np.full(80, 4)


def arm(rate, seeds=3, seed=0):
    return np.random.default_rng(seed).binomial(4, rate, (seeds, len(TURNS)))


def test_gap_closed_is_the_share_of_the_papers_table():
    # A1, A2 and B1 of the paper's table on one corpus, as turns of 1000: 15.1, 19.0, 28.6 %.
    turns = np.array([999, 1])
    arms = [(np.array([[n, 0]]), turns) for n in (151, 190, 286)]
    assert transfer.gap_closed(*arms)[0] == pytest.approx(0.289, abs=5e-4)


def test_gap_closed_may_be_of_counts_that_differ_by_arm():
    """Slot F1 of 1/5, 1/2 and 4/5, over two dialogues."""
    found = transfer.gap_closed(*((np.array([[a, b]]), np.array([[c, d]])) for a, b, c, d in (
        (2, 2, 8, 12), (4, 8, 8, 16), (6, 10, 10, 10))))
    assert found[0] == pytest.approx(0.5)
    assert transfer.percent(np.array([[4, 8]]), np.array([[8, 16]])) == (50.0, 50.0, 50.0)
    nothing = np.zeros((1, 2), int)
    assert transfer.percent(nothing, nothing) == (None, None, None)


def test_gap_closed_has_an_interval_and_none_where_there_is_no_gap():
    of = lambda *arms: transfer.gap_closed(*((arm, TURNS) for arm in arms))
    found = of(arm(0.2), arm(0.5, seed=1), arm(0.8, seed=2))
    assert found[1] < found[0] < found[2] and found == pytest.approx((0.5, 0.5, 0.5), abs=0.15)
    assert of(arm(0.5), arm(0.5), arm(0.2)) == (None, None, None)
    # Where target speech may well be no better the share is a number without an interval.
    value, low, high = of(arm(0.5), arm(0.6), arm(0.505, seed=5))
    assert (value is None) or (low, high) == (None, None)


def test_arms_are_compared_on_the_same_draw():
    """Dialogues of very different difficulty: each arm's interval is wide, their difference's is
    not."""
    hard = np.repeat([0, 3], 40)[None].repeat(3, 0)
    assert transfer.gain(hard + 1, hard, TURNS) == pytest.approx((25.0, 25.0, 25.0))
    _, low, high = transfer.percent(hard, TURNS)
    assert high - low > 10


def test_what_seeds_differ_in_widens_the_interval():
    same, apart = np.full((3, 80), 2), np.array([[1], [2], [3]]).repeat(80, 1)
    assert transfer.percent(same, TURNS) == (50.0, 50.0, 50.0)
    _, low, high = transfer.percent(apart, TURNS)
    assert low < 35 and high > 65


def test_drawn_sums_are_those_of_whole_seeds_and_dialogues():
    counts = np.stack([arm(0.4), np.broadcast_to(TURNS, (3, 80))])
    drawn = crossed(counts, 500)
    assert drawn.shape == (2, 500) and (drawn[1] == 3 * TURNS.sum()).all()
    assert drawn[0].mean() == pytest.approx(counts[0].sum(), rel=0.02)
    assert bounds(np.array([1.0, np.nan])) == (None, None)
    assert bounds(np.ones(100)) == (1.0, 1.0)


@settings(deadline=None, max_examples=25)
@given(low=st.floats(0, 40), rise=st.floats(10, 60), half=st.floats(10, 500))
def test_a_curve_is_found_again_from_its_points(low, rise, half):
    curve = transfer.Curve(low, low + rise, half)
    amounts = (0, 15, 75, 300, 1500)
    found = transfer.fit(amounts, [float(curve(n)) for n in amounts])
    assert found.high == pytest.approx(curve.high, abs=0.5)
    assert found.needed(low + rise / 2) == pytest.approx(half, rel=0.05)


def test_what_is_needed():
    curve = transfer.Curve(20.0, 80.0, 100.0)
    assert curve.needed(50.0) == 100.0 and curve.needed(10.0) == 0.0
    assert curve.needed(80.0) == float("inf")
    assert transfer.fit((0, 10, 100), (50.0, 40.0, 30.0)) is None


def test_smallest_amount_and_falls():
    good = {0: arm(0.2), 15: arm(0.22, seed=1), 75: arm(0.5, seed=2), 300: arm(0.7, seed=3)}
    assert transfer.smallest(good, TURNS) == 75 and transfer.falls(good, TURNS) == []
    assert transfer.smallest({0: arm(0.5), 15: arm(0.5)}, TURNS) is None
    assert transfer.falls({0: arm(0.2), 15: arm(0.7), 75: arm(0.3)}, TURNS) == [(15, 75)]
    curve, (value, low, high) = transfer.fitted(good, TURNS, 45.0)
    assert low <= value <= high and 15 < value < 300
    assert curve.needed(45.0) == value
