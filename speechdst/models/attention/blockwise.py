"""Two-interval attention in plain XLA: a loop over the lists of visible blocks.

Online softmax as in FlashAttention (arXiv 2205.14135), over data-dependent block lists of fixed
size. `forward` and `backward` are those of `kernel`, for every platform.

Scores stand as [keys, queries]: so all products are of rows by columns as they lie in memory, and
what is reduced over the keys, or is the same for all of them, is one vector operation a key.
"""

import functools

import jax
import jax.numpy as jnp

from speechdst.models.attention.rule import NEGATIVE, capped, visible


def forward(q, k, v, where, blocks, scale, cap, windowed):
    """See `kernel.forward`; queries are scaled before the products, not scores behind them."""
    row = functools.partial(_forward_row, cap=cap, windowed=windowed)
    return _rows(row, q * scale, k, v, where, blocks)


def backward(q, k, v, out, lse, grad, where, blocks, scale, cap, windowed):
    """See `kernel.backward`."""
    row = functools.partial(_backward_row, cap=cap, windowed=windowed)
    dq, dk, dv = _rows(row, q * scale, k, v, out, lse, grad, where, blocks)
    return dq * scale, dk, dv


def _rows(function, *arguments):
    """Row by row: every row has its own number of visible blocks, so a vmap would not skip."""
    if jax.tree.leaves(arguments)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arguments)))
    return jax.lax.map(lambda a: function(*a), arguments)


def _by_block(x, n):
    """[g, h, T, ...] -> [n, g, h, size, ...]."""
    g, h, t, *rest = x.shape
    return jnp.moveaxis(x.reshape(g, h, n, t // n, *rest), 2, 0)


def _from_blocks(x):
    """The inverse of `_by_block`."""
    n, g, h, size, *rest = x.shape
    return jnp.moveaxis(x, 0, 2).reshape(g, h, n * size, *rest)


def _product(a, b):
    """float32 [g, a, ...] of a [g, a, c] and b [g, c, ...]."""
    flat = b.reshape(*b.shape[:2], -1)
    product = jnp.matmul(a, flat, preferred_element_type=jnp.float32)
    return product.reshape(*product.shape[:2], *b.shape[2:])


def _over(whole, count, windowed, body, carry):
    """`body(j, carry, masked)` for the `count` blocks of a list: the first `whole`, which are seen
    from end to end, need no mask unless a window hides a part of them."""
    plain, masked = (functools.partial(body, masked=masked) for masked in (False, True))
    if windowed:
        return jax.lax.fori_loop(0, count, masked, carry)
    return jax.lax.fori_loop(whole, count, masked, jax.lax.fori_loop(0, whole, plain, carry))


def _mask(s, query_block, key_block, where, windowed):
    """Scores of a pair of blocks, float32 [g, key, h, query], with what is not seen far below."""
    size = s.shape[1]
    a = jnp.arange(size)
    cut = lambda row, block: jax.lax.dynamic_slice_in_dim(row, block * size, size)
    *intervals, before = (cut(w, query_block)[None] for w in where[:4])
    mask = visible((query_block * size + a)[None], (key_block * size + a)[:, None], *intervals)
    if windowed:
        mask &= cut(where[4], key_block)[:, None] > before
    return jnp.where(mask[:, None], s, NEGATIVE)


def _forward_row(q, k, v, where, blocks, cap, windowed):
    g, h, t, d = q.shape
    n = blocks.keys.shape[0]
    queries = jnp.moveaxis(_by_block(q, n), 4, 2)  # [n, g, d, h, size]
    keys, values = _by_block(k[:, None], n)[:, :, 0], _by_block(v[:, None], n)[:, :, 0]
    values = values.swapaxes(2, 3)

    def query_block(_, index):
        def key_block(j, carry, masked):
            top, total, acc = carry
            kb = blocks.keys[index, j]
            s = capped(_product(keys[kb], queries[index]), cap)
            s = _mask(s, index, kb, where, windowed) if masked else s
            new = jnp.maximum(top, s.max(1))
            p = jnp.exp(s - new[:, None])
            keep = jnp.exp(top - new)
            pv = _product(values[kb], p.astype(v.dtype))
            return new, total * keep + p.sum(1), acc * keep[:, None] + pv

        start = (jnp.full((g, h, t // n), NEGATIVE), jnp.zeros((g, h, t // n)),
                 jnp.zeros((g, d, h, t // n)))
        top, total, acc = _over(blocks.whole_keys[index], blocks.key_counts[index], windowed,
                                key_block, start)
        return None, ((acc / total[:, None]).astype(q.dtype), top + jnp.log(total))

    _, (out, lse) = jax.lax.scan(query_block, None, jnp.arange(n))
    return _from_blocks(jnp.moveaxis(out, 2, 4)), _from_blocks(lse)


def _backward_row(q, k, v, out, lse, grad, where, blocks, cap, windowed):
    g, _, t, d = q.shape
    n = blocks.keys.shape[0]
    delta = _by_block((out * grad).sum(-1, dtype=jnp.float32), n)
    queries, grads, lse = _by_block(q, n), _by_block(grad, n), _by_block(lse, n)
    queries_t, grads_t = jnp.moveaxis(queries, 4, 2), jnp.moveaxis(grads, 4, 2)
    keys, values = _by_block(k[:, None], n)[:, :, 0], _by_block(v[:, None], n)[:, :, 0]
    keys_t = keys.swapaxes(2, 3)
    rows = lambda x: x.reshape(g, -1, d)
    columns = lambda x: x.reshape(g, t // n, -1)

    def key_block(dq, index):
        kb, vb = keys[index], values[index]

        def query_block(j, carry, masked):
            dq, dk, dv = carry
            i = blocks.queries[index, j]
            s = capped(_product(kb, queries_t[i]), cap)
            seen = _mask(s, i, index, where, windowed) if masked else s
            p = jnp.exp(seen - lse[i][:, None])
            ds = p * (_product(vb, grads_t[i]) - delta[i][:, None])
            ds = (ds * (1 - (s / cap) ** 2) if cap else ds).astype(q.dtype)
            return (dq.at[i].add(_product(keys_t[index], ds)),
                    dk + _product(columns(ds), rows(queries[i])),
                    dv + _product(columns(p.astype(v.dtype)), rows(grads[i])))

        zero = jnp.zeros(kb.shape, jnp.float32)
        dq, dk, dv = _over(blocks.whole_queries[index], blocks.query_counts[index], windowed,
                           query_block, (dq, zero, zero))
        return dq, (dk, dv)

    dq, (dk, dv) = jax.lax.scan(key_block, jnp.zeros(queries_t.shape, jnp.float32), jnp.arange(n))
    join = lambda x, like: _from_blocks(x[:, :, None])[:, 0].astype(like.dtype)
    return _from_blocks(jnp.moveaxis(dq, 2, 4)).astype(q.dtype), join(dk, k), join(dv, v)
