"""The three tasks as branches: what is asked, what is right, and that prompts read the same."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from tiny_stories import builder, stories

from speechdst.data.auxiliary_trees import (
    PARTS,
    REPLY,
    TASKS,
    TaskContext,
    evidence,
    reasoning,
    said,
)
from speechdst.data.dialogue import Answer, Dialogue, Passage, Question, Turn
from speechdst.data.tree import Soft, Tokens, layout


def text(branch, end=None) -> str:
    return tiny.tokenizer().decode(branch.segments[-1].ids[:end])


def test_every_task_hangs_from_one_recording():
    for d in stories(6):
        (tree,) = builder().trees(d)
        assert len(tree.utterances) == len(d.turns)
        assert [b.task for b in tree.branches] == [0, 0, 1, 2]
        assert {b.after for b in tree.branches} == {len(tree.trunk)}
        assert sum(isinstance(s, Soft) for s in tree.trunk) == len(d.turns)
        (question,) = d.questions
        right = (question.clarification.questions[0] if question.ambiguous
                 else question.answers[0].text)
        assert text(tree.branches[-1], -1).strip() == right
        assert text(tree.branches[0], -1).strip() == d.turns[-1].text


def test_the_rationale_says_what_is_ambiguous_and_what_answers():
    seen = set()
    for d in stories(12):
        (question,), (passage,) = d.questions, d.passages
        target = json.loads(reasoning(question, passage))
        seen.add(question.ambiguous)
        assert target["ambiguous"] == ("yes" if question.ambiguous else "no")
        assert ("missing" in target) == bool(question.ambiguous)
        if question.ambiguous:
            assert target["missing"] == " or ".join(
                r.reply for r in question.clarification.readings)
            assert len(question.answers) == 2
        for sentence in [passage.text[slice(*a.span)] for a in question.answers]:
            assert sentence in target["evidence"]
    assert seen == {True, False}
    assert json.loads(reasoning(question, passage, why="so"))["because"] == "so"


def test_evidence_of_an_extractive_answer_is_its_sentence():
    passage = Passage("It rained. The denver broncos won. So they said.", 0, 0)
    question = Question("q", "who won", (Answer("denver broncos", (15, 29)),))
    assert evidence(question, passage) == "The denver broncos won."
    assert evidence(dataclasses.replace(question, answers=(Answer("rain"),)), passage) == ""
    assert reasoning(dataclasses.replace(question, answers=()), passage) == ""


def test_written_questions_share_one_recording():
    turns = tuple(Turn("narrator", t, features=np.ones((20, tiny.CHANNELS), np.float16))
                  for t in ("four stars please.", "and a taxi."))
    d = Dialogue("p", "spoken", "test", turns, (Passage("four stars please. and a taxi.", 0, 2),),
                 (Question("a", "how many", (Answer("four", (0, 4)),)),
                  Question("b", "what else", (Answer("taxi", (25, 29)),)),
                  Question("c", "why", ())))
    (tree,) = builder(listening=("request", "story")).trees(d)
    assert [b.task for b in tree.branches] == [0, 1, 2, 1, 2], "nobody answers the third"
    assert said(d, "story", d.questions[0]) == "four stars please. and a taxi."
    branches = [tiny.tokenizer().decode(b.segments[0].ids[1:]) for b in tree.branches]
    assert PARTS["story"] in branches[0]
    assert "how many" in branches[1] and "what else" in branches[4]
    assert "how many" not in branches[3]


def test_a_recognisers_text_that_fits_no_turn_is_still_the_storys():
    d = Dialogue("p", "spoken", "test", (Turn("narrator", ""),), (Passage("four stars", 0, 1),),
                 (Question("a", "how many", (Answer("four"),)),))
    assert said(d, "story", d.questions[0]) == "four stars"
    assert said(d, "conversation", d.questions[0]) == ""


def test_a_passage_that_is_given_as_text_is_read():
    heard = np.ones((20, tiny.CHANNELS), np.float16)
    d = Dialogue("p", "sd_qa", "test", (Turn("narrator", "four stars"),
                                        Turn("user", "how many", features=heard)),
                 (Passage("four stars", 0, 1),), (Question("a", "", (Answer("four"),), 1),))
    (tree,) = builder().trees(d)
    assert len(tree.utterances) == 1
    assert tiny.tokenizer().decode(tree.trunk[0].ids) == "NARRATOR: four stars\n"


def test_prompts_read_what_training_reads():
    for d in stories(4):
        build = builder()
        (tree,), (prompt, asked) = build.trees(d), build.prompt(d)
        assert prompt.trunk == tree.trunk
        assert [TASKS.index(a.task) for a in asked] == [b.task for b in tree.branches]
        for trained, prompted in zip(tree.branches, prompt.branches, strict=True):
            assert trained.segments[0] == prompted.segments[0]
            assert prompted.segments[1].ids == [tiny.tokenizer().eos]
        # What ends a prompt is the last token of its instruction.
        flat = layout(prompt)
        for i, branch in enumerate(prompt.branches):
            assert flat.tokens[flat.branch == i].tolist() == branch.segments[0].ids
            assert (flat.task[flat.branch == i] == branch.task).all()


def test_a_conversation_without_questions_is_replied_to():
    (d, *_) = stories(1)
    live = dataclasses.replace(d, questions=(), passages=())
    tree, asked = builder(tasks=("response",)).prompt(live)
    assert [(a.task, a.turn, a.target) for a in asked] == [("response", len(d.turns) - 1, "")]
    assert REPLY in tiny.tokenizer().decode(tree.branches[0].segments[0].ids[1:])
    assert not builder(tasks=("response",)).trees(live), "there is nothing to learn"


def test_a_turn_outside_the_limits_leaves_the_dialogue_out_of_training_only():
    (d, *_) = stories(1)
    assert not builder(max_seconds=0.1).trees(d)
    assert builder(max_seconds=0.1).prompt(d)[0].branches


def test_one_task_and_text_alone():
    (d, *_) = stories(1)
    (tree,) = builder("tokens", tasks=("response",)).trees(d)
    assert [b.task for b in tree.branches] == [2] and not tree.utterances
    assert all(isinstance(s, Tokens) for s in tree.trunk)
    assert [b.task for b in builder().only("listening", "story").trees(d)[0].branches] == [0]


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match=r"context\.tasks"):
        TaskContext(tasks=("singing",))
    with pytest.raises(ValueError, match=r"context\.listening"):
        TaskContext(listening=())
    with pytest.raises(ValueError, match=r"context\.kind"):
        TaskContext(kind="single")
