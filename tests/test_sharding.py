"""One step is the same step on every mesh, and nothing is whole that the rules split.

The shape that has every axis is tried; among the slow tests is every shape of 2, 4 and 8 devices.
"""

import dataclasses
import functools
import itertools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_recipes
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from speechdst import sharding
from speechdst.data.contexts import Context
from speechdst.data.dialogue import BadInput
from speechdst.decoding.decode import prefill
from speechdst.decoding.track import Tracker
from speechdst.hlo import analyze
from speechdst.objectives.cross_entropy import cross_entropy
from speechdst.steps.dpo_ln import LOG_PROBS
from speechdst.training import state
from speechdst.training.checkpoint import Checkpointer

ROWS = 8
ALL = [s for n in (2, 4, 8) for s in itertools.product((1, 2, 4, 8), repeat=3)
       if math.prod(s) == n]
# The others are other losses, `streams` another model as well.
QUICK = ("joint_dst",)
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
         for name in tiny_recipes.STAGES]
CASES = [pytest.param(name, shape, marks=[] if shape == (2, 2, 2) and name in QUICK else
                      pytest.mark.slow) for name in tiny_recipes.STAGES for shape in ALL]


def mesh_of(*shape):
    return sharding.make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])


@functools.cache
def stepper(name, shape):
    """A recipe's step on this mesh, from its first state: batches -> (new state, metrics)."""
    recipe, mesh = tiny_recipes.recipe(name, ROWS), mesh_of(*shape)
    params = jax.device_put(recipe.params, sharding.parameters(recipe.params, mesh))
    begin = state.placed(params, recipe.stage.trainable, recipe.tx, 0, mesh)
    step = recipe.step(out_shardings=(state.shardings(begin, mesh), None))

    def run(batches):
        with jax.set_mesh(mesh):
            return step(begin, sharding.put(batches, mesh))

    return run


@functools.cache
def batches_of(name):
    """Pairs come as the model that the stage starts from reads them, on one device."""
    batches = tiny_recipes.recipe(name, ROWS).batches
    if not any(batch.reference.size for batch in batches.values()):
        return batches
    _, values = stepper(name, (1, 1, 1))(batches)
    return {key: dataclasses.replace(batch, reference=np.asarray(values[f"{LOG_PROBS}/{key}"]))
            for key, batch in batches.items()}


@functools.cache
def stepped(name, shape):
    """One step of a recipe on this mesh: (new state, metrics)."""
    return stepper(name, shape)(batches_of(name))


def moments(of):
    """The first moments: a tenth of the gradients after one step."""
    return next(s.mu for s in of.optimizer if hasattr(s, "mu"))


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_one_step_is_the_same_on_every_mesh(name, shape):
    expected, values = stepped(name, (1, 1, 1))
    found, other = stepped(name, shape)
    np.testing.assert_allclose(other["loss"], values["loss"], rtol=1e-5)
    # Adam turns a gradient that is zero in exact arithmetic into noise of the learning rate's
    # size, so gradients are compared through the first moments, parameters where they have one.
    tiny.assert_same_gradients(moments(found), moments(expected))
    moved = 0
    for path, value in expected.trainable.items():
        moment = np.abs(moments(expected)[path])
        real = moment > 1e-4 * float(moment.max())
        moved += real.sum()
        np.testing.assert_allclose(
            np.where(real, found.trainable[path], 0), np.where(real, value, 0), atol=1e-4)
    assert moved > 1000


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_whole_that_the_rules_split(name):
    """Every array of the state after a step, by what a device of the mesh really holds."""
    found, _ = stepped(name, (2, 2, 2))
    split = {"fsdp": 0, "tensor": 0}
    for where, arrays in (("parameter", found.trainable | found.frozen),
                          ("moment", moments(found))):
        for path, value in arrays.items():
            local = value.addressable_shards[0].data
            assert value.sharding.is_equivalent_to(NamedSharding(
                value.sharding.mesh, sharding.spec(path, value.shape, value.sharding.mesh)),
                value.ndim), f"{where} {path} is {value.sharding.spec}"
            kept = [a for a in jax.tree.leaves(tuple(value.sharding.spec)) if a]
            assert local.size == value.size // 2 ** len(kept)
            for axis in kept:
                split[axis] += 1
            # What stays whole is small: norms, biases, and tables of a few entries.
            assert kept or value.size <= 2048 or "positions" in path, f"{where} {path} is whole"
    assert min(split.values()) > 10
    alone = stepped(name, (1, 1, 1))[0].trainable
    part = sum(x.addressable_shards[0].data.size for x in found.trainable.values())
    assert part < 0.4 * sum(x.size for x in alone.values())


