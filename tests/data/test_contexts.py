"""Contexts: the same turns are read in training and in decoding, and limits bind answers only."""

import dataclasses

import numpy as np
import pytest
import tiny

from speechdst.data.contexts import Context
from speechdst.data.dialogue import BadInput, Dialogue, Turn
from speechdst.data.tree import Soft, Tokens, length
from speechdst.decoding.parse import parse

KINDS = ("spoken_history", "text_history", "single", "asr")


def dialogue(users=4, seed=0):
    return tiny.dialogue(np.random.default_rng(seed), users)


def read(tree, branch):
    """What an answer has read before its first own token: ids, and features by their sum."""
    b = tree.branches[branch]
    units = []
    for s in (*tree.trunk[: b.after], *b.segments):
        if isinstance(s, Soft):
            u = tree.utterances[s.utterance]
            units.append(
                (
                    "soft",
                    s.length,
                    float(np.sum(u.features, dtype=np.float64))
                    if u.features is not None
                    else u.words.tolist(),
                )
            )
        elif s.loss or list(s.ids) == [tiny.tokenizer().eos]:
            return units
        else:
            units += [int(i) for i in s.ids]
    return units


@pytest.mark.parametrize("path", ["speech", "words", "tokens"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", [100, 2, 0])
def test_the_prompt_reads_what_training_read(kind, path, bound):
    d = dialogue()
    build = tiny.builder(kind, path, history_turns=bound)
    users = [i for i, t in enumerate(d.turns) if t.speaker == "user"]
    trained = [read(t, b) for t in build.trees(d) for b in range(len(t.branches))]
    if kind == "spoken_history":
        prompt = build.prompt(d.turns)
        prompted = [read(prompt, b) for b in range(len(prompt.branches))]
    else:
        prompted = [read(build.prompt(d.turns[: i + 1]), 0) for i in users]
    assert prompted == trained
    assert len(trained) == len(users)


def test_a_text_history_is_one_tree_where_nothing_is_cut():
    d = dialogue(5)
    (tree,) = tiny.builder("text_history").trees(d)
    apart = tiny.builder("single").trees(d)
    assert len(tree.branches) == len(apart) == 5
    assert length(tree) < 0.7 * sum(map(length, apart))


def test_history_turns_bounds_a_text_history():
    d = dialogue(4)
    for bound, lines in ((0, 0), (2, 2), (100, 6)):
        build = tiny.builder("single", history_turns=bound)
        assert len(build.history(d.turns[:6])) == 1 + lines


def test_answers_are_the_targets_and_can_be_read_back():
    d, tokenizer = dialogue(), tiny.tokenizer()
    for kind in KINDS[:3]:
        answers = [b.segments[-1] for t in tiny.builder(kind).trees(d) for b in t.branches]
        for answer, turn in zip(answers, [t for t in d.turns if t.speaker == "user"], strict=True):
            assert answer.loss and answer.ids[-1] == tokenizer.eos
            said = parse(tokenizer.decode(answer.ids[:-1]))
            assert (said.label, said.slots) == (turn.text, turn.state)


def test_limits_leave_out_answers_in_training_but_not_in_decoding():
    short = tiny.dialogue(np.random.default_rng(1), 1, frames=(5, 6)).turns[0]
    d = Dialogue("d", "tiny", "train", (*dialogue(2).turns, short))
    for kind in KINDS:
        build = tiny.builder(kind, min_seconds=0.055)
        d_long = dataclasses.replace(
            d,
            turns=tuple(
                dataclasses.replace(t, features=np.ones((20, tiny.CHANNELS), np.float16))
                if t.features is not None and len(t.features) < 6 and i < 3
                else t
                for i, t in enumerate(d.turns)
            ),
        )
        assert sum(len(t.branches) for t in build.trees(d_long)) == 2
        asked = build.prompt(d_long.turns).branches
        assert len(asked) == (3 if kind == "spoken_history" else 1)


def test_turns_without_a_state_are_read_but_not_asked():
    turns = tuple(
        dataclasses.replace(t, state=None) if i == 0 else t for i, t in enumerate(dialogue(3).turns)
    )
    d = Dialogue("d", "tiny", "train", turns)
    for kind in KINDS[:3]:
        assert sum(len(t.branches) for t in tiny.builder(kind).trees(d)) == 2
    (tree,) = tiny.builder("spoken_history").trees(d)
    assert len(tree.utterances) == 3
    assert not tiny.builder("spoken_history").trees(Dialogue("d", "tiny", "train", (turns[0],))), (
        "nothing to learn"
    )


def test_agent_turns_can_be_heard():
    d = dialogue(2)
    spoken = tuple(
        dataclasses.replace(t, features=np.ones((9, tiny.CHANNELS), np.float16)) for t in d.turns
    )
    d = dataclasses.replace(d, turns=spoken)
    heard = tiny.builder("spoken_history", agent="speech").trees(d)[0]
    read_as_text = tiny.builder("spoken_history").trees(d)[0]
    assert (len(heard.utterances), len(read_as_text.utterances)) == (3, 2)


def test_empty_speech_takes_no_soft_positions():
    for stack in (0, 3):
        assert tiny.config(stack=stack).soft_length("speech", 0) == 0


def test_asking_about_a_turn_without_speech_is_a_named_error():
    turns = (Turn("user", "four stars please", state={}),)
    for kind in KINDS:
        with pytest.raises(BadInput, match="no speech"):
            tiny.builder(kind).prompt(turns)
        assert not tiny.builder(kind).trees(Dialogue("d", "tiny", "train", turns))


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match=r"context\.kind is 'spoken'"):
        Context("spoken")
    with pytest.raises(ValueError, match=r"context\.spelling is 'letters'"):
        Context(spelling="letters")


@pytest.mark.parametrize("spelling", ["pieces", "characters"])
def test_a_transcript_is_spelt_for_ctc_alone(spelling):
    builder = tiny.builder("asr", spelling=spelling)
    (tree,) = builder.trees(dialogue(1))
    answer = tiny.builder("asr").trees(dialogue(1))[0].branches[0].segments[1]
    assert list(tree.branches[0].segments[1].ids) == list(answer.ids), "the decoder's is as before"
    ids = tree.utterances[0].transcript
    said = builder.tokenizer.decode(ids)
    assert said == builder.tokenizer.decode(answer.ids[:-1])
    if spelling == "characters":
        assert len(ids) == len(said) > len(answer.ids)
        assert {len(builder.tokenizer.decode([i])) for i in ids} == {1}


def test_words_carry_their_leading_space():
    (tree,) = tiny.builder("asr").trees(dialogue(1))
    assert isinstance(tree.branches[0].segments[1], Tokens)
    assert list(tree.branches[0].segments[1].ids[:-1]) == tree.utterances[0].transcript.tolist()
