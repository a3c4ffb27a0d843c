"""Two-interval attention: a query sees keys [trunk_start, fork) and [branch_start, itself].

`reference` builds the mask; `blockwise` walks the lists of visible blocks that the layout made
and never touches the others, forward and backward (online softmax as in FlashAttention,
arXiv 2205.14135, over data-dependent block lists of fixed size). `attend` picks.

A sliding window is over rotary positions, which a branch continues from its fork: flat indices
know nothing of how far back in its own text a token stands.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

NEGATIVE = -1e30  # not -inf: a query without a visible key must stay finite
EVERYWHERE = np.iinfo(np.int32).max  # a window that hides nothing


def visible(query, key, trunk_start, fork, branch_start):
    """Whether the query at flat index `query` sees the key at `key` (arrays that broadcast)."""
    in_trunk = (key >= trunk_start) & (key < fork)
    return in_trunk | ((key >= branch_start) & (key <= query))


def reference(q, k, v, trunk_start, fork, branch_start, positions=None, *, scale=None, cap=None,
              window=None):
    """q [R, T, H, D]; k, v [R, T, K, D] with H a multiple of K; intervals int32 [R, T].

    `scale` of the scores, None: D**-0.5; `cap`: scores become cap * tanh(score / cap); `window`
    int32 (may be traced): a query sees keys of its last `window` `positions` [R, T] only.
    """
    t = jnp.arange(q.shape[1])
    mask = visible(t[None, :, None], t[None, None, :], trunk_start[..., None], fork[..., None],
                   branch_start[..., None])
    if window is not None:
        mask &= positions[:, :, None] - positions[:, None] < window
    return masked(q, k, v, mask, scale, cap)


def masked(q, k, v, mask, scale: float | None = None, cap: float | None = None):
    """q [R, T, H, D]; k, v [R, S, K, D]; mask bool, broadcastable to [R, T, S]. Softmax float32."""
    r, t, h, d = q.shape
    groups = k.shape[2]
    q = q.reshape(r, t, groups, h // groups, d)
    scores = jnp.einsum("rtghd,rsgd->rghts", q, k, preferred_element_type=jnp.float32)
    scores = capped(scores * (d**-0.5 if scale is None else scale), cap)
    p = jax.nn.softmax(jnp.where(mask[:, None, None], scores, NEGATIVE), -1).astype(v.dtype)
    return jnp.einsum("rghts,rsgd->rtghd", p, v).reshape(r, t, h, d)


def capped(x, cap: float | None):
    """Soft cap of scores or logits (arXiv 2408.00118, section 2): |result| < cap."""
    return cap * jnp.tanh(x / cap) if cap else x


def attend(q, k, v, batch, *, scale=None, cap=None, window=None):
    """Two-interval attention over a batch's own intervals; [R, T, H, D] -> [R, T, H, D].

    Short rows fit one dense product; longer ones are walked by blocks.
    """
    intervals = (batch.trunk_start, batch.fork, batch.branch_start)
    rules = {"scale": scale, "cap": cap, "window": window}
    if batch.blocks.keys.shape[-1] <= 2:
        return reference(q, k, v, *intervals, batch.positions, **rules)
    return blockwise(q, k, v, *intervals, batch.blocks, batch.positions, **rules)


def blockwise(q, k, v, trunk_start, fork, branch_start, blocks, positions=None, *, scale=None,
              cap=None, window=None):
    """As `reference`, visiting only the blocks in `blocks` (`data.batch.Blocks`), and of these
    only those that the window reaches."""
    r, t, h, d = q.shape
    groups = k.shape[2]
    # Rows of [groups, heads per group, T, D]: the heads that share keys share one product.
    q = q.reshape(r, t, groups, h // groups, d).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    near = None if window is None else (positions, jnp.full(r, window, jnp.int32))
    out = _blockwise(q, k, v, (trunk_start, fork, branch_start), near, blocks,
                     d**-0.5 if scale is None else scale, cap)
    return out.transpose(0, 3, 1, 2, 4).reshape(r, t, h, d)


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


def _mask(query_block, key_block, intervals, near, size):
    """Which keys of one block the queries of another see, bool [size, size]."""
    a = jnp.arange(size)
    mask = visible((query_block * size + a)[:, None], (key_block * size + a)[None],
                   *(_cut(x, query_block, size, 0)[:, None] for x in intervals))
    if near is not None:
        positions, window = near
        query, key = (_cut(positions, i, size, 0) for i in (query_block, key_block))
        mask &= query[:, None] - key[None] < window
    return mask


def _if_near(function, query_block, key_block, near, size, carry):
    """`function(carry)`, unless the window hides every key of this block from every query."""
    if near is None:
        return function(carry)
    positions, window = near
    query, key = (_cut(positions, i, size, 0) for i in (query_block, key_block))
    return jax.lax.cond(query.min() - key.max() < window, function, lambda carry: carry, carry)


def _forward_row(q, k, v, intervals, near, blocks, scale, cap):
    g, h, t, d = q.shape
    n = blocks.keys.shape[0]
    size = t // n

    def query_block(_, index):
        qb = _cut(q, index, size, 2)

        def key_block(j, carry):
            kb = blocks.keys[index, j]

            def seen(carry):
                top, total, acc = carry
                s = _scores(qb, _cut(k, kb, size, 1), scale, cap)
                s = jnp.where(_mask(index, kb, intervals, near, size), s, NEGATIVE)
                new = jnp.maximum(top, s.max(-1))
                p = jnp.exp(s - new[..., None])
                keep = jnp.exp(top - new)
                pv = jnp.einsum("ghqk,gkd->ghqd", p.astype(v.dtype), _cut(v, kb, size, 1),
                                preferred_element_type=jnp.float32)
                return new, total * keep + p.sum(-1), acc * keep[..., None] + pv

            return _if_near(seen, index, kb, near, size, carry)

        start = (jnp.full((g, h, size), NEGATIVE), jnp.zeros((g, h, size)),
                 jnp.zeros((g, h, size, d)))
        top, total, acc = jax.lax.fori_loop(0, blocks.key_counts[index], key_block, start)
        return None, ((acc / total[..., None]).astype(q.dtype), top + jnp.log(total))

    _, (out, lse) = jax.lax.scan(query_block, None, jnp.arange(n))
    return jnp.moveaxis(out, 0, 2).reshape(q.shape), jnp.moveaxis(lse, 0, 2).reshape(g, h, t)


def _backward_row(q, k, v, out, lse, grad, intervals, near, blocks, scale, cap):
    g, _, t, d = q.shape
    n = blocks.keys.shape[0]
    size = t // n
    delta = (out * grad).sum(-1, dtype=jnp.float32)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def key_block(dq, index):
        kb, vb = _cut(k, index, size, 1), _cut(v, index, size, 1)

        def query_block(j, carry):
            i = blocks.queries[index, j]

            def seen(carry):
                dq, dk, dv = carry
                qb, gb = _cut(q, i, size, 2), _cut(grad, i, size, 2)
                s = _scores(qb, kb, scale, cap)
                p = jnp.exp(jnp.where(_mask(i, index, intervals, near, size), s, NEGATIVE)
                            - _cut(lse, i, size, 2)[..., None])
                dp = product("ghqd,gkd->ghqk", gb, vb)
                ds = p * (dp - _cut(delta, i, size, 2)[..., None]) * scale
                ds = (ds * (1 - (s / cap) ** 2) if cap else ds).astype(q.dtype)
                dqb = _cut(dq, i, size, 2) + product("ghqk,gkd->ghqd", ds, kb)
                return (jax.lax.dynamic_update_slice_in_dim(dq, dqb, i * size, 2),
                        dk + product("ghqk,ghqd->gkd", ds, qb),
                        dv + product("ghqk,ghqd->gkd", p.astype(v.dtype), gb))

            return _if_near(seen, i, index, near, size, carry)

        zero = jnp.zeros((g, size, d))
        dq, dk, dv = jax.lax.fori_loop(0, blocks.query_counts[index], query_block,
                                       (dq, zero, zero))
        return dq, (dk, dv)

    dq, (dk, dv) = jax.lax.scan(key_block, jnp.zeros(q.shape, jnp.float32), jnp.arange(n))
    join = lambda x, like: jnp.moveaxis(x, 0, 1).reshape(like.shape).astype(like.dtype)
    return dq.astype(q.dtype), join(dk, k), join(dv, v)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _blockwise(q, k, v, intervals, near, blocks, scale, cap):
    return _blockwise_forward(q, k, v, intervals, near, blocks, scale, cap)[0]


def _blockwise_forward(q, k, v, intervals, near, blocks, scale, cap):
    row = functools.partial(_forward_row, scale=scale, cap=cap)
    out, lse = _rows(row, q, k, v, intervals, near, blocks)
    return out, (q, k, v, out, lse, intervals, near, blocks)


def _blockwise_backward(scale, cap, saved, grad):
    q, k, v, out, lse, *integers = saved
    row = functools.partial(_backward_row, scale=scale, cap=cap)
    grads = _rows(row, q, k, v, out, lse, grad, *integers)
    none = lambda x: np.zeros(x.shape, jax.dtypes.float0)  # integers have no gradient
    return *grads, *jax.tree.map(none, integers)


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)
