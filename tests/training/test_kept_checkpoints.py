"""Which checkpoints of a stage are kept, and that each can be gone back to."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from speechdst.data.dialogue import BadInput
from speechdst.training.checkpoint import Checkpointer, load_base, load_params, points
from speechdst.training.state import TrainState


def test_the_last_ones_and_those_of_the_points_are_kept(tmp_path):
    stage = ConfigDict(dict(steps=20, points=(0.1, 0.2, 0.3)))
    assert points(stage) == [2, 4, 6] and points(ConfigDict(dict(steps=20))) == []
    assert points(ConfigDict(dict(steps=3, points=(0.1, 0.2, 1.0)))) == [1, 3]
    checkpoints = Checkpointer(tmp_path, {}, points=points(stage))
    for step in range(1, 10):
        state = TrainState(jnp.int32(step), {"a": jnp.full(3, float(step))}, {}, {}, jnp.zeros(2))
        checkpoints.save(step, state, {}, wait=True)
    checkpoints.close()
    kept = {int(p.name) for p in (tmp_path / "steps").iterdir() if p.name.isdigit()}
    assert kept == {2, 4, 6, 8, 9}
    template = {"a": jax.ShapeDtypeStruct((3,), jnp.float32)}
    for step, value in ((0, 9), (4, 4)):
        np.testing.assert_array_equal(load_params(tmp_path, template, step)["a"], [value] * 3)
    with pytest.raises(BadInput, match=r"no checkpoint of step 5, there are \[2, 4, 6, 8, 9\]"):
        load_params(tmp_path, template, 5)


def test_a_run_goes_on_from_parts_that_were_trained_apart(tmp_path):
    """The first gives all parameters, a further one what it trained, whatever else it held."""
    def trained(name, own, frozen, vocabulary="one"):
        checkpoints = Checkpointer(tmp_path / name, {"tokenizer": vocabulary})
        checkpoints.save(1, TrainState(jnp.int32(1), own, frozen, {}, jnp.zeros(2)), {}, wait=True)
        checkpoints.close()
        return tmp_path / name

    tokenizer = SimpleNamespace(fingerprint="one")
    writes = trained("writes", {"decoder/x": jnp.ones(3)}, {
        "encoder/y": jnp.zeros(2), "connector/z": jnp.full(1, 5.0)})
    hears = trained("hears", {"encoder/y": jnp.full(2, 7.0)}, {"decoder/x": jnp.zeros(4)})
    template = {path: jax.ShapeDtypeStruct((n,), jnp.float32)
                for path, n in (("decoder/x", 3), ("encoder/y", 2), ("connector/z", 1))}
    found = load_base([writes, hears], template, tokenizer)
    assert {path: x.tolist() for path, x in found.items()} == {
        "decoder/x": [1.0] * 3, "encoder/y": [7.0] * 2, "connector/z": [5.0]}

    with pytest.raises(BadInput, match="tokenizer"):
        load_base([writes, trained("other", {"encoder/y": jnp.zeros(2)}, {}, "two")], template,
                  tokenizer)
    wide = trained("wide", {"encoder/y": jnp.zeros(3), "encoder/q": jnp.zeros(1)}, {})
    with pytest.raises(BadInput, match=r"encoder/q extra; encoder/y \(3,\) instead of \(2,\)"):
        load_base([writes, wide], template, tokenizer)
