"""One step is the same step on every mesh, and parameters really lie split over it."""

import functools

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from speechdst import sharding
from speechdst.data.batch import stack
from speechdst.data.tree import pack
from speechdst.steps.joint_dst import make_step
from speechdst.training import optimizer, state

MODEL = tiny.config(layers=1)
OPTIMIZER = ConfigDict(
    dict(
        lr=1e-3,
        warmup=1,
        decay="constant",
        end_ratio=1.0,
        clip=1.0,
        weight_decay=0.01,
        b2=0.98,
        multipliers=(),
    )
)
MESHES = [(4, 1, 1), (1, 4, 1), (1, 2, 2), (2, 1, 2)]


@functools.cache
def batch():
    """Four rows with as many trees as fit: unequal shares for every device."""
    rng = np.random.default_rng(0)
    build = tiny.builder("text_history", model=MODEL)
    trees = [build.trees(tiny.dialogue(rng, 1 + i % 2)) for i in range(4)]
    return stack(
        [pack(t, tiny.shape(model=MODEL, positions=192, tables=((2, 64),))) for t in trees]
    )


def on(mesh):
    """The state, its shardings and the batch, on this mesh."""
    tx = optimizer.make(OPTIMIZER, 10)
    begin = state.start(tiny.parameters(MODEL), (r"kernel$", r"lora", r"embedding"), tx, 0)
    shardings = state.TrainState(
        sharding.replicated(mesh),
        sharding.parameters(begin.trainable, mesh),
        sharding.parameters(begin.frozen, mesh),
        sharding.like_parameters(begin.optimizer, mesh),
        sharding.replicated(mesh),
    )
    return jax.device_put(begin, shardings), shardings, sharding.put(batch(), mesh)


@functools.cache
def stepped(data, fsdp, tensor):
    """One step on this mesh: (new state, losses)."""
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = sharding.make_mesh(data, fsdp, tensor, devices)
    begin, shardings, rows = on(mesh)
    stage = ConfigDict(dict(optimizer=OPTIMIZER, steps=10, weights=dict(speech=1.0, ctc=0.3)))
    step = make_step(
        state.abstract(MODEL)[0],
        stage,
        {"speech": "speech"},
        out_shardings=(shardings, None),
        compiler_options=tiny.QUICK,
    )
    return step(begin, {"speech": rows})


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_one_step_is_the_same_on_every_mesh(mesh):
    expected, values = stepped(1, 1, 1)
    found, other = stepped(*mesh)
    for name in ("loss", "speech", "ctc", "grad_norm"):
        np.testing.assert_allclose(other[name], values[name], rtol=1e-5)
    # Adam turns a gradient that is zero in exact arithmetic into noise of the learning rate's
    # size, so gradients are compared through the first moments, parameters where they have one.
    moments, others = (s.optimizer[1].mu for s in (expected, found))
    tiny.assert_same_gradients(others, moments)
    for path, value in expected.trainable.items():
        real = np.abs(moments[path]) > 1e-4 * float(np.abs(moments[path]).max())
        np.testing.assert_allclose(
            np.where(real, found.trainable[path], 0), np.where(real, value, 0), atol=1e-4
        )


def test_kernels_are_really_split():
    found, _ = stepped(1, 2, 2)
    for path, value in found.trainable.items():
        if path.endswith("kernel"):
            local = value.addressable_shards[0].data
            assert local.size < value.size, f"{path} {value.shape} is whole on every device"
    blocks = "decoder/transformer/blocks"
    for path, expected in {
        f"{blocks}/q/kernel": P(None, "fsdp", "tensor"),
        f"{blocks}/o/kernel": P(None, "tensor", "fsdp"),
        f"{blocks}/up/kernel": P(None, "fsdp", "tensor"),
        f"{blocks}/down/kernel": P(None, "tensor", "fsdp"),
        f"{blocks}/q/lora_b": P(None, None, "tensor"),
        "decoder/embedding": P("tensor", "fsdp"),
        "encoder/convs/0/kernel": P(None, None, "fsdp"),
        "connector/convs/0/kernel": P(None, None, "fsdp"),
    }.items():
        value = found.trainable[path]
        assert value.sharding.is_equivalent_to(
            jax.sharding.NamedSharding(value.sharding.mesh, expected), value.ndim
        ), path
        moment = found.optimizer[1].mu[path]
        assert moment.sharding.is_equivalent_to(value.sharding, value.ndim), path


def test_rows_are_split_over_data_and_fsdp():
    for shape, rows in (((4, 1, 1), 1), ((1, 2, 2), 2), ((2, 1, 2), 2)):
        put = sharding.put(batch(), sharding.make_mesh(*shape))
        assert all(x.addressable_shards[0].data.shape[0] == rows for x in jax.tree.leaves(put))


def test_an_axis_that_does_not_divide_is_dropped():
    mesh = sharding.make_mesh(1, 2, 2)
    assert sharding.spec("a/q/kernel", (3, 8), mesh) == P(None, "tensor")
    assert sharding.spec("a/q/kernel", (5, 4, 8), mesh) == P(None, "fsdp", "tensor")
    assert sharding.spec("a/scale", (8,), mesh) == P(None)


def test_a_mesh_must_use_all_devices():
    assert dict(sharding.make_mesh(-1, 2, 1).shape) == {"data": 2, "fsdp": 2, "tensor": 1}
    with pytest.raises(ValueError, match="mesh data=3 fsdp=1 tensor=1 needs 3 devices"):
        sharding.make_mesh(3, 1, 1)
