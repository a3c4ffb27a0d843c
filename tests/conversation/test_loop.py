import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chat_server import KEY, says, serve, status
from spoken_stories import VOICES, stories

from speechdst.chat import ChatUnavailable
from speechdst.conversation import loop
from speechdst.conversation.loop import Loop, evaluate
from speechdst.conversation.models import (
    ALWAYS_ANSWERS,
    ALWAYS_ASKS,
    Always,
    Blind,
    Context,
    Model,
    Oracle,
    Served,
)
from speechdst.conversation.roles import ChatClassifier, ChatUser, meant
from speechdst.conversation.scores import score
from speechdst.data import speech
from speechdst.data.dialogue import BadInput
from speechdst.metrics.actions import ANSWER, ASK


class Noted(Model):
    """Another model, and what it was given."""

    def __init__(self, model):
        self.model, self.contexts, self.heard = model, [], []

    def replies(self, contexts):
        self.contexts += contexts
        return self.model.replies(contexts)

    def transcripts(self, contexts, part):
        self.heard += contexts
        return self.model.transcripts(contexts, part)


def ambiguous(dialogues=None):
    return [d for d in dialogues or stories() if d.questions[0].ambiguous]


def test_the_oracle_asks_hears_and_answers(tmp_path):
    dialogues = stories()
    model = Noted(Oracle.of(dialogues))
    found = evaluate(tmp_path, dialogues, model, Loop(batch=4, listening=("request", "story")), {})
    assert [t.dialogue for t in found] == [d.id for d in dialogues]
    for dialogue, t in zip(dialogues, found, strict=True):
        (question,) = dialogue.questions
        actions = [s.action for s in t.own()]
        assert not t.failure and actions == ([ASK, ANSWER] if question.ambiguous else [ANSWER])
        if question.ambiguous:
            assert t.steps[1].text == meant(question).reply
            for step in t.steps[:2]:
                samples, rate = soundfile.read(tmp_path / "audio" / step.audio)
                assert rate == 16000 and len(samples) > 4000
        request, story = question.text, dialogue.passages[0].text
        assert t.heard == {"request": (request, request), "story": (story, story)}
    # What was spoken is heard behind what came before, by the voices of the conversation.
    again = [c for c in model.contexts if c.asked]
    assert len(again) == len(ambiguous())
    for context in again:
        original = next(d for d in dialogues if d.id == context.dialogue.id)
        before, (agent, user) = context.dialogue.turns[:-2], context.dialogue.turns[-2:]
        assert before == original.turns
        assert agent.audio.voice == VOICES["agent"].label
        assert user.audio.voice == VOICES["user"].label
        assert len(speech.joined(speech.placed(context.dialogue.turns))) > sum(
            t.audio.samples for t in context.dialogue.turns)
    # And the model is not told what only the corpus knows.
    assert all(not c.question.answers and c.question.ambiguous is None
               and c.question.clarification is None for c in model.contexts + model.heard)


def test_arms_that_set_the_scale(tmp_path):
    dialogues = stories()
    scores = {}
    for name, model in {"oracle": Oracle.of(dialogues), "answers": ALWAYS_ANSWERS,
                        "asks": ALWAYS_ASKS}.items():
        found = evaluate(tmp_path / name, dialogues, model, Loop(), {})
        scores[name] = {k: r.value for k, r in score(found, resamples=20).rates.items()}
    oracle = scores["oracle"]
    assert oracle.pop("WER request") == 0 and set(oracle.values()) == {100.0}
    assert scores["answers"]["action recall"] == 0 < scores["answers"]["action accuracy"] < 100
    assert scores["asks"]["action recall"] == 100 > scores["asks"]["action precision"]
    assert scores["answers"]["trajectory F1"] == scores["asks"]["trajectory F1"] == 0
    assert "post-clarification F1" not in scores["answers"]


def test_the_limit(tmp_path):
    one = ambiguous()[:1]
    for rounds in (0, 1, 3):
        model = Noted(ALWAYS_ASKS)
        (t,) = evaluate(tmp_path / str(rounds), one, model, Loop(rounds=rounds), {})
        assert [s.speaker for s in t.steps] == ["agent", "user"] * rounds + ["agent"]
        assert [c.asked for c in model.contexts] == list(range(rounds + 1))
        assert {s.action for s in t.own()} == {ASK}


