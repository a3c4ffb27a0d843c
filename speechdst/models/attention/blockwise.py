"""Two-interval attention in plain XLA: a loop over the lists of visible blocks.

Online softmax as in FlashAttention (arXiv 2205.14135), over data-dependent block lists of fixed
size. `forward` and `backward` are those of `kernel`, for every platform.
"""

import functools

import jax
import jax.numpy as jnp

from speechdst.models.attention.rule import NEGATIVE, capped, visible


def forward(q, k, v, where, blocks, scale, cap, windowed):
    """See `kernel.forward`."""
    row = functools.partial(_forward_row, scale=scale, cap=cap, windowed=windowed)
    return _rows(row, q, k, v, where, blocks)


def backward(q, k, v, out, lse, grad, where, blocks, scale, cap, windowed):
    """See `kernel.backward`."""
    row = functools.partial(_backward_row, scale=scale, cap=cap, windowed=windowed)
    return _rows(row, q, k, v, out, lse, grad, where, blocks)


def _rows(function, *arguments):
    """Row by row: every row has its own number of visible blocks, so a vmap would not skip."""
    if jax.tree.leaves(arguments)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arguments)))
    return jax.lax.map(lambda a: function(*a), arguments)


def _cut(x, index, size, axis):
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis)


def _scores(q, k, scale, cap):
    """Scores float32 [g, h, size, size] of one pair of blocks, before any mask."""
    s = jnp.einsum("ghqd,gkd->ghqk", q, k, preferred_element_type=jnp.float32) * scale
    return capped(s, cap)


def _mask(query_block, key_block, where, size, windowed):
    """Which keys of one block the queries of another see, bool [size, size]."""
    a = jnp.arange(size)
    *intervals, before, _ = _cut(where, query_block, size, 1)[..., None]
    mask = visible((query_block * size + a)[:, None], (key_block * size + a)[None], *intervals)
    if windowed:
        mask &= _cut(where[4], key_block, size, 0)[None] > before
    return mask


def _forward_row(q, k, v, where, blocks, scale, cap, windowed):
    g, h, t, d = q.shape
    n = blocks.keys.shape[0]
    size = t // n

    def query_block(_, index):
        qb = _cut(q, index, size, 2)

        def key_block(j, carry):
            top, total, acc = carry
            kb = blocks.keys[index, j]
            s = _scores(qb, _cut(k, kb, size, 1), scale, cap)
            s = jnp.where(_mask(index, kb, where, size, windowed), s, NEGATIVE)
            new = jnp.maximum(top, s.max(-1))
            p = jnp.exp(s - new[..., None])
            keep = jnp.exp(top - new)
            pv = jnp.einsum("ghqk,gkd->ghqd", p.astype(v.dtype), _cut(v, kb, size, 1),
                            preferred_element_type=jnp.float32)
            return new, total * keep + p.sum(-1), acc * keep[..., None] + pv

        start = (jnp.full((g, h, size), NEGATIVE), jnp.zeros((g, h, size)),
                 jnp.zeros((g, h, size, d)))
        top, total, acc = jax.lax.fori_loop(0, blocks.key_counts[index], key_block, start)
        return None, ((acc / total[..., None]).astype(q.dtype), top + jnp.log(total))

    _, (out, lse) = jax.lax.scan(query_block, None, jnp.arange(n))
    return jnp.moveaxis(out, 0, 2).reshape(q.shape), jnp.moveaxis(lse, 0, 2).reshape(g, h, t)


def _backward_row(q, k, v, out, lse, grad, where, blocks, scale, cap, windowed):
    g, _, t, d = q.shape
    n = blocks.keys.shape[0]
    size = t // n
    delta = (out * grad).sum(-1, dtype=jnp.float32)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def key_block(dq, index):
        kb, vb = _cut(k, index, size, 1), _cut(v, index, size, 1)

        def query_block(j, carry):
            dq, dk, dv = carry
            i = blocks.queries[index, j]
            qb, gb = _cut(q, i, size, 2), _cut(grad, i, size, 2)
            s = _scores(qb, kb, scale, cap)
            p = jnp.exp(jnp.where(_mask(i, index, where, size, windowed), s, NEGATIVE)
                        - _cut(lse, i, size, 2)[..., None])
            dp = product("ghqd,gkd->ghqk", gb, vb)
            ds = p * (dp - _cut(delta, i, size, 2)[..., None]) * scale
            ds = (ds * (1 - (s / cap) ** 2) if cap else ds).astype(q.dtype)
            dqb = _cut(dq, i, size, 2) + product("ghqk,gkd->ghqd", ds, kb)
            return (jax.lax.dynamic_update_slice_in_dim(dq, dqb, i * size, 2),
                    dk + product("ghqk,ghqd->gkd", ds, qb),
                    dv + product("ghqk,ghqd->gkd", p.astype(v.dtype), gb))

        zero = jnp.zeros((g, size, d))
        dq, dk, dv = jax.lax.fori_loop(0, blocks.query_counts[index], query_block,
                                       (dq, zero, zero))
        return dq, (dk, dv)

    dq, (dk, dv) = jax.lax.scan(key_block, jnp.zeros(q.shape, jnp.float32), jnp.arange(n))
    join = lambda x, like: jnp.moveaxis(x, 0, 1).reshape(like.shape).astype(like.dtype)
    return dq.astype(q.dtype), join(dk, k), join(dv, v)
