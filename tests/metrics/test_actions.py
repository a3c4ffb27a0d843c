import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdst.metrics.actions import NAMES, action_scores


def scores(should: str, asks: str) -> dict:
    """Of actions written as letters: q asks, a answers."""
    return action_scores([(str(i), s == "q", a == "q") for i, (s, a) in
                          enumerate(zip(should, asks, strict=True))], resamples=50)


def test_by_hand():
    # 3 asks among 8; 2 of them found, 1 question too many.
    got = scores("qqqaaaaa", "qqaqaaaa")
    assert got["accuracy"].value == pytest.approx(75) and got["accuracy"].count == 8
    assert got["precision"].value == got["recall"].value == pytest.approx(200 / 3)
    assert got["binary F1"].value == pytest.approx(200 / 3)
    answers = 100 * 2 * 4 / (2 * 4 + 1 + 1)  # F1 of the other class: 4 of 5 both ways
    assert got["macro F1"].value == pytest.approx((200 / 3 + answers) / 2)
    assert got["weighted F1"].value == pytest.approx((3 * 200 / 3 + 5 * answers) / 8)
    assert got["accuracy"].low < 75 < got["accuracy"].high


def test_one_sided_models():
    never, always = scores("qaaa", "aaaa"), scores("qaaa", "qqqq")
    assert [never[n].value for n in ("recall", "precision", "binary F1")] == [0, 0, 0]
    assert never["accuracy"].value == 75 and never["weighted F1"].value == pytest.approx(
        0.75 * 600 / 7)
    assert always["recall"].value == 100 and always["precision"].value == 25
    right = scores("qaqa", "qaqa")
    assert all(right[n].value == 100 for n in NAMES)
    assert right["accuracy"].low == right["accuracy"].high == 100


def test_nothing_to_count():
    assert all(r.value is None and r.count == 0 for r in action_scores([]).values())
    alone = action_scores([("d", True, True)])
    assert alone["recall"].value == 100 and alone["recall"].low is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_weighted_lies_between_the_classes(pairs):
    got = action_scores([("d", s, a) for s, a in pairs])
    other = 2 * got["macro F1"].value - got["binary F1"].value
    low, high = sorted([got["binary F1"].value, other])
    assert low - 1e-9 <= got["weighted F1"].value <= high + 1e-9
    assert all(0 <= got[n].value <= 100 for n in NAMES)
