"""Two-interval attention as a Pallas kernel, by Mosaic on TPU and by Triton on GPU.

FlashAttention-2 (arXiv 2307.08691) over the lists of visible blocks: a program owns one tile of
queries (forward, dq) or of keys (dk, dv), keeps its sums in registers, and loops over the blocks in
its list and no others. On TPU the other side of the row, keys or queries, lies in VMEM whole, so
that the loop reads where it likes without waiting for a copy; on GPU it is read from memory.

Softmax, scores and sums are float32, products take the inputs' own type. Nothing is added up in an
order that could change between runs: no atomics.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton

from speechdst.models.attention.rule import NEGATIVE, capped, visible

# Of the VMEM that the smallest of v5e, v5p, v6e and v7x has, what rows may take, buffers included.
VMEM = 40 * 2**20
# Heads x (128 x 128) tiles that a TPU program works on at once: their products overlap and heads
# share a mask, but code, and the time to compile it, grow alike.
AT_ONCE = 8


def refusal(platform: str, size: int, t: int, d: int, dtype) -> str:
    """Why blocks of `size` in rows of `t` positions cannot run, heads `d` wide; empty: they can."""
    if platform == "tpu":
        if size % 128:
            return f"on TPU a block of {size} positions is no multiple of 128"
        if _row_bytes(t, d, dtype) > VMEM:
            return f"rows of {t} positions in {jnp.dtype(dtype).name} do not fit in VMEM"
    elif size < 16 or size & size - 1:
        return f"on GPU a block of {size} positions is no power of two from 16 on"
    return ""


def _row_bytes(t: int, d: int, dtype) -> int:
    """VMEM of two rows of one head, each fetched while the one before is in use."""
    return 2 * 2 * t * -(-d // 128) * 128 * jnp.dtype(dtype).itemsize


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the programs are compiled for: q [R, `groups`, `share`, T, D], k, v [R, `groups`, T, D];
    a program takes `heads` query heads, which read one key head or one each (`keys`), and tiles of
    `query` and `key` positions, parts of a block of `size`."""

    platform: str
    rows: int
    groups: int
    share: int
    t: int
    d: int
    size: int
    heads: int
    keys: int
    query: int
    key: int
    scale: float
    cap: float | None
    windowed: bool
    interpret: bool

    @property
    def programs(self) -> int:
        return self.groups * self.share // self.heads

    def __call__(self, kernel, tiles: int, operands, results):
        """Runs `kernel` over (rows, programs, `tiles`). `operands` and `results`: pairs of array
        (or its shape) and `BlockSpec`."""
        if self.platform == "tpu":
            options = pltpu.CompilerParams(
                # What a program fetched for its heads serves the next tile, so order matters.
                dimension_semantics=("parallel", "parallel", "arbitrary"),
                vmem_limit_bytes=VMEM + 2**24)
        else:
            options = triton.CompilerParams(num_warps=8 if self.d > 128 else 4, num_stages=2)
        arrays, specs = zip(*operands, strict=True)
        shapes, out_specs = zip(*results, strict=True)
        return pl.pallas_call(
            functools.partial(kernel, self), grid=(self.rows, self.programs, tiles),
            in_specs=specs, out_specs=out_specs, out_shape=shapes, compiler_params=options,
            interpret=self.interpret, name=kernel.__name__.strip("_"))(*arrays)

    # How an array is handed out: the part of it that program (r, p, i) gets.

    def queries(self, x, tile: int | None = None):
        """x [R, programs, heads, T, D]: the program's heads, whole or their i-th tile."""
        return x, pl.BlockSpec((None, None, self.heads, tile or self.t, self.d),
                               lambda r, p, i: (r, p, 0, i if tile else 0, 0))

    def pairs(self, x, tile: int | None = None):
        """x [R, groups / keys, keys, T, D]: the key heads that the program's heads read."""
        per = self.programs * self.keys // self.groups  # programs that share key heads
        return x, pl.BlockSpec((None, None, self.keys, tile or self.t, self.d),
                               lambda r, p, i: (r, p // per, 0, i if tile else 0, 0))

    def per_query(self, x, tile: int | None = None):
        """x [R, programs, heads, T]."""
        return x, pl.BlockSpec((None, None, self.heads, tile or self.t),
                               lambda r, p, i: (r, p, 0, i if tile else 0))

    def where(self, x, tile: int | None = None):
        """x [R, 5, T]: trunk_start, fork, branch_start, the position before the window, position.
        """
        return x, pl.BlockSpec((None, 5, tile or self.t), lambda r, p, i: (r, 0, i if tile else 0))

    def list(self, x, tile: int):
        """x [R, n, 1, 1 + n]: the i-th tile's count and list of blocks."""
        per = self.size // tile
        space = {"memory_space": pltpu.SMEM} if self.platform == "tpu" else {}
        return x, pl.BlockSpec((None, None, 1, x.shape[-1]),
                               lambda r, p, i: (r, jax.lax.div(i, per), 0, 0), **space)

    def mask(self, query, key, where, position):
        """What queries see: their indices and `where` along one axis, the keys' along the other."""
        trunk_start, fork, branch_start, before = where
        mask = visible(query, key, trunk_start, fork, branch_start)
        return mask & (position > before) if self.windowed else mask

    def scores(self, a, b):
        """a [m, D], b [n, D] -> float32 [m, n]."""
        return capped(_dot(a, b, 1, 1) * self.scale, self.cap)

    def gradient(self, p, dp, delta, s):
        """The gradient of the products of queries and keys, from that of the probabilities."""
        ds = p * (dp - delta) * self.scale
        return ds * (1 - (s / self.cap) ** 2) if self.cap else ds


def _dot(a, b, i, j):
    # Wanted precision (`jax_default_matmul_precision`) is of float32 alone, else Mosaic objects.
    precision = None if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(a, b, (((i,), (j,)), ((), ())), precision=precision,
                               preferred_element_type=jnp.float32)


def _along(axis, start, n):
    """Indices from `start` on, [n, 1] or [1, n]."""
    return start + jax.lax.broadcasted_iota(jnp.int32, (1, n) if axis else (n, 1), axis)


def _loop(list_ref, size, tile, step, start):
    """Folds `step(first index, carry)` over the tiles of the blocks in a list."""
    per = size // tile

    def one(j, carry):
        block = list_ref[0, 1 + jax.lax.div(j, per)]
        return step(pl.multiple_of(block * size + jax.lax.rem(j, per) * tile, tile), carry)

    return jax.lax.fori_loop(0, list_ref[0, 0] * per, one, start)


def _forward_tile(s: _Plan, list_ref, where_ref, row_ref, q_ref, k_ref, v_ref, out_ref, lse_ref):
    heads = range(s.heads)
    query = _along(0, pl.program_id(2) * s.query, s.query)
    where = [_column(where_ref, i, pl.ds(0, s.query)) for i in range(4)]
    q = [q_ref[h] for h in heads]

    def step(first, carry):
        at = pl.ds(first, s.key)
        mask = s.mask(query, _along(1, first, s.key), where, _row(row_ref, 4, at))
        made = []
        for h, (top, total, acc) in zip(heads, carry, strict=True):
            group = h if s.keys > 1 else 0
            x = jnp.where(mask, s.scores(q[h], k_ref[group, at]), NEGATIVE)
            new = jnp.maximum(top, x.max(1, keepdims=True))
            p, keep = jnp.exp(x - new), jnp.exp(top - new)
            v = v_ref[group, at]
            made.append((new, total * keep + p.sum(1, keepdims=True),
                         acc * keep + _dot(p.astype(v.dtype), v, 1, 0)))
        return tuple(made)

    zero = lambda n: jnp.zeros((s.query, n), jnp.float32)
    start = (zero(1) + NEGATIVE, zero(1), zero(s.d))
    for h, (top, total, acc) in zip(heads, _loop(list_ref, s.size, s.key, step,
                                                 (start,) * s.heads), strict=True):
        out_ref[h] = (acc / total).astype(out_ref.dtype)
        lse_ref[pl.ds(h, 1), :] = (top + jnp.log(total)).T


def _row(ref, i, at):
    """Row i of a ref [k, T] at some positions, [1, n]."""
    return ref[pl.ds(i, 1), at]


def _column(ref, i, at):
    return _row(ref, i, at).T


def _query_gradient(s: _Plan, list_ref, where_ref, row_ref, q_ref, k_ref, v_ref, grad_ref, lse_ref,
                    delta_ref, dq_ref):
    heads, tile = range(s.heads), pl.ds(0, s.query)
    query = _along(0, pl.program_id(2) * s.query, s.query)
    where = [_column(where_ref, i, tile) for i in range(4)]
    fixed = [(q_ref[h], grad_ref[h], _column(lse_ref, h, tile), _column(delta_ref, h, tile))
             for h in heads]

    def step(first, carry):
        at = pl.ds(first, s.key)
        mask = s.mask(query, _along(1, first, s.key), where, _row(row_ref, 4, at))
        made = []
        for h, (q, grad, lse, delta), dq in zip(heads, fixed, carry, strict=True):
            group = h if s.keys > 1 else 0
            k = k_ref[group, at]
            x = s.scores(q, k)
            p = jnp.exp(jnp.where(mask, x, NEGATIVE) - lse)
            ds = s.gradient(p, _dot(grad, v_ref[group, at], 1, 1), delta, x)
            made.append(dq + _dot(ds.astype(k.dtype), k, 1, 0))
        return tuple(made)

    start = (jnp.zeros((s.query, s.d), jnp.float32),) * s.heads
    for h, dq in zip(heads, _loop(list_ref, s.size, s.key, step, start), strict=True):
        dq_ref[h] = dq.astype(dq_ref.dtype)


def _key_gradient(s: _Plan, list_ref, where_ref, row_ref, q_ref, k_ref, v_ref, grad_ref, lse_ref,
                  delta_ref, dk_ref, dv_ref):
    key = _along(0, pl.program_id(2) * s.key, s.key)
    position = _column(row_ref, 4, pl.ds(0, s.key))
    pairs = [(k_ref[g], v_ref[g]) for g in range(s.keys)]

    def step(first, carry):
        at = pl.ds(first, s.query)
        # Keys down, queries across: what belongs to a query lies along a row, as it is stored.
        where = [_row(where_ref, i, at) for i in range(4)]
        mask = s.mask(_along(1, first, s.query), key, where, position)
        made = list(carry)
        for h in range(s.heads):
            group = h if s.keys > 1 else 0
            (k, v), (dk, dv) = pairs[group], made[group]
            q, grad = q_ref[h, at], grad_ref[h, at]
            x = s.scores(k, q)
            p = jnp.exp(jnp.where(mask, x, NEGATIVE) - _row(lse_ref, h, at))
            ds = s.gradient(p, _dot(v, grad, 1, 1), _row(delta_ref, h, at), x)
            made[group] = (dk + _dot(ds.astype(q.dtype), q, 1, 0),
                           dv + _dot(p.astype(grad.dtype), grad, 1, 0))
        return tuple(made)

    zero = jnp.zeros((s.key, s.d), jnp.float32)
    for g, (dk, dv) in enumerate(_loop(list_ref, s.size, s.query, step, ((zero, zero),) * s.keys)):
        dk_ref[g], dv_ref[g] = dk.astype(dk_ref.dtype), dv.astype(dv_ref.dtype)


def _plan(q, k, blocks, scale, cap, windowed, platform, interpret, *, whole: str) -> _Plan:
    """`whole`: the side of the row that a program holds, "keys" or "queries"."""
    r, groups, share, t, d = q.shape
    size = t // blocks.keys.shape[-1]
    if platform == "tpu":
        query = key = 256 if size % 256 == 0 else 128 if size % 128 == 0 else size
        # Heads that share a key head are taken together, else each comes with its own.
        each = 0 if share > 1 and whole == "keys" else _row_bytes(t, d, q.dtype)
        most = max(1, AT_ONCE * 128**2 // query**2)
        heads = max(n for n in range(1, most + 1) if (share if share > 1 else groups) % n == 0
                    and (n == 1 or n * each <= VMEM))
    else:
        heads, query = 1, min(size, 64)
        key = min(size, 32 if d > 128 or q.dtype == jnp.float32 else 64)
    return _Plan(platform, r, groups, share, t, d, size, heads, heads if share == 1 else 1, query,
                 key, scale, cap, windowed, interpret)


def _lists(blocks, counts):
    return jnp.concatenate([counts[..., None], blocks], -1)[:, :, None]


def _padded(platform, *arrays):
    """Triton takes powers of two only; zeros in a head change no product."""
    d = arrays[0].shape[-1]
    more = max(16, 1 << (d - 1).bit_length()) - d if platform != "tpu" else 0
    return [jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)]) if more else x for x in arrays]