def test_replies_that_cannot_be_spoken_end_the_conversation(tmp_path):
    (t,) = evaluate(tmp_path, ambiguous()[:1], Always("#?"),
                    Loop(synthesizer="spoken_stories:picky"), {})
    assert [s.speaker for s in t.steps] == ["agent", "user"] and not t.failure
    assert t.steps[0].unspoken == "no word in it" and t.steps[1].audio
    (t,) = evaluate(tmp_path / "text", ambiguous()[:1], ALWAYS_ASKS, Loop(synthesizer=""), {})
    assert len(t.steps) == 5 and not any(s.audio or s.unspoken for s in t.steps)


def test_blind_hears_only_how_long(tmp_path):
    model = Noted(ALWAYS_ASKS)
    dialogue = ambiguous()[0]
    features = speech.log_mel(speech.decode(dialogue.turns[0].audio)).astype(np.float16)
    turns = (dataclasses.replace(dialogue.turns[0], features=features), *dialogue.turns[1:])
    evaluate(tmp_path, [dataclasses.replace(dialogue, turns=turns)], Blind(model), Loop(), {})
    for context in model.contexts:
        for turn, original in zip(context.dialogue.turns, turns, strict=False):
            assert turn.audio.samples == original.audio.samples and not turn.text
            assert not speech.decode(turn.audio).any()
        own = context.dialogue.turns[0].features
        assert own.shape == features.shape and np.ptp(own) == 0
        assert not context.question.text and not context.dialogue.passages[0].text


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as made:
        yield made


def play(request) -> str:
    """One chat model in all roles: it asks the first time, then answers."""
    last = request["messages"][-1]["content"]
    if isinstance(last, list):
        return "Which one?" if len(last[-1]["input_audio"]["data"]) < play.longest else "garden"
    return "Yes." if "Which one?" in last and "clarifying" in last else (
        "no" if "clarifying" in last else "User: the red one")


def test_an_audio_endpoint_in_every_role(server, tmp_path):
    """The model, the classifier and the user behind HTTP, which fails now and then."""
    one = ambiguous()[:1]
    context = Context.of(one[0], one[0].questions[0])
    play.longest = len(speech.joined(speech.placed(context.dialogue.turns))) * 2 * 4 / 3 + 100
    server.reply = play
    server.faults = [status(500), None, status(429, Retry_After="0"), says("<html>")]
    chat = server.client(tmp_path / "cache", attempts=3)
    roles = Loop(ChatClassifier(chat), ChatUser(chat))
    model = Served(chat)
    (t,) = evaluate(tmp_path / "a", one, model, roles, {})
    assert [(s.speaker, s.text) for s in t.steps] == [
        ("agent", "Which one?"), ("user", "the red one"), ("agent", "garden")]
    assert t.heard and chat.failures == {"http 500": 1, "http 429": 1, "malformed reply": 1}
    # Again in another folder: every reply is kept, nobody is asked.
    silent = server.client(tmp_path / "cache")
    roles = Loop(ChatClassifier(silent), ChatUser(silent))
    (again,) = evaluate(tmp_path / "b", one, Served(silent), roles, {})
    assert again == t and silent.sent == 0
    assert not any(KEY in p.read_text("utf-8", "replace") for p in tmp_path.rglob("*.json*"))


def test_failures_are_named_counted_and_tried_again(server, tmp_path):
    dialogues = stories()
    server.faults = [status(500)] * 2 + [None, None] + [says("{}")] * 2
    chat = server.client(attempts=2)
    server.reply = lambda request: "no"
    roles = Loop(ChatClassifier(chat))
    found = evaluate(tmp_path, dialogues, Oracle.of(dialogues), roles, {})
    failed = [t.failure for t in found if t.failure]
    assert [f.split(",")[0] for f in failed] == [
        "the classifier: http 500: 'oh no'",
        "the classifier: malformed reply: no choices[0].message.content (KeyError('choices'))"]
    scores = score(found, resamples=20)
    assert scores.failures == {"the classifier: http 500": 1, "the classifier: malformed reply": 1}
    assert scores.rates["trajectory F1"].count == len(dialogues) - 2
    sent = chat.sent
    found = evaluate(tmp_path, dialogues, Oracle.of(dialogues), roles, {})
    assert not any(t.failure for t in found) and chat.sent == sent + 2


