import pytest
from chat_server import serve
from spoken_stories import stories

from speechdst.chat import ChatError
from speechdst.conversation.roles import (
    ChatClassifier,
    ChatUser,
    asks_back,
    meant,
    scripted_user,
)
from speechdst.data.dialogue import Clarification, Dialogue, Question, Reading, Turn


@pytest.mark.parametrize("reply", [
    "Do you mean before the accident?", "do you mean the red one or the blue one",
    "which kite the red one or the blue one", "The third what?", "Sorry, could you clarify that",
    'By "she," are you referring to Kate', "You mean Jack or Tom?", "When? "])
def test_questions(reply):
    assert asks_back(reply)


@pytest.mark.parametrize("reply", [
    "in the garden", "Yes.", "", "He asked what it was.", "The one which was red", "Where he lived",
    "She did. Did you know that she sang."])
def test_answers(reply):
    assert not asks_back(reply)


def test_rules_tell_the_corpus_apart():
    for dialogue in stories():
        (question,) = dialogue.questions
        assert not any(asks_back(a.text) for a in question.answers)
        assert all(map(asks_back, question.clarification.questions if question.ambiguous else ()))


def asked(reply: str, question="Do you mean before the accident?") -> Question:
    ask = Clarification((question, "Do you mean the boys?"), (Reading(reply, ("x",)),))
    return Question("q", "What did they do?", (), ambiguous=True, clarification=ask)


@pytest.mark.parametrize("reply, own, other", [
    ("Yes.", "Yes.", "I mean before the accident."),
    ("No", "No", "I do not mean before the accident."),
    ("No, I mean after the accident.", "No, I mean after the accident.",
     "I mean after the accident."),
    ("before the accident", "before the accident", "before the accident"),
    ("No, the second one", "No, the second one", "The second one")])
def test_the_user_says_what_the_corpus_says(reply, own, other):
    say = lambda text: scripted_user(None, asked(reply), [Turn("agent", text)])
    assert say("do you mean before the accident") == own  # spoken as the corpus has it
    assert say("Do you mean on Sunday?") == other


def test_a_clear_request_is_repeated():
    clear = Question("q", "Who saw it?", ())
    assert scripted_user(None, clear, [Turn("agent", "What?")]) == "I mean, Who saw it?"
    assert meant(clear) is None
    unheard = Question("q", "", ())
    assert scripted_user(None, unheard, [Turn("agent", "What?")]) == "I mean what I said."


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as made:
        yield made


def test_a_chat_model_classifies(server):
    classify = ChatClassifier(server.client(attempts=1))
    for said, asks in (("Yes", True), ("no.", False), ("**Yes**", True)):
        server.reply = lambda request, said=said: said
        assert classify(f"the reply for {said}") is asks
    request = server.requests[0]
    assert "the reply for Yes" in request["messages"][0]["content"]
    assert (request["max_tokens"], request["temperature"], request["stop"]) == (3, 0.1, ["\n"])
    server.reply = lambda request: "Maybe"
    with pytest.raises(ChatError, match="neither yes nor no"):
        classify("another")


def test_a_chat_model_plays_the_user(server):
    replies = ["They want to know where the red kite is.", "User: the red one\nAssistant: so"] * 2
    server.reply = lambda request: replies.pop(0)
    dialogue = next(d for d in stories() if d.questions[0].ambiguous)
    (question,) = dialogue.questions
    turns = [*dialogue.turns, Turn("agent", "which one")]
    user = ChatUser(server.client())
    assert user(dialogue, question, turns) == "the red one"
    intent, simulate = (r["messages"][0]["content"] for r in server.requests)
    assert dialogue.passages[0].text in intent and meant(question).reply in intent
    assert "They want to know where the red kite is." in simulate
    assert simulate.index(question.text) < simulate.index("Assistant: which one")
    assert not any(repr(a) in simulate for a in meant(question).answers)
    # One that is written is put before the model's question; without readings no intent is asked.
    written = Question("q", "Who saw it?", ())
    replies[:] = ["\n the one\n"]
    assert user(Dialogue("d", "c", "s", ()), written, [Turn("agent", "What?")]) == "the one"
    assert "User: Who saw it?\nAssistant: What?\nUser:" in server.requests[-1]["messages"][0][
        "content"]
