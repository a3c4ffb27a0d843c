"""The joint-DST step: what it trains, what it leaves alone, and how its losses merge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from ml_collections import ConfigDict

from speechdst.data.batch import stack
from speechdst.data.tree import pack
from speechdst.steps.joint_dst import losses, make_step
from speechdst.training import optimizer, state

MODEL = tiny.config()
TRAINABLE = (r"^connector", r"^text_encoder", r"lora")
TERMS = {"speech": "speech", "text": "text", "ctc": "ctc"}
WEIGHTS = {"speech": 1.0, "text": 0.5, "ctc": 0.25}


@functools.cache
def batches():
    """Speech trees, and two batches of text whose losses share a name."""
    rng = np.random.default_rng(0)
    made = {}
    for name, path, kind in (
        ("speech", "speech", "text_history"),
        ("text", "words", "text_history"),
        ("more", "tokens", "single"),
    ):
        trees = tiny.builder(kind, path).trees(tiny.dialogue(rng, 2, frames=(30, 60)))
        tables = () if path == "tokens" else None
        shape = tiny.shape(path, positions=256, **({} if tables is None else {"tables": tables}))
        made[name] = stack([pack(trees, shape)])
    return made


def stepped():
    """What the compiled step reads: one batch of either path."""
    return {name: batches()[name] for name in ("speech", "text")}


def config(**kwargs):
    return ConfigDict(
        dict(
            lr=1e-2,
            warmup=1,
            decay="constant",
            end_ratio=1.0,
            clip=1.0,
            weight_decay=0.01,
            b2=0.98,
            multipliers=(),
        )
        | kwargs
    )


@functools.cache
def trained(steps: int):
    """The state before and after so many steps on the same batches, and what they reported."""
    tx = optimizer.make(config(), 100)
    first = current = state.start(tiny.parameters(MODEL), TRAINABLE, tx, seed=0)
    reported = []
    for _ in range(steps):
        current, values = compiled()(current, stepped())
        reported.append({k: float(v) for k, v in values.items()})
    return first, current, reported


@functools.cache
def compiled():
    stage = ConfigDict(dict(optimizer=config(), steps=100, weights=WEIGHTS))
    names = {name: TERMS[name] for name in ("speech", "text")}
    return make_step(state.abstract(MODEL)[0], stage, names, compiler_options=tiny.QUICK)


def test_frozen_is_frozen():
    first, last, _ = trained(10)
    trains = lambda path: path.startswith(("connector", "text_encoder")) or "lora" in path
    assert set(first.trainable) == {p for p in tiny.parameters(MODEL) if trains(p)}
    assert set(last.frozen) == {p for p in tiny.parameters(MODEL) if not trains(p)}
    for path, value in last.frozen.items():
        np.testing.assert_array_equal(value, tiny.parameters(MODEL)[path])
    moments = [x for x in jax.tree.leaves(last.optimizer) if x.ndim]
    sizes = sorted(x.shape for x in moments)
    assert sizes == sorted([v.shape for v in first.trainable.values()] * 2), "two moments each"
    for path, value in last.trainable.items():
        assert not np.array_equal(value, first.trainable[path]), path


def test_the_loss_falls_and_is_the_weighted_sum_of_means():
    _, last, reported = trained(10)
    assert int(last.step) == 10
    # Only towers and LoRA learn here, under a frozen head: slowly, but at every step.
    for name in ("loss", "speech", "text"):
        assert (np.diff([values[name] for values in reported]) < 0).all(), name
    # CTC reads the encoder only, and that is frozen here.
    np.testing.assert_allclose(reported[-1]["ctc"], reported[0]["ctc"], rtol=1e-6)
    assert reported[0]["ctc"] > 0
    for values in reported:
        assert all(np.isfinite(v) for v in values.values())
        expected = sum(w * values[name] for name, w in WEIGHTS.items())
        np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)


def test_a_drawn_state_and_one_that_a_step_made_are_one_program():
    trained(10)
    assert compiled()._cache_size() == 1


def test_batches_of_one_loss_are_merged_before_they_are_divided():
    params, graph = tiny.parameters(MODEL), state.abstract(MODEL)[0]

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def pairs(params, text, more):
        terms = {"text": "text", "more": "text"}
        one = lambda b: losses(state.model_of(graph, params), b, terms, jax.random.key(0))["text"]
        return one({"text": text}), one({"more": more}), one({"text": text, "more": more})

    text, more, both = pairs(params, batches()["text"], batches()["more"])
    assert more[1] > text[1] / 2 > 0
    np.testing.assert_allclose(both, np.add(text, more), rtol=1e-5)


def test_the_same_state_takes_the_same_step():
    first, _, reported = trained(10)
    again, values = compiled()(first, stepped())
    assert float(values["loss"]) == reported[0]["loss"]
    assert int(again.step) == 1 and np.array_equal(again.key, first.key)


def test_a_trainable_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="'encodr' matches no parameter"):
        state.start(tiny.parameters(MODEL), ("encodr",), optax.sgd(0.1), seed=0)
    assert jnp.issubdtype(
        state.start(tiny.parameters(MODEL), ("encoder",), optax.sgd(0.1), seed=0).key.dtype,
        jnp.unsignedinteger,
    )
