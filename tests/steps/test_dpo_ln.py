"""The DPO-LN step: pairs as trees, a reference that is exact, and what is refused."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from speechdst import sharding
from speechdst.data import loader
from speechdst.data.contexts import WHOLE
from speechdst.data.pairs import PairBuilder, WrongStates, name
from speechdst.objectives.preference import Preference
from speechdst.recipes import dpo_ln
from speechdst.steps.dpo_ln import losses, make_step
from speechdst.training import optimizer, reference, state

MODEL = tiny.config(layers=1, ctc=False)
ONTOLOGY = {domain: {slot: list(tiny.VALUES) for slot in slots}
            for domain, slots in tiny.SCHEMA.items()}
STAGE = ConfigDict(dict(steps=100, weights=dict(preference=1.0), optimizer=dict(
    lr=3e-3, warmup=1, decay="constant", end_ratio=1.0, clip=1.0, weight_decay=0.1, b2=0.95,
    multipliers=(), compensated=True)))
TRAINABLE = (r"^decoder",)


def builder():
    return PairBuilder(tiny.builder("text_history", "tokens", MODEL), WrongStates(ONTOLOGY))


@functools.cache
def pairs_loader():
    rng = np.random.default_rng(0)
    dialogues = [tiny.dialogue(rng, 2 + i % 2, name=f"d{i}") for i in range(7)]
    return loader.make([loader.Source(dialogues)], builder(), positions=256, rows=2, seed=0,
                       block=64, channels=tiny.CHANNELS, pairs=True)


@functools.cache
def mesh():
    return sharding.make_mesh()


@functools.cache
def begin():
    params = tiny.parameters(MODEL)
    return state.placed(jax.device_put(params, sharding.parameters(params, mesh())), TRAINABLE,
                        optimizer.make(STAGE.optimizer, STAGE.steps), 0, mesh())


@functools.cache
def step():
    return make_step(state.abstract(MODEL)[0], STAGE, Preference(), compiler_options=tiny.QUICK,
                     out_shardings=(state.shardings(begin(), mesh()), None))


def stepped(current, batch):
    with jax.set_mesh(mesh()):
        return made()[0](current, {"pairs": sharding.put(batch, mesh(), 2)})


@functools.cache
def made():
    return reference.make(step(), begin(), "pairs", pairs_loader(), mesh())


def referring(values):
    of = pairs_loader()
    return dataclasses.replace(of, builder=of.builder.referring(values))


def test_pairs_as_trees_equal_pairs_as_two_sequences():
    rng = np.random.default_rng(4)
    (tree,) = builder().trees(tiny.dialogue(rng, 3))
    tree = dataclasses.replace(tree, branches=tuple(
        dataclasses.replace(b, reference=float(x))
        for b, x in zip(tree.branches, rng.normal(-60, 20, len(tree.branches)), strict=True)))
    shape = dataclasses.replace(tiny.shape("tokens", tables=(), positions=768), pairs=4)
    graph = state.abstract(MODEL)[0]

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def gradient(params, batch):
        found = losses(state.model_of(graph, params), {"b": batch}, Preference("dpo_ln", 2.0))
        total, pairs = found["preference"]
        return total / pairs, (pairs, found["margin"])

    run = lambda trees: gradient(tiny.parameters(MODEL), tiny.row(trees, shape))
    (loss, (pairs, margin)), grads = run([tree])
    (expected, (same, margins)), expected_grads = run(tiny.alone(tree))
    assert pairs == same == 3 and abs(float(margin[0])) > 0.1
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(margin, margins, rtol=1e-4)
    tiny.assert_same_gradients(grads, expected_grads)


def test_the_reference_pass_leaves_the_state_alone():
    _, after, found = made()
    jax.tree.map(np.testing.assert_array_equal, after, begin())
    assert set(found) == {name(d, WHOLE) for d in pairs_loader().sources[0].dialogues}
    assert all(-500 < x < 0 for values in found.values() for x in values)


def test_a_policy_that_has_not_moved_has_no_margin_in_any_batch():
    """To the last bit, however rows meet in a batch; then it learns."""
    batches = iter(referring(made()[2]))
    first = [next(batches) for _ in range(6)]
    assert len({b.tokens.tobytes() for b in first}) > 3
    for batch in first:
        after, values = stepped(begin(), batch)
        assert float(values["margin"]) == float(values["chosen_log_ratio"]) == 0.0
        assert float(values["loss"]) == float(values["preference"]) == np.log(np.float32(2))
        assert float(values["accuracy"]) == 0 and float(values["chosen_log_prob"]) < 0
        assert int(after.step) == 1
    current = begin()
    for _ in range(12):
        current, values = stepped(current, first[0])
    assert values["loss"] < 0.5 and values["margin"] > 0.3 and values["accuracy"] == 1


def test_an_unknown_reference_teaches_nothing():
    batch = next(iter(pairs_loader()))
    after, values = stepped(begin(), batch)
    jax.tree.map(np.testing.assert_array_equal, after, begin())
    assert not np.isfinite(values["loss"]), "which stops a run"


def test_the_reference_is_kept_bitwise_and_refused_for_other_weights_or_data(tmp_path):
    loaded, made_from = pairs_loader(), {"model": "m", "data": "d"}
    assert reference.read(tmp_path, made_from) is None
    reference.write(tmp_path, made()[2], made_from)
    assert reference.read(tmp_path, made_from) == made()[2]
    for field in made_from:
        with pytest.raises(reference.BadInput, match=f"made with {field} {made_from[field]}, this"):
            reference.read(tmp_path, made_from | {field: "other"})
    (tmp_path / reference.FILE).write_text(json.dumps([1]))
    with pytest.raises(reference.BadInput, match="no reference"):
        reference.read(tmp_path, made_from)
    print_of = lambda of, **settings: reference.fingerprints({}, {}, of, settings)["data"]
    assert print_of(loaded) == print_of(referring({})) != print_of(loaded, seed=1)
    (plan,) = loaded.plans
    moved = dataclasses.replace(plan, packings=(plan.packings[0][::-1],))
    assert print_of(dataclasses.replace(loaded, plans=(moved,))) != print_of(loaded)


def test_the_recipe_refers_once_and_then_reads_what_it_kept(tmp_path):
    config = ConfigDict(dict(model=dict(layers=1)))
    refer = lambda step, begin: dpo_ln.refer(
        config, tmp_path, tiny.tokenizer(), {"pairs": pairs_loader()}, step, begin)
    _, after, loaders = refer(made()[0], begin())
    first = next(iter(loaders["pairs"]))
    assert np.isfinite(first.reference).all() and first.reference.any()
    again = refer(None, after)[2]["pairs"]  # no step is taken
    np.testing.assert_array_equal(next(iter(again)).reference, first.reference)
    moved, _ = stepped(begin(), first)
    with pytest.raises(reference.BadInput, match="made with model"):
        refer(None, moved)


def test_a_dialogue_that_two_sources_have_is_named():
    of = pairs_loader()
    (source,), (plan,) = of.sources, of.plans
    twice = dataclasses.replace(of, sources=(source, source), plans=(plan, plan))
    with pytest.raises(reference.BadInput, match=r"tiny/train/d\d/-1.*two sources"):
        reference.make(made()[0], begin(), "pairs", twice, mesh())
