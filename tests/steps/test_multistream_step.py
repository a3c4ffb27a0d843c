"""Training a multi-stream model from scratch, and aligning it on pairs of replies."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
import tiny
import tiny_streams
from ml_collections import ConfigDict

from speechdst.data import frames
from speechdst.data.batch import stack
from speechdst.objectives.preference import StreamPreference
from speechdst.objectives.streams import StreamWeights
from speechdst.steps import dpo_ln
from speechdst.steps.multistream import make_pair_step, make_step, pair_losses
from speechdst.training import optimizer, state

STAGE = ConfigDict(dict(steps=20, weights=dict(text=1.0, audio=1.0), optimizer=dict(
    lr=2e-2, warmup=2, decay="cosine", end_ratio=0.1, clip=1.0, weight_decay=0.1, b2=0.95,
    multipliers=())))


def test_every_stream_of_the_model_is_learnt():
    """Two conversations by heart: words, semantic and acoustic codes."""
    model = tiny_streams.config()
    rng = np.random.default_rng(0)
    trees = [frames.FrameTree(tiny_streams.drawn(rng, n), loss=True) for n in (10, 14)]
    batch = {"conversations": tiny_streams.row(trees, 24, 24)}
    current = state.start(tiny.parameters(model), [""],
                          optimizer.make(STAGE.optimizer, STAGE.steps), 0)
    step = make_step(state.abstract(model)[0], STAGE, StreamWeights(semantic=3.0),
                     compiler_options=tiny.QUICK)
    seen = []
    for _ in range(STAGE.steps):
        current, metrics = step(current, batch)
        seen.append(jax.device_get(metrics))
    first, last = seen[0], seen[-1]
    assert int(current.step) == STAGE.steps
    np.testing.assert_allclose(first["loss"], first["text"] + first["audio"], rtol=1e-6)
    for name, chance in (("words", 24), ("semantic", 11), ("acoustic", 11)):
        assert first[name] > 0.8 * math.log(chance), name
        assert last[name] < 0.5 * math.log(chance), name
        assert last[f"{name}_accuracy"] > 2 * first[f"{name}_accuracy"] + 0.2, name


PAIRS = ConfigDict(dict(steps=20, weights=dict(preference=1.0, audio=0.0), optimizer=dict(
    STAGE.optimizer.to_dict(), weight_decay=0.0, compensated=True, multipliers=((r"^depth/", 5.0),),
    warmup=1)))


@functools.cache
def tree():
    rng = np.random.default_rng(1)
    draw = lambda n: tiny_streams.drawn(rng, n)
    return frames.FrameTree(draw(12), tuple(
        frames.FrameBranch(after, draw(n)) for after, n in ((7, 5), (7, 9), (12, 4), (12, 4))))


def packed(trees, audio):
    return stack([frames.pack(trees, tiny_streams.streams(), 96, 16, 2, audio)])


def told(log_probs):
    """The tree with its references, by pair [P, 2] or [P, 2, streams]."""
    names = ("reference", "code_reference")
    return dataclasses.replace(tree(), branches=tuple(
        dataclasses.replace(b, **dict(zip(names, map(float, np.atleast_1d(r)), strict=False)))
        for b, r in zip(tree().branches, log_probs.reshape(4, *log_probs.shape[2:]), strict=True)))


@functools.cache
def aligned(**objective):
    """(first state, compiled step, first batch with its reference); where the audio is compared,
    CE on it is added."""
    model, c = tiny_streams.config(), StreamPreference(**objective)
    stage = PAIRS.copy_and_resolve_references()
    stage.weights.audio = 0.5 * c.audio
    begin = state.start(tiny.parameters(model), [""],
                        optimizer.make(stage.optimizer, stage.steps), 0)
    step = make_pair_step(state.abstract(model)[0], stage, c,
                          tiny_streams.WEIGHTS if c.audio else None, compiler_options=tiny.QUICK)
    after, metrics = step(begin, {"pairs": packed([tree()], c.audio)})
    jax.tree.map(np.testing.assert_array_equal, after, begin)
    known = np.asarray(metrics[f"{dpo_ln.LOG_PROBS}/pairs"][0])
    assert known.shape == ((2, 2, 2) if c.audio else (2, 2)) and (known < 0).all()
    return begin, step, packed([told(known)], c.audio)


def moved(after, before):
    return {path for path, x in after.trainable.items()
            if not np.array_equal(x, before.trainable[path])}


def test_the_text_alone_is_aligned_and_the_depth_part_stays_where_it_is():
    """Exact at the start; what the codes are that a reply says changes nothing, only hearing them
    does."""
    begin, step, batch = aligned()
    after, metrics = step(begin, {"pairs": batch})
    assert float(metrics["loss"]) == np.log(np.float32(2)) and float(metrics["margin"]) == 0
    assert {p for p in after.trainable if p not in moved(after, begin)} == {
        p for p in after.trainable if p.startswith("depth/")}
    others = dataclasses.replace(batch, code_targets=(batch.code_targets + 1) % 11,
                                 code_weight=1 - batch.code_weight)
    same, _ = step(begin, {"pairs": others})
    jax.tree.map(np.testing.assert_array_equal, same, after)
    heard, _ = step(begin, {"pairs": dataclasses.replace(batch, codes=(batch.codes + 1) % 11)})
    assert moved(heard, after)
    for _ in range(15):
        after, metrics = step(after, {"pairs": batch})
    assert float(metrics["loss"]) < 0.5 and float(metrics["accuracy"]) == 1


@pytest.mark.slow
def test_the_audio_can_be_aligned_as_well():
    begin, step, batch = aligned(streams="text,audio")
    after, metrics = step(begin, {"pairs": batch})
    np.testing.assert_allclose(metrics["preference"], 2 * np.log(2), rtol=1e-7)
    np.testing.assert_allclose(metrics["loss"], 2 * np.log(2) + 0.5 * metrics["audio"], rtol=1e-6)
    assert float(metrics["margin"]) == 0 and moved(after, begin) == set(after.trainable)
    unknown = dataclasses.replace(batch, code_reference=np.full((1, 2, 2), np.nan, np.float32))
    same, _ = step(begin, {"pairs": unknown})
    jax.tree.map(np.testing.assert_array_equal, same, begin)


def alone():
    """Every reply as a tree of its own, chosen and rejected side by side."""
    return [frames.FrameTree(tree().trunk[: b.after], (b,)) for b in tree().branches]


def test_pairs_as_trees_equal_pairs_as_two_sequences():
    """Both streams, and CE on the audio of what was chosen."""
    begin, step, _ = aligned(streams="text,audio")
    rng = np.random.default_rng(2)
    whole = told(rng.normal(-20, 3, (2, 2, 2)))
    apart = [dataclasses.replace(one, branches=(b,)) for one, b in zip(
        alone(), whole.branches, strict=True)]
    (found, values), (expected, others) = (
        step(begin, {"pairs": packed(trees, True)}) for trees in ([whole], apart))
    for name in ("loss", "preference", "audio", "margin", "audio_chosen_log_prob"):
        np.testing.assert_allclose(values[name], others[name], rtol=2e-5, err_msg=name)
    assert abs(float(values["margin"])) > 0.01 and values["audio"] > 1
    moments = lambda of: next(s.mu for s in of.optimizer if hasattr(s, "mu"))
    tiny.assert_same_gradients(moments(found), moments(expected))


def test_padding_may_count_for_nothing():
    """Then the words alone are scored, and silence has none."""
    model = tiny_streams.config()
    trunk, silence, words = (np.array(tiny_streams.drawn(np.random.default_rng(3), n))
                             for n in (6, 4, 4))
    silence[:, 0], words[:, 0] = model.pad, [model.epad, 5, 6, model.pad]
    pair = frames.FrameTree(trunk, tuple(
        frames.FrameBranch(6, x, reference=0.0) for x in (words, silence)))
    graph, batch = state.abstract(model)[0], packed([pair], False)

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def both(params):
        return {padding: pair_losses(state.model_of(graph, params), {"b": batch}, StreamPreference(
            "dpo", padding=padding), None) for padding in (True, False)}

    found = {padding: {name: float(values[name][0]) for name in (
        "chosen_log_prob", "rejected_log_prob")} | {"pairs": float(values["preference"][1])}
        for padding, values in both(tiny.parameters(model)).items()}
    assert found[True]["pairs"] == found[False]["pairs"] == 1
    assert found[False]["rejected_log_prob"] == 0 > found[True]["rejected_log_prob"]
    assert 0 > found[False]["chosen_log_prob"] > found[True]["chosen_log_prob"]