def forward(q, k, v, where, blocks, scale, cap, windowed, *, platform, interpret=False):
    """q [R, G, H / G, T, D], k, v [R, G, T, D], `where` int32 [R, 5, T] (see `_Plan.where`), lists
    of visible blocks -> output as q, log-sum-exp float32 [R, G, H / G, T]."""
    shape = q.shape
    q, k, v = _padded(platform, q, k, v)
    s = _plan(q, k, blocks, scale, cap, windowed, platform, interpret, whole="keys")
    q = q.reshape(s.rows, s.programs, s.heads, s.t, s.d)
    k, v = (x.reshape(s.rows, s.groups // s.keys, s.keys, s.t, s.d) for x in (k, v))
    like = lambda x, dtype: jax.ShapeDtypeStruct(x, dtype)
    out, lse = s(
        _forward_tile, s.t // s.query,
        (s.list(_lists(blocks.keys, blocks.key_counts), s.query), s.where(where, s.query),
         s.where(where), s.queries(q, s.query), s.pairs(k), s.pairs(v)),
        (s.queries(like(q.shape, q.dtype), s.query),
         s.per_query(like(q.shape[:-1], jnp.float32), s.query)))
    return out[..., : shape[-1]].reshape(shape), lse.reshape(shape[:-1])


def backward(q, k, v, out, lse, grad, where, blocks, scale, cap, windowed, *, platform,
             interpret=False):
    """The gradients of q, k and v, from those of the output `grad` and what `forward` gave."""
    shapes = q.shape, k.shape
    delta = (out.astype(jnp.float32) * grad).sum(-1)
    q, k, v, grad = _padded(platform, q, k, v, grad)
    rules = blocks, scale, cap, windowed, platform, interpret
    d = shapes[0][-1]

    def split(s):
        by_program = lambda x: x.reshape(s.rows, s.programs, s.heads, *x.shape[3:])
        by_group = lambda x: x.reshape(s.rows, s.groups // s.keys, s.keys, s.t, s.d)
        return (*(by_program(x) for x in (q, grad, lse, delta)), by_group(k), by_group(v))

    s = _plan(q, k, *rules, whole="keys")
    q_, grad_, lse_, delta_, k_, v_ = split(s)
    like = jax.ShapeDtypeStruct
    (dq,) = s(
        _query_gradient, s.t // s.query,
        (s.list(_lists(blocks.keys, blocks.key_counts), s.query), s.where(where, s.query),
         s.where(where), s.queries(q_, s.query), s.pairs(k_), s.pairs(v_),
         s.queries(grad_, s.query), s.per_query(lse_, s.query), s.per_query(delta_, s.query)),
        (s.queries(like(q_.shape, q.dtype), s.query),))

    s = _plan(q, k, *rules, whole="queries")
    q_, grad_, lse_, delta_, k_, v_ = split(s)
    # Programs whose heads share a key head each give their part of its gradient.
    parts = s.programs * s.keys // s.groups
    made = like((s.rows, s.programs, s.keys, s.t, s.d), jnp.float32 if parts > 1 else k.dtype)
    mine = pl.BlockSpec((None, None, s.keys, s.key, s.d), lambda r, p, i: (r, p, 0, i, 0))
    dk, dv = s(
        _key_gradient, s.t // s.key,
        (s.list(_lists(blocks.queries, blocks.query_counts), s.key), s.where(where),
         s.where(where, s.key), s.queries(q_), s.pairs(k_, s.key), s.pairs(v_, s.key),
         s.queries(grad_), s.per_query(lse_), s.per_query(delta_)),
        ((made, mine), (made, mine)))
    whole = lambda x: x.reshape(s.rows, s.groups, parts, s.t, s.d).sum(2)[..., :d].astype(k.dtype)
    return dq[..., :d].reshape(shapes[0]), whole(dk), whole(dv)
