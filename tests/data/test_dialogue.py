"""The record: its stored form, and what it refuses."""

import dataclasses

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.data.dialogue import (
    Answer,
    BadInput,
    Clarification,
    Dialogue,
    Passage,
    Question,
    Reading,
    Turn,
    from_bytes,
    to_bytes,
    validate,
)

ASK = Clarification(
    ("which kite", "do you mean the red kite"),
    (Reading("the red one", ("in the hall", "the hall")), Reading("the blue one", ("outside",))),
)
STORY = Dialogue(
    "d", "tiny", "test",
    (Turn("narrator", "a red kite is in the hall"), Turn("narrator", "a blue kite is outside"),
     Turn("user", "where is the kite")),
    (Passage("a red kite is in the hall a blue kite is outside", 0, 2),),
    (Question("q", "where is the kite", (Answer("the hall", (17, 25)),), 2, 0, True, ASK),
     Question("t", "what colour is it", (Answer("red", (2, 5)), Answer("blue"))),),
    {"dialect": "usa"},
)  # fmt: skip
TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


def changed(question: int = 0, **fields) -> Dialogue:
    questions = list(STORY.questions)
    questions[question] = dataclasses.replace(questions[question], **fields)
    return dataclasses.replace(STORY, questions=tuple(questions))


def test_a_story_with_questions_is_valid_and_comes_back():
    validate(STORY)
    assert from_bytes(to_bytes(STORY)) == STORY


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=4), ambiguous=st.sampled_from((None, False, True)))
def test_whatever_is_valid_comes_back(texts, ambiguous):
    passage = " ".join(texts)
    ask = Clarification(tuple(texts), (Reading(texts[0], tuple(texts)),)) if ambiguous else None
    answers = tuple(Answer(t, (0, len(t))) for t in texts)
    dialogue = Dialogue(
        "d", "tiny", "test", (*(Turn("narrator", t) for t in texts), Turn("user", texts[0])),
        (Passage(passage, 0, len(texts)),),
        tuple(Question(str(i), t, answers, len(texts) if i else None, 0, ambiguous, ask)
              for i, t in enumerate(texts)),
    )  # fmt: skip
    validate(dialogue)
    assert from_bytes(to_bytes(dialogue)) == dialogue


def test_records_without_questions_are_stored_as_before_and_old_ones_can_be_read():
    plain = Dialogue("d", "tiny", "test", (Turn("user", "hello"),))
    raw = msgpack.unpackb(to_bytes(plain))
    assert set(raw) == {"id", "corpus", "split", "turns"}
    assert from_bytes(msgpack.packb(raw)) == plain


@pytest.mark.parametrize(
    ("dialogue", "problem"),
    [
        (changed(answers=(Answer("the hall", (40, 60)),)), "outside its passage of 48"),
        (changed(answers=(Answer("the hall", (9, 9)),)), "outside its passage"),
        (changed(answers=(Answer(" "),)), "the answer is empty"),
        (changed(clarification=None), "without a clarification"),
        (changed(ambiguous=False), "that is not ambiguous"),
        (changed(clarification=Clarification((), ASK.readings)), "needs a question"),
        (changed(clarification=Clarification(("which",), (Reading("", ("a",)),))), "needs a"),
        (changed(clarification=Clarification(("which",), (Reading("a", ()),))), "needs a"),
        (changed(clarification=dataclasses.replace(ASK, meant=2)), "reading 2 of 2"),
        (changed(turn=0), "turn 0 is no user turn"),
        (changed(turn=9), "turn 9 is no user turn"),
        (changed(1, text=""), "neither written nor spoken"),
        (changed(1, id="q"), "appears twice"),
        (changed(passage=1), "passage 1 of 1"),
        (dataclasses.replace(STORY, passages=(Passage("a", 1, 4),), questions=()), "1 to 4 of 3"),
        (dataclasses.replace(STORY, passages=(Passage(" ", 0, 2),), questions=()), "no text"),
    ],
)
def test_what_breaks_the_rules_is_named(dialogue, problem):
    with pytest.raises(BadInput, match=problem) as found:
        validate(dialogue)
    assert "tiny/d" in str(found.value)
