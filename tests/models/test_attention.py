"""Every way to walk the visible blocks equals the reference that builds the whole mask."""

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


def positions(layout):
    """Rotary positions of a layout: a branch goes on from its fork."""
    trunk_start, fork, branch_start = layout
    return fork - trunk_start + np.arange(len(fork), dtype=np.int32) - branch_start


@functools.cache
def compiled(path: str, scale=None, cap=None):
    """(q, k, v, cotangent, intervals, positions, window, blocks) -> (output, gradients of q, k,
    v). `path`: "reference", or as `attention.walk` takes it; kernels are interpreted."""

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def run(q, k, v, g, where, positions, window, blocks):
        rules = dict(scale=scale, cap=cap, window=window)
        if path == "reference":
            function = lambda *x: attention.reference(*x, *where, positions, **rules)
        else:
            function = lambda *x: attention.walk(*x, *where, blocks, positions, path=path,
                                                 interpret=path != "xla", **rules)
        out, back = jax.vjp(function, q, k, v)
        return out, back(g)

    return run


def both(layouts, heads, groups, block, seed, window=None, path="xla", dtype=jnp.float32, **rules):
    """The path's output and gradients, and the reference's."""
    rng = np.random.default_rng(seed)
    rows = len(layouts)
    t = layouts[0].shape[1]
    draw = lambda n: jnp.asarray(rng.standard_normal((rows, t, n, D)), dtype)
    x = draw(heads), draw(groups), draw(groups), draw(heads)
    lists = [block_lists(*layout, block) for layout in layouts]
    blocks = Blocks(**{name: np.stack([b[name] for b in lists]) for name in lists[0]})
    where = tuple(np.stack([layout[i] for layout in layouts]) for i in range(3))
    rest = where, np.stack([positions(x) for x in layouts]), window, blocks
    return tuple(compiled(p, **rules)(*x, *rest) for p in (path, "reference"))


def assert_equal(found, expected, tolerance=1e-5):
    """Outputs, and gradients relative to their largest entry where that is above 1."""
    for x, wanted in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        x, wanted = (np.asarray(y, np.float32) for y in (x, wanted))
        np.testing.assert_allclose(x, wanted, rtol=0, atol=tolerance * max(1, abs(wanted).max()))


# One entry is one compiled program: rows, query heads, key heads, block.
@pytest.mark.parametrize(
    ("rows", "heads", "groups", "block"), [(1, 4, 2, 8), (3, 2, 2, 16), (1, 4, 1, 48), (2, 2, 2, 2)]
)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_xla_equals_reference(rows, heads, groups, block, data):
    layouts = [data.draw(intervals()) for _ in range(rows)]
    assert_equal(*both(layouts, heads, groups, block, data.draw(st.integers(0, 99))))


@pytest.mark.parametrize("cap", [None, 1.5])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data(), window=st.sampled_from((1, 2, 7, 8, 9, 30, attention.EVERYWHERE)))
def test_xla_equals_reference_with_windows_and_caps(cap, data, window):
    layouts = [data.draw(intervals()) for _ in range(2)]
    # The window is an argument of the compiled program, as it is in a scan over layers.
    rules = dict(window=np.int32(window), scale=0.7, cap=cap)
    seed = data.draw(st.integers(0, 99))
    found, expected = both(layouts, 4, 2, 8, seed, **rules)
    assert_equal(found, expected)
    if window == attention.EVERYWHERE:
        assert_equal(found, both(layouts, 4, 2, 8, seed, scale=0.7, cap=cap)[0])


# Small: interpreted kernels compile slowly. Heads, key heads, block, rules; on TPU the first has a
# program with all four heads of two that share keys, the second four heads with keys of their own.
@pytest.mark.parametrize("path", ["tpu", "cuda"])
@pytest.mark.parametrize(
    ("heads", "groups", "block", "rules"),
    [(4, 2, 8, {}), (2, 2, 16, dict(scale=0.7, cap=1.5, window=True))],
)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_kernels_equal_reference(path, heads, groups, block, rules, data):
    layouts = [data.draw(intervals(32)) for _ in range(2)]
    if "window" in rules:
        rules = rules | dict(window=np.int32(data.draw(st.sampled_from((1, 7, 16, 2**31 - 1)))))
    seed = data.draw(st.integers(0, 99))
    assert_equal(*both(layouts, heads, groups, block, seed, path=path, **rules))