@pytest.mark.parametrize(("path", "expected"), {
    "decoder/transformer/blocks/q/kernel": P(None, "fsdp", "tensor"),
    "decoder/transformer/blocks/o/kernel": P(None, "tensor", "fsdp"),
    "decoder/transformer/blocks/up/kernel": P(None, "fsdp", "tensor"),
    "decoder/transformer/blocks/down/kernel": P(None, "tensor", "fsdp"),
    "decoder/transformer/blocks/q/lora_a": P(None, "fsdp", None),
    "decoder/transformer/blocks/q/lora_b": P(None, None, "tensor"),
    "decoder/transformer/blocks/down/lora_a": P(None, "tensor", None),
    "decoder/transformer/blocks/down/lora_b": P(None, None, "fsdp"),
    "decoder/embedding": P(None, "tensor", "fsdp"),
    "decoder/lm_head/kernel": P(None, "fsdp", "tensor"),
    "encoder/convs/0/kernel": P(None, None, "fsdp"),
    "encoder/position_conv/direction": P(None, None, "fsdp"),
    "encoder/project/kernel": P(None, "fsdp", None),
    "decoder/transformer/norm/scale": P(None),
}.items(), ids=str)
def test_the_rules(path, expected):
    shape = (4, 8, 16) if "blocks" in path or "conv" in path or "fsdp" in str(expected) else (8,)
    mesh = sharding.make_mesh(2, 2, 2)
    assert sharding.spec(path, shape, mesh) == expected


def test_an_axis_that_does_not_divide_is_dropped():
    mesh = sharding.make_mesh(1, 4, 2)
    assert sharding.spec("a/q/kernel", (3, 8), mesh) == P(None, "tensor")
    assert sharding.spec("a/q/kernel", (5, 4, 8), mesh) == P(None, "fsdp", "tensor")
    assert sharding.spec("a/scale", (8,), mesh) == P(None)


def test_rows_are_split_over_data_and_fsdp_as_far_as_they_go():
    batch = tiny_recipes.recipe("joint_dst", ROWS).batches
    for shape, rows in (((4, 1, 1), 2), ((1, 2, 2), 4), ((2, 2, 2), 2)):
        put = sharding.put(batch, mesh_of(*shape))
        assert all(x.addressable_shards[0].data.shape[0] == rows for x in jax.tree.leaves(put))
    mesh = sharding.make_mesh(2, 4, 1)
    for count, parts in ((1, 1), (2, 2), (6, 2), (8, 8), (16, 8)):
        put = sharding.put(np.arange(count), mesh)
        assert put.addressable_shards[0].data.size == count // parts
        assert sharding.repeats(mesh, count) == 8 // parts
        assert sharding.share(mesh, count) == tuple(range(count))


