"""Neighbours don't matter: what an example is batched, padded or packed with changes nothing.

Every kind of padding is filled with garbage (huge numbers, not-a-numbers), tables and rows are
made longer, and outputs must stay as they are, to 1e-5 of their largest entry.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from speechdst.data.batch import stack
from speechdst.data.tree import pack
from speechdst.training import state

STACKS = (0, 3)  # the connector: convolutions, or that many frames stacked


def close(found, expected):
    scale = float(np.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale, rtol=0)


def garbage(batch, rng, kind):
    """The batch with everything that is padding overwritten."""

    def features(x, lengths):
        wild = {"huge": 1e3 + 1e6 * rng.standard_normal(x.shape), "nan": np.full(x.shape, np.nan)}
        behind = np.arange(x.shape[2]) >= lengths[..., None]
        return np.where(behind[..., None], wild[kind], x).astype(np.float32)

    def ids(x, lengths):
        wild = rng.integers(1, 300, x.shape)
        return np.where(np.arange(x.shape[2]) >= lengths[..., None], wild, x).astype(np.int32)

    tables = tuple(
        dataclasses.replace(
            t,
            features=None if t.features is None else features(t.features, t.lengths),
            words=None if t.words is None else ids(t.words, t.lengths),
            transcripts=ids(t.transcripts, t.transcript_lengths),
        )
        for t in batch.tables
    )
    padding = batch.tree < 0
    fill = lambda x, high: np.where(padding, rng.integers(0, high, x.shape), x).astype(np.int32)
    return dataclasses.replace(
        batch,
        tables=tables,
        tokens=fill(batch.tokens, 300),
        targets=fill(batch.targets, 300),
        positions=fill(batch.positions, 1000),
    )


@functools.cache
def module(name, connector_stack=0, decoder="plain"):
    """A compiled part of the model: (params, *arrays) -> output."""
    config = tiny.config(stack=connector_stack, decoder=decoder)
    graph, _ = state.abstract(config)
    parts = {
        "encoder": lambda m: m.encoder,
        "connector": lambda m: m.connector.speech,
        "shared": lambda m: m.connector.shared,
        "text_encoder": lambda m: lambda x, n: (m.text_encoder(x, n, None, jnp.float32), n),
        "model": lambda m: lambda batch: m(batch),
    }
    run = lambda params, *x: parts[name](state.model_of(graph, params))(*x)
    return functools.partial(jax.jit(run, compiler_options=tiny.QUICK), tiny.parameters(config))


def padded(examples, slots, size, fill):
    """Examples [frames, ...] as [slots, size, ...] full of `fill`, and their lengths."""
    x = np.zeros((slots, size, *examples[0].shape[1:]), examples[0].dtype)
    x[:] = fill(x.shape)
    for i, e in enumerate(examples):
        x[i, : len(e)] = e
    return x, np.array([len(e) for e in examples] + [0] * (slots - len(examples)), np.int32)


@pytest.mark.parametrize(
    ("name", "connector_stack"),
    [("encoder", 0), ("connector", 0), ("connector", 3), ("shared", 0), ("text_encoder", 0)],
)
def test_modules_are_deaf_to_padding(name, connector_stack):
    rng = np.random.default_rng(0)
    run = module(name, connector_stack)
    if name == "text_encoder":
        draw = lambda n: rng.integers(1, 300, n).astype(np.int32)
        fills = [lambda s: rng.integers(1, 300, s), lambda s: np.full(s, 299)]
    else:
        width = tiny.CHANNELS if name == "encoder" else 32
        draw = lambda n: rng.standard_normal((n, width)).astype(np.float32)
        fills = [lambda s: 1e6 * rng.standard_normal(s)]
        # What an encoder leaves behind the end is finite, so NaN is for what comes from outside.
        fills += [lambda s: np.full(s, np.nan)] if name == "encoder" else []
    # Also shorter than a convolution's taps, and lengths that no stride divides.
    examples = [draw(n) for n in (2, 7, 23)]
    alone = []
    for e in examples:
        out, lengths = run(e[None], np.array([len(e)], np.int32))
        assert lengths[0] == out.shape[1] > 0
        alone.append(out[0])
    for fill in fills:
        x, sizes = padded(examples[::-1], 5, 40, fill)
        out, lengths = run(x, sizes)
        assert not lengths[3:].any()
        for i, expected in enumerate(alone[::-1]):
            assert lengths[i] == len(expected)
            close(out[i, : lengths[i]], expected)


@pytest.mark.parametrize("connector_stack", STACKS)
def test_lengths_are_as_planned(connector_stack):
    """What the layout reserves for an utterance is what the towers fill."""
    config = tiny.config(stack=connector_stack)
    graph, _ = state.abstract(config)

    def lengths(params, n):
        m = state.model_of(graph, params)
        return m.connector.speech(*m.encoder(jnp.zeros((len(n), 64, tiny.CHANNELS)), n))[1]

    sizes = jnp.arange(64)
    found = jax.eval_shape(lengths, tiny.parameters(config), sizes)
    assert found.shape == sizes.shape
    found = jax.jit(lengths, compiler_options=tiny.QUICK)(tiny.parameters(config), sizes)
    assert found.tolist() == [config.soft_length("speech", n) for n in range(64)]


def rows(forests, shape):
    return stack([pack(f, shape) for f in forests])


@pytest.mark.parametrize(
    ("kind", "path"),
    [("spoken_history", "speech"), ("single", "speech"), ("text_history", "words")],
)
def test_the_whole_model_is_deaf_to_neighbours(kind, path):
    rng = np.random.default_rng(1)
    build = tiny.builder(kind, path)
    tree = build.trees(tiny.dialogue(rng, 2))[-1]
    others = [t for _ in range(3) for t in build.trees(tiny.dialogue(rng, 2))][:3]
    # Small tables and a short row (dense attention); then longer ones of both sorts (blockwise).
    small = tiny.shape(path, positions=192, block=192, tables=((3, 64),))
    large = tiny.shape(path, tables=((4, 24), (8, 72)))
    run = module("model")
    alone = run(rows([[tree]], small))[0, : np.sum(pack([tree], small)["tree"] == 0)]
    for i, forest in enumerate(
        ([tree], [others[0], tree], [tree, *others[:2]], [others[1], tree, others[2]])
    ):
        batch = rows([forest, others[:2]], large)
        place = batch.tree[0] == forest.index(tree)
        for fill in ("huge", "nan"):
            close(run(garbage(batch, np.random.default_rng(i), fill))[0][place], alone)


@pytest.mark.parametrize("decoder", tiny.FAMILIES)
def test_every_decoder_is_deaf_to_neighbours(decoder):
    """Also where windows and caps are; dense attention alone, blockwise in company."""
    rng = np.random.default_rng(1)
    build = tiny.builder("text_history")
    tree = build.trees(tiny.dialogue(rng, 2))[-1]
    others = [t for _ in range(3) for t in build.trees(tiny.dialogue(rng, 2))][:2]
    small = tiny.shape(positions=192, block=192, tables=((3, 64),))
    run = module("model", decoder=decoder)
    alone = run(rows([[tree]], small))[0, : np.sum(pack([tree], small)["tree"] == 0)]
    batch = rows([[others[0], tree, others[1]], others], tiny.shape())
    for fill in ("huge", "nan"):
        found = run(garbage(batch, np.random.default_rng(0), fill))[0]
        close(found[batch.tree[0] == 1], alone)


def test_losses_and_gradients_are_deaf_to_padding():
    rng = np.random.default_rng(2)
    trees = tiny.builder("text_history").trees(tiny.dialogue(rng, 3))
    batch = tiny.row(trees, tiny.shape())
    run = functools.partial(tiny.gradient(tiny.config()), tiny.parameters(tiny.config()))
    (loss, pairs), grads = run(batch, 0.5)
    assert pairs["ctc"][1] > 0
    for fill in ("huge", "nan"):
        (other, other_pairs), other_grads = run(garbage(batch, rng, fill), 0.5)
        np.testing.assert_allclose(other, loss, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), other_pairs, pairs)
        tiny.assert_same_gradients(other_grads, grads, relative=1e-5)


def test_text_masking_is_off_in_evaluation():
    config = tiny.config(mask_rate=0.9)
    graph, _ = state.abstract(config)
    words, lengths = np.arange(1, 13)[None], np.array([12])

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def run(params, key):
        return state.model_of(graph, params).text_encoder(words, lengths, key, jnp.float32)

    params, keys = tiny.parameters(tiny.config()), jax.random.split(jax.random.key(0), 2)
    seen = np.asarray(run(params, None))
    np.testing.assert_array_equal(module("text_encoder")(words, lengths)[0], seen)
    assert not np.allclose(run(params, keys[0]), seen)
    assert not np.allclose(run(params, keys[0]), run(params, keys[1]))