def test_what_is_hopeless_ends_it_and_keeps_what_is_done(server, tmp_path):
    dialogues = stories()
    chat = server.client(calls=3)
    server.reply = lambda request: "no"
    with pytest.raises(ChatUnavailable, match="no calls left"):
        evaluate(tmp_path, dialogues, Oracle.of(dialogues), Loop(ChatClassifier(chat), batch=2), {})
    assert len(loop.read(tmp_path)) == 2
    rest = server.client()
    evaluate(tmp_path, dialogues, Oracle.of(dialogues), Loop(ChatClassifier(rest), batch=2), {})
    assert rest.sent == len(dialogues) - 2


class Refuses(Model):
    def replies(self, contexts):
        return [BadInput("there is no speech") for _ in contexts]


def test_contexts_that_the_model_cannot_take(tmp_path):
    (t,) = evaluate(tmp_path, ambiguous()[:1], Refuses(), Loop(), {})
    assert t.failure == "the model: there is no speech" and not t.steps


def test_goes_on_after_a_kill(tmp_path):
    """Killed in the middle of a batch, with half a line written: the rest is made, once."""
    code = f"""
        import os, sys
        sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        from test_loop import *
        class Dies(Oracle):
            def replies(self, contexts):
                if any(c.dialogue.id == stories()[4].id for c in contexts):
                    (file,) = Path(sys.argv[1]).glob("*.jsonl")
                    with open(file, "ab") as f:
                        f.write('{{"dialogue": "h\u00e4'.encode()[:-1])
                    os.kill(os.getpid(), 9)
                return super().replies(contexts)
        evaluate(Path(sys.argv[1]), stories(), Dies.of(stories()), Loop(batch=2), {{"limit": 1}})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a")])
    assert killed.returncode == -9 and len(loop.read(tmp_path / "a")) == 4
    model = Noted(Oracle.of(stories()))
    found = evaluate(tmp_path / "a", stories(), model, Loop(batch=2), {"limit": 1})
    assert {c.dialogue.id for c in model.contexts} == {d.id for d in stories()[4:]}
    whole = evaluate(tmp_path / "b", stories(), Oracle.of(stories()), Loop(), {"limit": 1})
    assert found == whole
    files = [(tmp_path / x / "trajectories.jsonl").read_bytes() for x in "ab"]
    assert files[0] == files[1]
    with pytest.raises(BadInput, match="limit: evaluated with 1, now it is 2"):
        evaluate(tmp_path / "a", stories(), model, Loop(), {"limit": 2})
    evaluate(tmp_path / "a", stories(), ALWAYS_ANSWERS, Loop(), {"limit": 2}, overwrite=True)
    assert {s.text for t in loop.read(tmp_path / "a") for s in t.steps} == {"yes"}


def test_a_damaged_file_is_refused(tmp_path):
    evaluate(tmp_path, stories()[:2], ALWAYS_ANSWERS, Loop(), {})
    path = tmp_path / loop.TRAJECTORIES
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0][:-9], lines[1], ""]))
    with pytest.raises(BadInput, match=r"line 1: not a trajectory"):
        loop.read(tmp_path)
    raw = json.loads(lines[0])
    path.write_text(json.dumps(raw | {"extra": 1}) + "\n")
    with pytest.raises(BadInput, match="extra"):
        loop.read(tmp_path)


def test_unicode_line_separators_are_no_lines(tmp_path):
    (t,) = evaluate(tmp_path, ambiguous()[:1], Always("one\u2028two\x85"), Loop(), {})
    assert loop.read(tmp_path) == [t] and t.steps[0].text == "one\u2028two\x85"


