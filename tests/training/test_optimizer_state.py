"""Schedules, multipliers, weight decay; parameters split, flattened and put back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from ml_collections import ConfigDict

from speechdst.models.lora import Linear, merge
from speechdst.training import optimizer, state


def config(**kwargs):
    return ConfigDict(
        dict(
            lr=1e-2,
            warmup=4,
            decay="cosine",
            end_ratio=0.1,
            clip=1.0,
            weight_decay=0.0,
            b2=0.98,
            multipliers=(),
        )
        | kwargs
    )


@pytest.mark.parametrize(("decay", "end"), [("cosine", 1e-3), ("linear", 1e-3), ("constant", 1e-2)])
def test_schedules_rise_then_fall_to_their_end(decay, end):
    rate = optimizer.schedule(config(decay=decay), 20)
    values = np.array([rate(i) for i in range(21)])
    assert 0 < values[0] < values[1] < values[3] < values[4]
    np.testing.assert_allclose([values[4], values[20]], [1e-2, end], rtol=1e-5)
    assert (np.diff(values[4:]) <= 1e-9).all()


def test_a_run_shorter_than_its_warm_up_still_peaks():
    rate = optimizer.schedule(config(warmup=50), 3)
    np.testing.assert_allclose(rate(2), 1e-2, rtol=1e-5)


def test_an_unknown_decay_is_refused():
    with pytest.raises(ValueError, match="'sine', expected cosine, linear or constant"):
        optimizer.schedule(config(decay="sine"), 10)


def params():
    return {
        "a/kernel": jnp.ones((2, 2)),
        "a/bias": jnp.ones((3, 2)),
        "b/scale": jnp.ones((3, 2)),
        "b/kernel": jnp.ones((2, 2)),
    }


def test_multipliers_scale_by_the_first_pattern_found():
    p = params()
    grads = {path: jnp.full(v.shape, 1e-3) for path, v in p.items()}
    step = lambda **kw: (tx := optimizer.make(config(**kw), 10)).update(grads, tx.init(p), p)[0]
    plain = step()
    scaled = step(multipliers=((r"^b/k", 0.5), (r"^b", 0.1)))
    for path, factor in (("a/kernel", 1), ("a/bias", 1), ("b/kernel", 0.5), ("b/scale", 0.1)):
        np.testing.assert_allclose(scaled[path], factor * plain[path], rtol=1e-6)


def test_only_matrices_decay():
    p = params()
    zero = {path: jnp.zeros(v.shape) for path, v in p.items()}
    tx = optimizer.make(config(weight_decay=0.1), 10)
    updates = tx.update(zero, tx.init(p), p)[0]
    assert (updates["a/kernel"] < 0).all() and (updates["b/kernel"] < 0).all()
    # Stacked over layers a bias has two axes, and is a bias still.
    assert not updates["a/bias"].any() and not updates["b/scale"].any()


def test_flat_parameters_make_the_model_again():
    model = tiny.config()
    graph, shapes = state.abstract(model)
    p = tiny.parameters(model)
    assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in p.items()}
    again = state.flatten(nnx.state(state.model_of(graph, p)))
    assert set(again) == set(p)
    for path, v in again.items():
        np.testing.assert_array_equal(v, p[path])
    assert "decoder/transformer/blocks/q/kernel" in p
    assert p["decoder/transformer/blocks/q/kernel"].shape == (2, 32, 32), "layers lead"


def test_the_split_is_whole_and_disjoint():
    p = tiny.parameters(tiny.config())
    train, frozen = state.split(p, (r"^connector", r"lora"))
    assert set(train) | set(frozen) == set(p) and not set(train) & set(frozen)
    assert all("lora" in path or path.startswith("connector") for path in train)


def test_a_fresh_lora_changes_nothing_and_a_trained_one_merges():
    layer = Linear(4, 3, rank=2, alpha=6.0, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4)), jnp.float32)
    np.testing.assert_array_equal(layer(x), x @ layer.kernel[...])
    layer.lora_b[...] = jnp.asarray([[1.0, 2, 3], [4, 5, 6]])
    flat = {f"a/{name}": getattr(layer, name)[...] for name in ("kernel", "lora_a", "lora_b")}
    merged = merge(flat | {"b/kernel": x}, rank=2, alpha=6.0)
    assert set(merged) == {"a/kernel", "b/kernel"}
    np.testing.assert_allclose(layer(x), x @ merged["a/kernel"], rtol=1e-5, atol=1e-6)


# 30 % of 5,843 steps of 16 pairs: where arXiv 2506.21463 is at its best.
STEPS, RATE = 1753, 5e-9


def test_compensated_updates_follow_a_float64_run():
    """Adam at 5e-9 on weights of every magnitude: float32 weights alone lose the update."""
    magnitudes, each = np.array([1e-4, 1e-3, 0.01, 0.05, 0.125, 1.0, 10.0]), 32
    rng = np.random.default_rng(0)
    signs = rng.choice((-1.0, 1.0), (len(magnitudes), each))
    start = (signs * magnitudes[:, None] * rng.uniform(1, 1.5, signs.shape)).astype(np.float32)
    # A direction under noise, so that there is a movement to follow.
    gradients = rng.standard_normal((STEPS, *start.shape)).astype(np.float32) + signs[::-1] * 0.5
    gradients = gradients.astype(np.float32)
    c = lambda on: config(lr=RATE, warmup=round(0.16 * STEPS), end_ratio=0.0, clip=1e9, b2=0.95,
                          compensated=on)

    def run(compensated):
        tx = optimizer.make(c(compensated), STEPS)

        def step(carry, g):
            p, moments = carry
            updates, moments = tx.update({"a/kernel": g}, moments, p)
            return (optax.apply_updates(p, updates), moments), None

        first = {"a/kernel": jnp.asarray(start)}
        scan = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[0])
        return scan(first, jnp.asarray(gradients))

    rate = jax.jit(jax.vmap(optimizer.schedule(c(True), STEPS)))(jnp.arange(STEPS))
    p, m, v = start.astype(np.float64), 0.0, 0.0
    for i, g in enumerate(gradients.astype(np.float64)):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        p = p - float(rate[i]) * (m / (1 - 0.9 ** (i + 1))) / (
            np.sqrt(v / (1 - 0.95 ** (i + 1))) + 1e-8)
    moved = np.abs(p - start).mean(1)
    assert (moved > 100 * RATE).all()

    def error(found):
        return np.abs(found - p).mean(1) / moved

    after, moments = run(True)
    rest = np.asarray(moments[-1]["a/kernel"], np.float64)
    assert error(np.asarray(after["a/kernel"], np.float64) + rest).max() < 0.01
    plain = np.asarray(run(False)[0]["a/kernel"], np.float64)
    assert (error(plain)[magnitudes >= 0.125] > 0.5).all()
    np.testing.assert_array_equal(plain[magnitudes >= 1], start[magnitudes >= 1])
    sizes = [sum(x.size for x in jax.tree.leaves(
        optimizer.make(c(on), STEPS).init({"a/kernel": jnp.asarray(start)})))
        for on in (True, False)]
    assert sizes[0] - sizes[1] == start.size, "one more copy"
