"""Training a multi-stream model from scratch, and aligning it on pairs of replies."""

import dataclasses
import math

import jax
import numpy as np
import tiny
import tiny_streams
from ml_collections import ConfigDict

from speechdst.data import frames
from speechdst.data.batch import stack
from speechdst.objectives.preference import Preference
from speechdst.objectives.streams import StreamWeights
from speechdst.steps import dpo_ln
from speechdst.steps.multistream import make_step
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


def test_pairs_of_replies_are_aligned_by_their_text_alone():
    """DPO-LN's objective over frames: exact at the start, and the depth part has no gradient."""
    model, objective = tiny_streams.config(), Preference()
    graph, _ = state.abstract(model)
    rng = np.random.default_rng(1)
    draw = lambda n: tiny_streams.drawn(rng, n)
    tree = frames.FrameTree(draw(12), tuple(
        frames.FrameBranch(after, draw(n)) for after, n in ((7, 5), (7, 9), (12, 4), (12, 4))))

    def scored(params, batch):
        pairs = dpo_ln.losses(state.model_of(graph, params), {"pairs": batch}, objective)
        return pairs["preference"][0], pairs

    run = jax.jit(jax.value_and_grad(scored, has_aux=True), compiler_options=tiny.QUICK)
    params = tiny.parameters(model)
    batch = stack([frames.pack([tree], tiny_streams.streams(), 48, 16, pairs=2)])
    (_, pairs), _ = run(params, batch)
    known = np.asarray(pairs[f"{dpo_ln.LOG_PROBS}/pairs"][0])
    assert known.shape == (1, 2, 2) and (known < 0).all()
    told = dataclasses.replace(tree, branches=tuple(
        dataclasses.replace(b, reference=float(r))
        for b, r in zip(tree.branches, known.ravel(), strict=True)))
    batch = stack([frames.pack([told], tiny_streams.streams(), 48, 16, pairs=2)])
    (loss, pairs), grads = run(params, batch)
    np.testing.assert_allclose(loss, 2 * math.log(2), rtol=1e-6)
    assert pairs["margin"][0] == 0
    for path, g in grads.items():
        assert bool(np.any(g)) != path.startswith("depth/"), path
