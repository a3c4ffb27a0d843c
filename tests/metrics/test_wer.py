import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdst.metrics.normalize import transcript
from speechdst.metrics.wer import word_errors, word_errors_by


def test_counts_by_hand():
    # the cat sat / the bat sat down: 1 substitution, 1 insertion; "hello there" / "hello": 1
    # deletion. 3 errors of 5 words.
    got = word_errors([("The cat sat.", "the bat sat down"), ("Hello, there!", "hello")])
    assert (got.utterances, got.words, got.hits) == (2, 5, 3)
    assert (got.substitutions, got.deletions, got.insertions) == (1, 1, 1)
    assert got.rate == pytest.approx(60)


def test_empty_sides():
    assert word_errors([]).rate is None
    assert word_errors([("...", "")]).rate is None
    got = word_errors([("", "uh huh"), ("yes", "")])
    assert (got.words, got.insertions, got.deletions, got.rate) == (1, 2, 1, 300)
    assert word_errors([("", "uh")]).insertions == 1


def test_normalisation():
    assert transcript("It's 5-ish, O’Clock!") == "its 5 ish oclock"
    assert transcript("  Café\tCOTTO\n") == "café cotto"


def test_groups():
    got = word_errors_by([("b", "x y", "x"), ("a", "x", "x"), ("b", "z", "z")])
    assert list(got) == ["a", "b"]
    assert got["a"].rate == 0 and got["b"].rate == pytest.approx(100 / 3)


@given(st.lists(st.text(max_size=30), max_size=6))
def test_a_text_has_no_errors_against_itself(texts):
    got = word_errors((t, t) for t in texts)
    assert got.hits == got.words and got.substitutions + got.deletions + got.insertions == 0
