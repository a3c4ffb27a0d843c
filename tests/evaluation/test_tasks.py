"""Scores of the three tasks, from answers that are known."""

import dataclasses

import numpy as np
import pytest
import tiny_stories

from speechdst.evaluation import tasks
from speechdst.metrics.scores import Rate


def answered(change=lambda asked: asked.target, count=12):
    dialogues = tasks.questioned(tiny_stories.stories(count))
    build = tiny_stories.builder(listening=("request",))
    return [tasks.Answered(d, asked, change(asked)) for d in dialogues for asked in build.asked(d)]


def values(scores: dict[str, Rate]) -> dict[str, float]:
    return {name: rate.value for name, rate in scores.items()}


def test_what_is_right_scores_full_marks():
    found = values(tasks.score(answered()))
    assert found.pop("listening: request, WER") == 0
    assert len(found) == 8 and set(found.values()) == {100.0}


def test_silence_scores_nothing():
    found = values(tasks.score(answered(lambda asked: "")))
    assert found["listening: request, WER"] == 100
    # Who never asks back is right where nothing is ambiguous.
    clear = [not a.question.ambiguous for a in answered() if a.asked.task == "response"]
    accuracy = pytest.approx(100 * np.mean(clear))
    assert found.pop("response: action accuracy") == accuracy
    assert found.pop("reasoning: action accuracy") == accuracy
    del found["listening: request, WER"]
    assert set(found.values()) == {0.0}


def test_always_answering_never_asks():
    arm = tasks.commonest(answered())
    assert len({a.text for a in arm}) == 1 and {a.asked.task for a in arm} == {"response"}
    found = values(tasks.score(arm))
    assert found["response: action binary F1"] == 0 and found["response: exact match"] > 0


def test_scores_by_dialect():
    made = [dataclasses.replace(a, dialogue=dataclasses.replace(
        a.dialogue, groups={"dialect": "usa" if i % 2 else "nga"}))
        for i, a in enumerate(answered())]
    groups = tasks.by_group(made)
    assert set(groups["dialect"]) == {"nga", "usa"}
    wrong = [dataclasses.replace(a, text="no") if a.dialogue.groups["dialect"] == "usa" else a
             for a in made]
    found = tasks.by_group(wrong)["dialect"]
    assert found["nga"] == groups["dialect"]["nga"] and found["usa"] != groups["dialect"]["usa"]


def test_a_reasoning_answer_that_cannot_be_read_counts_as_no():
    assert tasks._fields('{"ambiguous":"yes"') == {"ambiguous": "yes"}
    assert tasks._fields("[1]") == tasks._fields("") == {}
    assert tasks._fields('{"ambiguous":3}') == {}


def test_deaf_dialogues_keep_their_lengths():
    (d, *_) = tiny_stories.stories(1)
    silent = tasks.deaf(d)
    for before, after in zip(d.turns, silent.turns, strict=True):
        assert before.features.shape == after.features.shape and np.ptp(after.features) == 0
    assert silent.questions == d.questions
