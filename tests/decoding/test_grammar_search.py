"""The search for a command of a grammar: that of all its wordings, one by one."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.data.contexts import Context
from speechdst.data.dialogue import Dialogue, Turn
from speechdst.data.grammar import Grammar
from speechdst.decoding.commands import Search
from speechdst.decoding.track import Tracker

GRAMMAR = Grammar(
    {"book": [(("i want", "get me"), "area", ("hotel",)),
              (("i want", "get me"), ("a", "a a"), "price", ("hotel",)),
              (("i want", "get me"), "area", ("hotel",), ("and",), "price"),
              ("price",)],
     "stop": [(("no", "no no"),)]},
    {"area": ("north", "north north"), "price": ("cheap", "a cheap", "dear")})


def best_path(log_probs: np.ndarray, ids: list[int]) -> float:
    """Nats of the best of CTC's paths for these tokens, by the textbook's lattice."""
    states = [-1]
    for token in ids:
        states += [token, -1]
    score = np.full(len(states), -np.inf)
    for t, heard in enumerate(log_probs):
        new = np.full(len(states), -np.inf)
        for s, token in enumerate(states):
            comes = [score[s]] if t else [0.0 if s < 2 else -np.inf]
            if t and s:
                comes.append(score[s - 1])
            if t and s > 1 and token != -1 and token != states[s - 2]:
                comes.append(score[s - 2])
            new[s] = max(comes) + heard[token]
        score = new
    return max(score[-2:]) if len(states) > 1 else score[-1]


def everything(grammar: Grammar):
    """(intent, slots, text) of all that can be said."""
    for intent, lines in grammar.expressions.items():
        for parts in lines:
            said = [({}, ())]
            for part in parts:
                said = [(slots | ({part: word} if isinstance(part, str) else {}), (*words, word))
                        for slots, words in said for word in grammar.said(part)]
            for slots, words in said:
                yield intent, slots, " ".join(words)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), vectors=st.integers(0, 30), sharp=st.floats(0.5, 8.0))
def test_the_search_finds_the_best_of_all_wordings(seed, vectors, sharp):
    tokenizer = tiny.tokenizer()
    x = sharp * np.random.default_rng(seed).standard_normal((vectors, tokenizer.size + 1))
    x -= np.log(np.exp(x).sum(-1, keepdims=True))
    found = Search(GRAMMAR, tokenizer)(x)
    all_said = list(everything(GRAMMAR))
    nats = [best_path(x, tokenizer.words(text)) if vectors else -np.inf for *_, text in all_said]
    if max(nats) == -np.inf:
        assert found is None
        return
    assert found.nats == pytest.approx(max(nats), rel=1e-6)
    assert (found.intent, found.slots, found.text) in [
        said for said, n in zip(all_said, nats, strict=True) if n == pytest.approx(max(nats))]


def test_a_clear_recording_is_understood():
    tokenizer = tiny.tokenizer()
    ids = tokenizer.words("get me north hotel and dear")
    x = np.full((4 * len(ids) + 3, tokenizer.size + 1), -20.0)
    x[:, -1] = -0.01
    for i, token in enumerate(ids):
        x[4 * i + 2, token], x[4 * i + 2, -1] = -0.01, -20.0
    found = Search(GRAMMAR, tokenizer)(x)
    assert (found.intent, found.slots) == ("book", {"area": "north", "price": "dear"})
    assert found.text == "get me north hotel and dear"


def test_a_tracker_with_a_grammar_says_only_what_is_in_it():
    model = tiny.config()
    tracker = Tracker(tiny.parameters(model), model, tiny.tokenizer(),
                      Context("single"), grammar=GRAMMAR)
    rng = np.random.default_rng(0)
    turns = [Turn("user", "", features=rng.standard_normal((n, tiny.CHANNELS)).astype(np.float16))
             for n in (200, 260)]
    found = list(tracker.track([Dialogue("d", "x", "test", (turns[0], Turn("agent", "yes"),
                                                            turns[1]))]))
    assert [(d, turn) for d, turn, *_ in found] == [(0, 0), (0, 2)]
    said = [(intent, slots) for intent, slots, _ in everything(GRAMMAR)]
    for *_, prediction, text in found:
        assert prediction.readable and prediction.label
        (intent,) = prediction.domains
        assert (intent, prediction.slots.get(intent, {})) in said
        assert json.loads(text) == prediction.slots


def test_a_grammar_survives_json():
    assert Grammar.of(json.loads(json.dumps(dataclasses.asdict(GRAMMAR)))) == GRAMMAR
