"""Words to frames and back."""

import re

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from speechdst.data.dialogue import BadInput, Word
from speechdst.data.text_stream import TextStream
from speechdst.data.tokenizer import Tokenizer, train

PAD, EPAD = 3, 0
SHIFT = TextStream(12.5, PAD, EPAD)
CUT = TextStream(12.5, PAD, EPAD, overflow="cut")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train([*tiny.USER, *tiny.AGENT] * 3, [], 320))


@pytest.mark.parametrize(("rule", "words", "expected"), [
    (SHIFT, [(2, [7, 8])], "PE78PP"),
    (SHIFT, [(0, [7, 8])], "E78PPP"),
    (SHIFT, [(1, [7]), (3, [8])], "E7E8PP"),
    (SHIFT, [(1, [7, 8, 9]), (2, [5]), (5, [6])], "E78956"),
    (SHIFT, [(3, [7, 8, 9]), (4, [5])], "PPE789"),
    (CUT, [(1, [7, 8, 9]), (2, [5]), (5, [6])], "E75PE6"),
    (CUT, [(0, [7]), (0, [8, 9])], "E89PPP"),
    (SHIFT, [(6, [7])], "PPPPPP"),
])
def test_rules(rule, words, expected):
    named = {"P": PAD, "E": EPAD}
    assert rule.place(words, 6).tolist() == [named[c] if c in named else int(c) for c in expected]


@given(st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(4, 20), min_size=1, max_size=5)),
                max_size=8), st.integers(1, 30))
def test_no_rule_loses_order_or_adds_a_word(gaps, frames):
    starts = np.cumsum([g for g, _ in gaps]).tolist()
    words = [(s, ids) for s, (_, ids) in zip(starts, gaps, strict=True) if s < frames]
    for rule in (SHIFT, CUT):
        stream = rule.place(words, frames)
        assert stream.shape == (frames,)
        said = [t for t in stream.tolist() if t not in (PAD, EPAD)]
        every = [t for _, ids in words for t in ids]
        if rule is SHIFT:
            assert said == every[: len(said)]
            room = sum(len(ids) for _, ids in words) + max([1, *(s for s, _ in words)]) <= frames
            assert said == every or not room
        # EPAD is always followed by a word; a word is not announced by PAD.
        for now, then in zip(stream, [*stream[1:], PAD], strict=True):
            assert (now == EPAD) <= (then not in (PAD, EPAD))
            assert (now == PAD) <= (then in (PAD, EPAD))
        if rule is CUT:  # every word that is not cut off at once starts in its frame
            last = {max(s, 1): ids for s, ids in words}
            for s, ids in last.items():
                assert s >= frames or stream[s] == ids[0]


@given(st.data())
def test_words_come_back_with_their_times(tokenizer, data):
    vocabulary = sorted({w.strip(",") for text in tiny.USER for w in text.split()})
    texts = data.draw(st.lists(st.sampled_from(vocabulary), max_size=6))
    words, at = [], 1
    for text in texts:
        at += data.draw(st.integers(0, 3))
        n = len(tokenizer.words(text))
        words.append(Word(text, at / 12.5, (at + n) / 12.5))
        at += n
    for rule in (SHIFT, CUT):
        stream = rule.build(words, tokenizer, at + 1)
        found = rule.words(stream, tokenizer)
        assert [w.text for w in found] == texts
        np.testing.assert_allclose([(w.start, w.end) for w in found],
                                   [(w.start, w.end) for w in words])


def test_bad_words_are_named(tokenizer):
    for words, text in (
            ([Word("yes", 1.0, 1.2), Word("no", 0.5, 0.7)], r"words\[1\]: 'no' from 0.5 .* 1.00 s"),
            ([Word("yes", 4.0, 4.2)], "to 4.00 s"),
            ([Word(" ", 0.0, 0.2)], "some text"),
            ([Word("yes", 1.0, 0.2)], "an end behind")):
        with pytest.raises(BadInput) as error:
            SHIFT.build(words, tokenizer, 50)
        assert re.search(text, str(error.value)), str(error.value)
    taken = tokenizer.words("yes")[0]
    with pytest.raises(BadInput, match="stands for padding"):
        TextStream(12.5, taken, EPAD).build([Word("yes", 0.0, 1.0)], tokenizer, 50)
