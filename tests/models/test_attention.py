"""Blockwise two-interval attention equals the reference that builds the whole mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.data.batch import Blocks
from speechdst.data.tree import block_lists
from speechdst.models import attention

T, D = 48, 8


@st.composite
def intervals(draw, length=T):
    """trunk_start, fork, branch_start int32 [T]: trees one behind the other, then padding."""
    rows, at = [], 0
    used = draw(st.integers(1, length))
    while at < used:
        start = at
        trunk = draw(st.integers(1, used - at))
        rows += [(start, start, start)] * trunk
        at += trunk
        for _ in range(draw(st.integers(0, 3))):
            if at == used:
                break
            size = draw(st.integers(1, min(9, used - at)))
            rows += [(start, start + draw(st.integers(0, trunk)), at)] * size
            at += size
    rows += [(0, 0, i) for i in range(at, length)]
    return np.array(rows, np.int32).T


@functools.cache
def compiled(block: bool):
    """(q, k, v, cotangent, intervals, blocks) -> (output, gradients of q, k, v)."""

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def run(q, k, v, g, where, blocks):
        function = (
            (lambda *x: attention.blockwise(*x, *where, blocks))
            if block
            else (lambda *x: attention.reference(*x, *where))
        )
        out, back = jax.vjp(function, q, k, v)
        return out, back(g)

    return run


def both(layouts, heads, groups, block, seed):
    rng = np.random.default_rng(seed)
    rows = len(layouts)
    draw = lambda n: jnp.asarray(rng.standard_normal((rows, T, n, D)), jnp.float32)
    x = draw(heads), draw(groups), draw(groups), draw(heads)
    lists = [block_lists(*layout, block) for layout in layouts]
    blocks = Blocks(**{name: np.stack([b[name] for b in lists]) for name in lists[0]})
    where = tuple(np.stack([layout[i] for layout in layouts]) for i in range(3))
    return compiled(True)(*x, where, blocks), compiled(False)(*x, where, blocks)


# One entry is one compiled program: rows, query heads, key heads, block.
@pytest.mark.parametrize(
    ("rows", "heads", "groups", "block"), [(1, 4, 2, 8), (3, 2, 2, 16), (1, 4, 1, 48), (2, 2, 2, 2)]
)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_blockwise_equals_reference(rows, heads, groups, block, data):
    layouts = [data.draw(intervals()) for _ in range(rows)]
    (out, grads), (expected, expected_grads) = both(
        layouts, heads, groups, block, data.draw(st.integers(0, 99))
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for found, wanted in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(
            found, wanted, atol=1e-5 * max(1.0, float(jnp.abs(wanted).max()))
        )


def run_blockwise(layout):
    """Blockwise attention over one row of this layout, in blocks of 8."""
    where = tuple(jnp.asarray(x)[None] for x in layout)
    blocks = Blocks(**{k: jnp.asarray(v)[None] for k, v in block_lists(*layout, 8).items()})
    return lambda q, k, v: attention.blockwise(q, k, v, *where, blocks)


def test_blocks_outside_the_lists_are_never_read():
    """What makes it fast: keys of blocks that no query sees may be anything at all."""
    layout = np.array([(0, 0, 0)] * 16 + [(16, 16, 16)] * 32, np.int32).T  # two trees
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, T, 2, D)), jnp.float32)
    out = run_blockwise(layout)(q, q.at[:, :16].set(jnp.nan), q)
    assert np.isfinite(out[:, 16:]).all() and np.isnan(out[:, :16]).all()


def test_scores_of_any_size_stay_finite():
    q = 1e4 * jnp.asarray(np.random.default_rng(0).standard_normal((1, T, 2, D)), jnp.float32)
    attend = run_blockwise(np.zeros((3, T), np.int32))
    out, grad = jax.value_and_grad(lambda q: attend(q, q, q).sum())(q)
    assert np.isfinite(out) and np.isfinite(grad).all()


def test_attend_picks_by_length(monkeypatch):
    calls = []
    monkeypatch.setattr(attention, "blockwise", lambda *x: calls.append("blockwise"))
    monkeypatch.setattr(attention, "reference", lambda *x: calls.append("reference"))
    for positions in (128, 512):
        tree = tiny.builder("single").trees(tiny.dialogue(np.random.default_rng(0), 1))[:1]
        attention.attend(None, None, None, tiny.row(tree, tiny.shape(positions=positions)))
    assert calls == ["reference", "blockwise"]