@pytest.mark.parametrize("path", ["tpu", "cuda"])
def test_kernels_equal_reference_in_bfloat16(path):
    """To the rounding of what is stored: probabilities, scores' gradients, results."""
    rows = [(0, 0, 0)] * 12 + [(0, 7, 12)] * 5 + [(17, 17, 17)] * 11
    layout = np.array(rows + [(0, 0, i) for i in range(28, 32)], np.int32).T
    found, expected = both([layout], 4, 1, 16, 3, path=path, dtype=jnp.bfloat16)
    assert found[0].dtype == found[1][1].dtype == jnp.bfloat16
    assert_equal(found, expected, tolerance=2e-2)


def test_the_kernel_is_not_silently_left_out():
    layout = np.zeros((3, T), np.int32)
    q = jnp.ones((1, T, 2, D))
    with pytest.raises(ValueError, match=r"asked for, but there is none for cpu"):
        run_xla(layout, path="kernel")(q, q, q)
    with pytest.raises(ValueError, match="'fast' is none of"):
        run_xla(layout, path="fast")(q, q, q)
    for platform, size, wanted in (("tpu", 64, "multiple of 128"), ("cuda", 48, "power of two")):
        assert wanted in attention.kernel.refusal(platform, size, 1024, 64, jnp.bfloat16)
        assert not attention.kernel.refusal(platform, 128, 8192, 256, jnp.bfloat16)
    assert "VMEM" in attention.kernel.refusal("tpu", 128, 65536, 256, jnp.bfloat16)


def test_a_window_is_over_positions_of_the_own_text():
    """A branch sees back over its fork as if it stood alone behind its part of the trunk."""
    # A trunk of 20, a branch of 6 that forks at 10, then one of 6 that forks at 20.
    rows = [(0, 0, 0)] * 20 + [(0, 10, 20)] * 6 + [(0, 20, 26)] * 6
    layout = np.array(rows + [(0, 0, i) for i in range(32, T)], np.int32).T
    rng = np.random.default_rng(3)
    q, k, v = (jnp.asarray(rng.standard_normal((1, T, 2, D)), jnp.float32) for _ in range(3))
    where, at = [x[None] for x in layout], positions(layout)[None]
    out = attention.reference(q, k, v, *where, at, window=7)[0]
    for own, fork in ((range(20, 26), 10), (range(26, 32), 20)):
        chosen = np.array([*range(fork), *own])
        alone = [x[:, chosen] for x in (q, k, v)]
        n = np.arange(len(chosen))
        mask = (n[:, None] >= n) & (n[:, None] - n < 7)
        expected = attention.masked(*alone, mask[None])[0]
        np.testing.assert_allclose(out[chosen][fork:], expected[fork:], atol=1e-6)


def test_blocks_behind_the_window_are_never_read():
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, T, 2, D)), jnp.float32)
    layout = np.zeros((3, T), np.int32)
    near = dict(positions=positions(layout)[None], window=8)
    out = run_xla(layout, **near)(q, q.at[:, :16].set(jnp.nan), q)
    assert np.isfinite(out[:, 24:]).all() and np.isnan(out[:, :16]).all()


def run_xla(layout, path="xla", **rules):
    """The XLA walk over one row of this layout, in blocks of 8."""
    where = tuple(jnp.asarray(x)[None] for x in layout)
    blocks = Blocks(**{k: jnp.asarray(v)[None] for k, v in block_lists(*layout, 8).items()})
    return lambda q, k, v: attention.walk(q, k, v, *where, blocks, path=path, **rules)


def test_blocks_outside_the_lists_are_never_read():
    """What makes it fast: keys of blocks that no query sees may be anything at all."""
    layout = np.array([(0, 0, 0)] * 16 + [(16, 16, 16)] * 32, np.int32).T  # two trees
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, T, 2, D)), jnp.float32)
    out = run_xla(layout)(q, q.at[:, :16].set(jnp.nan), q)
    assert np.isfinite(out[:, 16:]).all() and np.isnan(out[:, :16]).all()


def test_scores_of_any_size_stay_finite():
    q = 1e4 * jnp.asarray(np.random.default_rng(0).standard_normal((1, T, 2, D)), jnp.float32)
    attend = run_xla(np.zeros((3, T), np.int32))
    out, grad = jax.value_and_grad(lambda q: attend(q, q, q).sum())(q)
    assert np.isfinite(out) and np.isfinite(grad).all()


def test_attend_picks_by_length(monkeypatch):
    calls = []
    for name in ("walk", "reference"):
        monkeypatch.setattr(attention, name, lambda *x, name=name, **_: calls.append(name))
    for positions in (128, 512):
        tree = tiny.builder("single").trees(tiny.dialogue(np.random.default_rng(0), 1))[:1]
        attention.attend(None, None, None, tiny.row(tree, tiny.shape(positions=positions)))
    assert calls == ["reference", "walk"]
