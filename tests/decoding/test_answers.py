"""Shapes of prompts: whatever utterances a batch of dialogues has, they fit, without waste."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from test_decode import MODEL, params
from tiny import builder, dialogue, tokenizer

from speechdst.data.tree import RowShape, Table, place
from speechdst.decoding import answers

LEAST = 128


def area(tables):
    return sum(count * size**2 for size, count in tables)


@given(st.lists(st.lists(st.integers(1, 9000), min_size=1, max_size=40), min_size=1, max_size=8))
def test_every_dialogue_finds_places(sizes):
    tables = answers._tables(sizes, LEAST, None)
    shape = RowShape(128, tuple(Table("speech", count, size, size) for size, count in tables))
    assert all(place(own, shape, [0] * len(tables)) is not None for own in sizes)
    assert len(tables) <= 2 and all(n & (n - 1) == 0 for table in tables for n in table)
    longest, most = max(map(max, sizes)), max(map(len, sizes))
    one = [(answers._up(longest, LEAST), answers._up(most, 1))]
    assert tables == one or area(tables) < area(one) / answers.WORTH


def test_one_long_utterance_does_not_make_all_places_long():
    """A minute of story before 60 sentences: 64 places of a minute would be 15 times as much."""
    sizes = [[6000] + [300] * 60, [4100] + [500] * 10]
    assert answers._tables(sizes, LEAST, None) == [(512, 64), (8192, 1)]
    assert answers._tables([[400, 130, 90, 300]], LEAST, None) == [(512, 4)]
    assert answers._tables([[3000], [2900]], LEAST, most=3000) == [(3000, 1)]


def test_answers_do_not_depend_on_the_tables(monkeypatch):
    rng, prompts = np.random.default_rng(3), []
    for n in (6, 5):
        story, *turns = dialogue(rng, n).turns
        long = rng.standard_normal((600, story.features.shape[1])).astype(np.float16)
        prompts.append(builder("spoken_history", model=MODEL).prompt(
            [dataclasses.replace(story, features=long), *turns]))
    found = []
    for worth, tables in ((answers.WORTH, 2), (np.inf, 1)):
        monkeypatch.setattr(answers, "WORTH", worth)
        assert len(answers.prompt_shape(prompts, MODEL).tables) == tables
        said = answers.answers(prompts, params(), MODEL, tokenizer(), max_new=5, rows=2)
        found.append(dict(said))
    assert found[0] == found[1] and any(map(any, found[0].values()))
