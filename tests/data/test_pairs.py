"""Pairs of dialogue states: what is wrong about the rejected one, and how a pair is laid out."""

import dataclasses
import json
import random

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from speechdst.data.contexts import WHOLE
from speechdst.data.dialogue import BadInput, Dialogue, Turn
from speechdst.data.pairs import PairBuilder, WrongStates, corrupted, name, paired, read_predictions
from speechdst.data.tree import Branch, DialogueTree, Tokens, pack
from speechdst.decoding.parse import parse

ONTOLOGY = {domain: {slot: list(tiny.VALUES) for slot in slots}
            for domain, slots in tiny.SCHEMA.items()}
SLOTS = [(domain, slot) for domain, slots in tiny.SCHEMA.items() for slot in slots]


def builder(kind="text_history", path="tokens", **wrong):
    return PairBuilder(tiny.builder(kind, path), WrongStates(ONTOLOGY, **wrong))


def flat(state):
    return {(d, s): v for d, slots in state.items() for s, v in slots.items()}


def nested(slots):
    made = {}
    for (domain, slot), value in slots.items():
        made.setdefault(domain, {})[slot] = value
    return made


@given(gold=st.dictionaries(st.sampled_from(SLOTS), st.sampled_from(tiny.VALUES)),
       kept=st.sets(st.sampled_from(SLOTS)), seed=st.integers(0, 999))
def test_a_corrupted_state_is_wrong_by_one_slot(gold, kept, seed):
    before = {at: v for at, v in gold.items() if at in kept}
    found = corrupted(nested(gold), nested(before), ONTOLOGY, random.Random(seed))
    wrong = flat(found)
    differ = [at for at in SLOTS if gold.get(at) != wrong.get(at)]
    assert len(differ) == 1 and all(found.values()), "and no empty domain"
    assert set(wrong.values()) <= {*tiny.VALUES}
    # What this turn gave is dropped or altered, if it gave anything.
    assert differ[0] not in gold or differ[0] not in before or set(before) == set(gold)


def test_every_way_is_taken_and_without_values_only_slots_are_dropped():
    gold = {"hotel": {"area": "north"}}
    sizes = {len(flat(corrupted(gold, {}, ONTOLOGY, random.Random(i)))) for i in range(40)}
    assert sizes == {0, 1, 2}
    assert corrupted(gold, {}, {}, random.Random(0)) == {}
    assert corrupted({}, {}, {}, random.Random(0)) is None


@pytest.mark.parametrize(("kind", "path"), [
    ("text_history", "speech"), ("spoken_history", "speech"), ("single", "words"),
    ("spoken_history", "tokens"),
    ("text_history", "tokens")])
def test_a_pair_shares_all_but_what_is_scored(kind, path):
    dialogue = tiny.dialogue(np.random.default_rng(1), 3)
    plain = tiny.builder(kind, path).trees(dialogue)
    made = builder(kind, path).trees(dialogue)
    states = [turn.state for _, turn in dialogue.user_turns()]
    assert len(made) == len(plain)
    at = 0
    for tree, gold in zip(made, plain, strict=True):
        assert len(tree.trunk) == len(gold.trunk) and len(tree.branches) == 2 * len(gold.branches)
        assert len(tree.utterances) == len(gold.utterances), "heard once"
        for chosen, rejected, own in zip(tree.branches[::2], tree.branches[1::2], gold.branches,
                                         strict=True):
            assert chosen.after == rejected.after == own.after
            assert chosen.segments[:-1] == rejected.segments[:-1], "read, not scored"
            assert not any(getattr(s, "loss", False) for s in chosen.segments[:-1])
            last = [b.segments[-1] for b in (chosen, rejected)]
            assert all(s.loss and s.ids for s in last) and last[0].ids[0] != last[1].ids[0]
            answers = [[*b.segments[-2].ids, *b.segments[-1].ids] for b in (chosen, rejected)]
            assert answers[0] == own.segments[-1].ids
            read = [parse(tiny.tokenizer().decode(ids[:-1])) for ids in answers]
            assert read[0].slots == {d: s for d, s in states[at].items() if s} != read[1].slots
            at += 1
    assert at == len(states)


