"""A tree trains exactly as its answers would one by one (sections 2 and 4 of the design)."""

import jax
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.data.contexts import TreeBuilder
from speechdst.data.tree import length

CASES = [
    ("spoken_history", "speech"),
    ("text_history", "speech"),
    ("single", "speech"),
    ("asr", "speech"),
    pytest.param("spoken_history", "words", marks=pytest.mark.slow),
    ("text_history", "words"),
    ("single", "words"),
]


def trained(trees, path, ctc, decoder="plain"):
    """Sums of the losses, their weight, and gradients of one row of trees."""
    tables = ((5, 8), (6, 24)) if path == "words" else ((8, 64),)
    model = tiny.config(decoder=decoder)
    (total, pairs), grads = tiny.gradient(model)(
        tiny.parameters(model),
        tiny.row(trees, tiny.shape(path, tables=tables)),
        0.5 if ctc else 0.0,
    )
    return np.array([total, *pairs["loss"], *(pairs["ctc"] if ctc else ())]), grads


def added(results):
    sums, grads = zip(*results, strict=True)
    return sum(sums), jax.tree.map(lambda *x: sum(x), *grads)


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    tiny.assert_same_gradients(found[1], expected[1])


@pytest.mark.parametrize(("kind", "path"), CASES)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), users=st.integers(2, 4))
def test_tree_equals_its_answers_one_by_one(kind, path, seed, users):
    rng = np.random.default_rng(seed)
    build: TreeBuilder = tiny.builder(kind, path)
    # A spoken history is heard by several answers: alone, each would count its CTC anew.
    ctc = path == "speech" and kind != "spoken_history"
    trees = build.trees(tiny.dialogue(rng, users))
    others = [tiny.silent(t) for t in build.trees(tiny.dialogue(rng, 2))]
    separate = added([trained([t], path, ctc) for tree in trees for t in tiny.alone(tree)])
    assert separate[0][2] > 10, "there is something to predict"
    assert not ctc or separate[0][4] > 0, "there is something to recognise"
    assert_same(added([trained([t], path, ctc) for t in trees]), separate)
    # Packed with trees that learn nothing: the others are there but must not be felt.
    half = len(others) // 2 + 1
    packed = [trained([*others[:half], t, *others[half:]], path, ctc) for t in trees[:1]]
    assert_same(added(packed), added([trained([t], path, ctc) for t in trees[:1]]))


@pytest.mark.parametrize("decoder", tiny.FAMILIES)
def test_tree_equals_its_answers_one_by_one_in_every_decoder(decoder):
    """With windows, caps and norms of every family; windows are shorter than the contexts."""
    rng = np.random.default_rng(11)
    (tree,) = tiny.builder("spoken_history").trees(tiny.dialogue(rng, 4))
    windows = tiny.config(decoder=decoder).decoder.transformer.windows
    assert not any(windows) or max(windows) < length(tiny.alone(tree)[-1]) / 2
    run = lambda t: trained([t], "speech", False, decoder)
    assert_same(run(tree), added([run(t) for t in tiny.alone(tree)]))


def test_ctc_of_a_spoken_history_counts_every_utterance_once():
    dialogue = tiny.dialogue(np.random.default_rng(3), 4)
    (tree,) = tiny.builder("spoken_history").trees(dialogue)
    each = tiny.builder("asr").trees(dialogue)
    whole = trained([tree], "speech", True)[0]
    parts = added([trained([t], "speech", True) for t in each])[0]
    np.testing.assert_allclose(whole[3:], parts[3:], rtol=1e-5)


def test_packed_trees_train_as_each_alone():
    rng = np.random.default_rng(7)
    build = tiny.builder("text_history")
    trees = [t for i in range(2) for t in build.trees(tiny.dialogue(rng, 2 + i))]
    separate = added([trained([t], "speech", True) for tree in trees for t in tiny.alone(tree)])
    assert_same(trained(trees, "speech", True), separate)