def test_a_mesh_must_use_all_devices():
    assert dict(sharding.make_mesh(-1, 2, 1).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    with pytest.raises(BadInput, match="mesh data=3 fsdp=1 tensor=1 needs 3 devices"):
        sharding.make_mesh(3, 1, 1)


@pytest.mark.parametrize(("shape", "slices"), [
    ((4, 2, 2), 2), ((4, 2, 2), 4), ((2, 8, 1), 4), ((1, 4, 4), 2)], ids=str)
def test_only_data_and_then_fsdp_cross_slices(shape, slices):
    """Neighbours along `tensor`, and along `fsdp` where `data` suffices, share a slice."""
    size = math.prod(shape) // slices
    devices = [types.SimpleNamespace(id=i, slice_index=i // size, process_index=i, platform="cpu",
                                     device_kind="cpu") for i in range(math.prod(shape))]
    placed = np.vectorize(lambda d: d.slice_index)(
        sharding.across_slices(shape, slices, devices[::-1]))
    assert placed.shape == shape and (placed == placed[:, :, :1]).all()
    assert (np.bincount(placed.ravel()) == size).all()
    if shape[0] % slices == 0:
        assert (placed == placed[:, :1]).all()
    with pytest.raises(BadInput, match="cannot be shared by 3 slices"):
        sharding.across_slices((4, 2, 2), 3, devices)


def test_losses_of_rows_on_a_mesh_are_those_without_one():
    """Devices whose rows have nothing to predict skip their chunks; the others do not wait."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((8, 24, 16)).astype(np.float32)
    head = rng.standard_normal((16, 12)).astype(np.float32)
    targets = rng.integers(0, 12, (8, 24))
    weights = (rng.random((8, 24)) < 0.5).astype(np.float32)
    weights[2:6] = 0

    def loss(hidden, head, targets, weights):
        return cross_entropy(hidden, head, targets, weights, chunk=8)["loss"][0]

    both = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=tiny.QUICK)
    expected, (by_hidden, by_head) = both(hidden, head, targets, weights)
    mesh = sharding.make_mesh(2, 2, 2)
    rows = sharding.put((hidden, targets, weights), mesh)
    split = jax.device_put(head, NamedSharding(mesh, P("fsdp", "tensor")))
    with jax.set_mesh(mesh):
        found, (other, other_head) = both(rows[0], split, *rows[1:])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(other, by_hidden, atol=1e-5)
    np.testing.assert_allclose(other_head, by_head, atol=1e-4)


def test_what_devices_find_apart_is_added_up_once():
    """Gradients of layers that are used twice cross the mesh once; rows and what is drawn for them
    are those of one device."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 16, 16)).astype(np.float32)
    batches = {name: rng.standard_normal((8, n, 16)).astype(np.float32) for name, n in
               (("a", 5), ("b", 3))}

    def each(batches, whole):
        total, means = 0.0, {}
        for name, x in batches.items():
            drawn = functools.partial(jax.random.bernoulli, whole[1], 0.5)
            kept = sharding.own_rows(lambda n, x=x, drawn=drawn: drawn((n, x.shape[1])), len(x))
            x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, whole[0])
            total += (x * kept[..., None]).sum()
            means[name] = x.mean((1, 2))
        return total, means

    @jax.jit
    def gradient(weights, batches):
        return jax.value_and_grad(lambda w: sharding.apart(
            each, batches, (w, jax.random.key(0))), has_aux=True)(weights)

    (total, means), expected = gradient(weights, batches)
    mesh = mesh_of(4, 2, 1)
    put = sharding.put(batches, mesh)
    with jax.set_mesh(mesh):
        compiled = gradient.lower(weights, put).compile()
        (found, rows), gradients = compiled(weights, put)
    np.testing.assert_allclose(found, total, rtol=1e-5)
    np.testing.assert_allclose(gradients, expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), rows, means)
    over_data = [c for c in analyze(compiled.as_text()).collectives
                 if c.kind == "all-reduce" and {0, 2, 4, 6} <= set(c.group)]
    assert all(c.times == 1 for c in over_data)
    assert weights.nbytes <= sum(c.bytes for c in over_data) < 1.5 * weights.nbytes


def test_answers_and_cache_over_a_mesh():
    """Tracking says the same on four devices, and the cache of keys and values is split."""
    model = tiny.config(layers=1)
    params, mesh = tiny.parameters(model), mesh_of(1, 2, 2)
    split = jax.device_put(params, sharding.parameters(params, mesh))
    rng = np.random.default_rng(2)
    dialogues = [tiny.dialogue(rng, 1, name=f"d{i}") for i in range(3)]
    said = [list(Tracker(p, model, tiny.tokenizer(), Context("text_history"), rows=4,
                         max_new=6).track(dialogues)) for p in (params, split)]
    assert said[0] == said[1]

    graph, _ = state.abstract(model)
    batch = tiny.row(tiny.builder("text_history").trees(dialogues[0]), tiny.shape(positions=128))
    batch = jax.tree.map(lambda x: np.repeat(x, 2, 0), batch)
    filled = jax.jit(lambda p, b: prefill(state.model_of(graph, p), b)[1],
                     compiler_options=tiny.QUICK)
    with jax.set_mesh(mesh):
        for x in filled(split, sharding.put(batch, mesh)):
            where = NamedSharding(mesh, P(None, "fsdp", None, "tensor", None))
            assert x.sharding.is_equivalent_to(where, x.ndim)
            assert x.addressable_shards[0].data.size == x.size // 4


def test_a_checkpoint_comes_back_on_any_mesh(tmp_path):
    """Saved on eight devices, restored on four otherwise arranged and on one, to the last bit."""
    saved, _ = stepped("joint_dst", (2, 2, 2))
    recipe = tiny_recipes.recipe("joint_dst", ROWS)
    checkpoints = Checkpointer(tmp_path, {"config": "tiny"})
    checkpoints.save(1, saved, {}, wait=True)
    for shape in ((1, 4, 1), (1, 1, 1)):
        mesh = mesh_of(*shape)
        params = jax.device_put(jax.tree.map(np.asarray, recipe.params),
                                sharding.parameters(recipe.params, mesh))
        template = state.placed(params, recipe.stage.trainable, recipe.tx, 9, mesh)
        where = state.shardings(template, mesh)
        found = checkpoints.restore(template, {})
        jax.tree.map(np.testing.assert_array_equal, found, saved)
        for x, expected in zip(jax.tree.leaves(found), jax.tree.leaves(where), strict=True):
            assert x.sharding.is_equivalent_to(expected, x.ndim)
    checkpoints.close()


def test_without_a_mesh_nothing_is_constrained():
    x = jnp.ones((2, 3, 4))
    assert sharding.constrain(x, "stream") is x