def test_the_same_seed_draws_the_same_whatever_is_asked_before():
    dialogues = [tiny.dialogue(np.random.default_rng(i), 3, name=f"d{i}") for i in range(4)]
    one, other = WrongStates(ONTOLOGY), WrongStates(ONTOLOGY)
    forth = [one(d) for d in dialogues]
    assert forth == [other(d) for d in reversed(dialogues)][::-1]
    assert forth != [WrongStates(ONTOLOGY, seed=1)(d) for d in dialogues]


def test_what_a_model_tracked_is_rejected_where_it_is_wrong(tmp_path):
    turns = [Turn("user", tiny.USER[0], state={"hotel": {"area": "north"}}),
             Turn("user", tiny.USER[1], state={"hotel": {"area": "north", "stars": "four"}})]
    dialogue = Dialogue("d", "tiny", "train", tuple(turns))
    said = [{"hotel": {"area": "south"}}, turns[1].state]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"d": [{"state": s, "label": ""} for s in said]}))
    wrong = WrongStates(ONTOLOGY, predicted=read_predictions(path))(dialogue)
    assert wrong[0] == said[0] and wrong[1] not in (said[1], None)
    with pytest.raises(BadInput, match=r"tiny/train/e.*0 predicted states, expected 2"):
        WrongStates(ONTOLOGY, predicted={"d": said})(dataclasses.replace(dialogue, id="e"))
    path.write_text('{"d": [{"label": ""}]}')
    with pytest.raises(BadInput, match=r"predictions.json.*KeyError: 'state'"):
        read_predictions(path)


def test_answers_that_do_not_differ_are_refused():
    dialogue = tiny.dialogue(np.random.default_rng(0), 2)
    same = PairBuilder(tiny.builder("text_history", "tokens"),
                       lambda d: {i: t.state for i, t in d.user_turns()})
    with pytest.raises(BadInput, match=r"record tiny/train/d0.*empty or begins the other"):
        same.trees(dialogue)


def test_answers_to_different_contexts_are_refused():
    (one,), (other,) = (tiny.builder("text_history", "tokens").trees(
        tiny.dialogue(np.random.default_rng(seed), 2)) for seed in (0, 3))
    assert one.trunk != other.trunk
    with pytest.raises(BadInput, match=r"record r.*do not answer the same context"):
        paired(one, other, "r")


def test_references_stand_beside_their_pairs_in_a_row():
    dialogue = tiny.dialogue(np.random.default_rng(0), 2)
    made = builder()
    (tree,) = made.trees(dialogue)
    shape = dataclasses.replace(tiny.shape("tokens", tables=()), pairs=3)
    unknown = pack([tree], shape)["reference"]
    assert np.isnan(unknown[:2]).all() and (unknown[2] == 0).all()
    known = made.referring({name(dialogue, WHOLE): [-1.0, -2.0, -3.0, -4.0]}).trees(dialogue)
    row = pack(known, shape)
    np.testing.assert_array_equal(row["reference"], [[-1, -2], [-3, -4], [0, 0]])
    assert set(row["branch"].tolist()) == {-1, 0, 1, 2, 3}
    assert pack([tree], dataclasses.replace(shape, pairs=0))["reference"].shape == (0, 2)


@pytest.mark.parametrize("branches", [1, 4])
def test_what_are_no_pairs_or_too_many_does_not_fit(branches):
    branch = Branch(1, (Tokens([1]), Tokens([2], loss=True)))
    tree = DialogueTree((Tokens([1]),), (branch,) * branches)
    with pytest.raises(ValueError, match=f"{branches} branches are not 1 pairs or less"):
        pack([tree], dataclasses.replace(tiny.shape("tokens", tables=()), pairs=1))
