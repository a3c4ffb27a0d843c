from speechdst.data import corpora
from speechdst.data.corpora import simulated, simulated_words
from speechdst.data.dialogue import Dialogue, Turn

OF = (dict(corpus="simulated", dialogues=40), dict(corpus="simulated", dialogues=40, schema="b"))


def test_every_word_is_said_before_one_comes_again_and_order_tells_nothing():
    known = simulated_words.lexicon("", OF)
    said = [d.turns[0].text.split() for d in corpora.read(
        "simulated_words", "", "train", of=OF, dialogues=len(known) // 2, words=(3, 5))]
    words = [w for turn in said for w in turn]
    assert set(words[: len(known)]) == set(known)
    assert {len(turn) for turn in said} == {3, 4, 5}
    sentences = {t.text for d in simulated.read(dialogues=40) for t in d.turns}
    assert not any(" ".join(turn) in sentences for turn in said)


def test_the_same_every_time_and_without_states():
    read = lambda **kw: list(corpora.read("simulated_words", "", "train", of=OF, **kw))
    assert read(dialogues=5) == read(dialogues=9)[:5] != read(dialogues=5, seed=1)
    assert all(not d.user_turns() for d in read(dialogues=5))


def test_phrases_stay_together_and_shorter_turns_whole(monkeypatch):
    turns = (Turn("user", "One two, three four."), Turn("agent", "not this"), Turn("user", "yes"))
    monkeypatch.setattr(corpora, "read", lambda *a, **kw: [Dialogue("d", "c", "train", turns)])
    assert simulated_words.lexicon("", OF, 3) == ["one two three", "two three four", "yes"]
    assert simulated_words.lexicon("", OF) == ["four", "one", "three", "two", "yes"]
    said = [d.turns[0].text for d in simulated_words.read(
        "", "train", of=OF, dialogues=6, words=(1, 1), phrase=3)]
    assert set(said[:3]) == set(said[3:]) == {"one two three", "two three four", "yes"}
