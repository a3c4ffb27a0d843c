"""Rationales: asked once each, kept with where they come from, and part of the target."""

import dataclasses
import json

import pytest
import tiny_stories
from chat_server import serve, status

from speechdst import rationales
from speechdst.data.auxiliary_trees import reply
from speechdst.data.dialogue import BadInput


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as made:
        yield made


def test_every_question_is_asked_once_and_failures_are_counted(server, tmp_path):
    server.reply = lambda request: "  Two kites\n are there. "
    server.faults = [None, status(500)]
    dialogues = tiny_stories.stories(4, clarified=False)
    made, failed = rationales.write(dialogues, server.client(tmp_path, attempts=1))
    assert failed == {"http 500": 1} and sum(map(len, made.values())) == 3
    assert set(made[dialogues[0].id].values()) == {"Two kites are there."}
    asked = server.requests[0]["messages"][0]["content"][0]["text"]
    assert dialogues[0].passages[0].text in asked and dialogues[0].turns[-1].text in asked
    assert reply(dialogues[0].questions[0]) in asked
    made, failed = rationales.write(dialogues, server.client(tmp_path, attempts=1))
    assert not failed and len(made) == 4 and len(server.requests) == 5, "only what failed"


def test_a_rationale_is_part_of_the_reasoning_target(tmp_path):
    (d,) = tiny_stories.stories(1, clarified=False)
    file = tmp_path / "why.json"
    file.write_text(json.dumps({"provenance": {}, "rationales": {
        d.id: {d.questions[0].id: "so it is"}}}))
    target = {a.task: a.target for a in tiny_stories.builder(rationales=str(file)).asked(d)}
    assert json.loads(target["reasoning"])["because"] == "so it is"
    other = dataclasses.replace(d, id="other")
    target = {a.task: a.target for a in tiny_stories.builder(rationales=str(file)).asked(other)}
    assert "because" not in target["reasoning"]


@pytest.mark.parametrize("text", [None, "{}", "[1]"])
def test_a_file_that_holds_none_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "why.json").write_text(text)
    with pytest.raises(BadInput, match=r"why\.json"):
        tiny_stories.builder(rationales=str(tmp_path / "why.json"))


def test_a_rationale_is_one_line():
    assert rationales.sentence(" a\n b ") == "a b"
    for wrong in ("", " \n", "x" * 500):
        with pytest.raises(ValueError, match="characters"):
            rationales.sentence(wrong)
