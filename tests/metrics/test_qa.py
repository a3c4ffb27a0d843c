import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdst.metrics import qa

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "qa.json").read_text("utf-8"))
TEXT = st.text("ab3 -.,the1é", max_size=12)
SPANS = st.one_of(TEXT, st.lists(TEXT, min_size=1, max_size=4))


@pytest.mark.parametrize("measure", ["drop", "squad"])
def test_equals_the_official_script(measure):
    cases = GOLDEN[measure]
    assert len(cases) > 80 and {f1 for *_, f1 in cases} >= {0.0, 1.0}
    for predicted, gold, exact, f1 in cases:
        assert getattr(qa, measure)(predicted, gold) == (exact, pytest.approx(f1, abs=1e-12)), (
            predicted, gold)


@given(SPANS, SPANS)
def test_bounds_and_the_order_of_spans(predicted, gold):
    exact, f1 = qa.drop_pair(predicted, gold)
    assert 0 <= f1 <= 1 and exact in (0, 1)
    assert qa.drop_pair(gold, gold)[0] == 1
    if isinstance(predicted, list):
        assert qa.drop_pair(predicted[::-1], gold) == (exact, f1)
    if exact and not isinstance(gold, list):
        assert f1 == 1


@given(TEXT, st.lists(TEXT, max_size=3))
def test_more_gold_answers_never_hurt(predicted, gold):
    for measure in (qa.drop, qa.squad):
        fewer, more = measure(predicted, gold[:-1]), measure(predicted, gold)
        assert all(a <= b for a, b in zip(fewer, more, strict=True))


def test_without_gold():
    assert qa.drop("x", []) == qa.squad("x", []) == (0.0, 0.0)
    assert qa.drop([], ["x"]) == (0.0, 0.0) and qa.drop("x", [""]) == (0.0, 0.0)
