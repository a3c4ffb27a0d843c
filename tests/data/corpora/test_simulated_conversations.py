"""Simulated conversations: the right action is known, and agents that err are found out."""

import functools

import numpy as np
import pytest
import tiny
import tiny_streams

from speechdst.codec import LogMelCodec
from speechdst.data import frames, speech
from speechdst.data.corpora.simulated_conversations import FRAME_RATE, Timing, read
from speechdst.data.dialogue import BadInput
from speechdst.data.text_stream import TextStream
from speechdst.data.tokenizer import Tokenizer, train
from speechdst.data.two_channel import Action, Conversation, mistakes, pieces, speaks
from speechdst.data.two_channel import frames as frames_of


@functools.cache
def simulated(count: int = 3, **timing) -> tuple[Conversation, ...]:
    return tuple(read(conversations=count, timing=Timing(**timing), turns=(2, 3)))


def shares(conversations) -> dict[str, float]:
    """Of all frames in which it could go wrong, how many do."""
    found = [mistakes(c.right, speaks(c.agent.words, len(c.right), FRAME_RATE))
             for c in conversations]
    return {name: sum(f[name][0] for f in found) / sum(f[name][1] for f in found)
            for name in found[0]}


def test_words_are_where_they_are_heard():
    for c in simulated():
        assert c.agent.audio.samples == c.user.audio.samples
        assert len(c.right) == c.seconds * FRAME_RATE
        for channel in (c.agent, c.user):
            starts = [w.start for w in channel.words]
            assert starts == sorted(starts) and len(starts) > 3
            power = (speech.decode(channel.audio).reshape(-1, 1280) ** 2).mean(1)
            said = speaks(channel.words, len(power), FRAME_RATE)
            # Frames next to a word's may hold some of its sound.
            near = np.convolve(said, [1, 1, 1], "same") > 0
            assert power[~near].max(initial=0) < 1e-5 < np.median(power[said])


def test_an_agent_that_does_right_is_not_faulted_and_others_are():
    right = shares(simulated(pause=1.0, backchannel=0.5, barge_in=0.4))
    assert max(right.values()) < 0.03, right
    assert shares(simulated(silent=1.0))["silent"] == 1.0
    assert shares(simulated(cut=1.0, pause=0.0))["talks_over"] > 0.15
    late = shares(simulated(late=1.0))
    assert late["silent"] > 0.2 and late["talks_over"] < 0.03


def test_the_user_may_say_mhm_but_not_be_talked_over():
    told = simulated(backchannel=1.0, barge_in=0.0, pause=0.0)
    both = [speaks(c.user.words, len(c.right), FRAME_RATE)
            & speaks(c.agent.words, len(c.right), FRAME_RATE) for c in told]
    assert sum(b.sum() for b in both) > 3
    for c, b in zip(told, both, strict=True):
        assert (c.right[b] == Action.SPEAK).all()
    cut_off = simulated(barge_in=1.0, backchannel=0.0)
    assert any((c.right[:-1] == Action.SPEAK)[i] and c.right[i + 1] == Action.EITHER
               for c in cut_off for i in range(len(c.right) - 1))


def test_the_same_each_time():
    one, two = simulated()[0], next(iter(read(conversations=1, turns=(2, 3))))
    assert one.agent == two.agent and one.user == two.user
    np.testing.assert_array_equal(one.right, two.right)


def test_conversations_become_rows():
    c = simulated()[0]
    tokenizer = Tokenizer(train([*tiny.USER, *tiny.AGENT] * 3, [], 300))
    codec = LogMelCodec.train([speech.decode(x.audio) for x in (c.agent, c.user)], codebooks=3,
                              card=11, rounds=2)
    stream = TextStream(codec.frame_rate, tiny_streams.config().pad, tiny_streams.config().epad)
    whole = frames_of(c, codec, stream, tokenizer)
    assert whole.shape == (len(c.right), 7) and whole.dtype == np.int32
    np.testing.assert_array_equal(whole[:, 4:].T, codec.encode(speech.decode(c.user.audio)))
    said = [w.text for w in stream.words(whole[:, 0], tokenizer)]
    assert said == [w.text for w in c.agent.words]
    known = frames.Streams(tiny_streams.streams().delays, (tokenizer.size, *(11,) * 6))
    trees = list(pieces(whole, 40))
    row = frames.pack(trees, known, 40 * len(trees), 40)
    assert (row["tree"] >= 0).sum() == len(whole)
    short = Conversation(c.id, c.split, c.agent, simulated()[1].user)
    with pytest.raises(BadInput, match=f"{c.id}.*samples"):
        frames_of(short, codec, stream, tokenizer)
