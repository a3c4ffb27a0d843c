"""Two-interval attention: a query sees keys [trunk_start, fork) and [branch_start, itself].

`reference` builds the mask; `blockwise` walks the lists of visible blocks that the layout made
and never touches the others, forward and backward (online softmax as in FlashAttention,
arXiv 2205.14135, over data-dependent block lists of fixed size). `attend` picks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

NEGATIVE = -1e30  # not -inf: a query without a visible key must stay finite


def visible(query, key, trunk_start, fork, branch_start):
    """Whether the query at flat index `query` sees the key at `key` (arrays that broadcast)."""
    in_trunk = (key >= trunk_start) & (key < fork)
    return in_trunk | ((key >= branch_start) & (key <= query))


def reference(q, k, v, trunk_start, fork, branch_start):
    """q [R, T, H, D]; k, v [R, T, K, D] with H a multiple of K; intervals int32 [R, T]."""
    t = jnp.arange(q.shape[1])
    mask = visible(t[None, :, None], t[None, None, :], trunk_start[..., None], fork[..., None],
                   branch_start[..., None])
    return masked(q, k, v, mask)


def masked(q, k, v, mask, scale: float | None = None):
    """q [R, T, H, D]; k, v [R, S, K, D]; mask bool, broadcastable to [R, T, S]. Softmax float32."""
    r, t, h, d = q.shape
    groups = k.shape[2]
    q = q.reshape(r, t, groups, h // groups, d)
    scores = jnp.einsum("rtghd,rsgd->rghts", q, k, preferred_element_type=jnp.float32)
    scores = scores * (d**-0.5 if scale is None else scale)
    p = jax.nn.softmax(jnp.where(mask[:, None, None], scores, NEGATIVE), -1).astype(v.dtype)
    return jnp.einsum("rghts,rsgd->rtghd", p, v).reshape(r, t, h, d)


def attend(q, k, v, batch):
    """Two-interval attention over a batch's own intervals; [R, T, H, D] -> [R, T, H, D].

    Short rows fit one dense product; longer ones are walked by blocks.
    """
    intervals = (batch.trunk_start, batch.fork, batch.branch_start)
    if batch.blocks.keys.shape[-1] <= 2:
        return reference(q, k, v, *intervals)
    return blockwise(q, k, v, *intervals, batch.blocks)


def blockwise(q, k, v, trunk_start, fork, branch_start, blocks):
    """As `reference`, visiting only the blocks in `blocks` (`data.batch.Blocks`)."""
    r, t, h, d = q.shape
    groups = k.shape[2]
    # Rows of [groups, heads per group, T, D]: the heads that share keys share one product.
    q = q.reshape(r, t, groups, h // groups, d).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    out = _blockwise(q, k, v, (trunk_start, fork, branch_start), blocks)
    return out.transpose(0, 3, 1, 2, 4).reshape(r, t, h, d)


def _rows(function, *arguments):
    """Row by row: every row has its own number of visible blocks, so a vmap would not skip."""
    if jax.tree.leaves(arguments)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arguments)))
    return jax.lax.map(lambda a: function(*a), arguments)


def _cut(x, index, size, axis):
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis)


def _scores(q, k, query_block, key_block, intervals, size, scale):
    """Masked scores float32 [g, h, size, size] of one pair of blocks."""
    s = jnp.einsum("ghqd,gkd->ghqk", q, k, preferred_element_type=jnp.float32) * scale
    a = jnp.arange(size)
    mask = visible((query_block * size + a)[:, None], (key_block * size + a)[None],
                   *(x[:, None] for x in intervals))
    return jnp.where(mask, s, NEGATIVE)


def _forward_row(q, k, v, intervals, blocks):
    g, h, t, d = q.shape
    n = blocks.keys.shape[0]
    size = t // n
    scale = d**-0.5

    def query_block(_, index):
        qb = _cut(q, index, size, 2)
        at = [_cut(x, index, size, 0) for x in intervals]

        def key_block(j, carry):
            top, total, acc = carry
            kb = blocks.keys[index, j]
            s = _scores(qb, _cut(k, kb, size, 1), index, kb, at, size, scale)
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


def _backward_row(q, k, v, out, lse, grad, intervals, blocks):
    g, _, t, d = q.shape
    n = blocks.keys.shape[0]
    size = t // n
    scale = d**-0.5
    delta = (out * grad).sum(-1, dtype=jnp.float32)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def key_block(dq, index):
        kb, vb = _cut(k, index, size, 1), _cut(v, index, size, 1)

        def query_block(j, carry):
            dq, dk, dv = carry
            i = blocks.queries[index, j]
            qb, gb = _cut(q, i, size, 2), _cut(grad, i, size, 2)
            at = [_cut(x, i, size, 0) for x in intervals]
            p = jnp.exp(_scores(qb, kb, i, index, at, size, scale)
                        - _cut(lse, i, size, 2)[..., None])
            dp = product("ghqd,gkd->ghqk", gb, vb)
            ds = (p * (dp - _cut(delta, i, size, 2)[..., None]) * scale).astype(q.dtype)
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


@jax.custom_vjp
def _blockwise(q, k, v, intervals, blocks):
    return _rows(_forward_row, q, k, v, intervals, blocks)[0]


def _blockwise_forward(q, k, v, intervals, blocks):
    out, lse = _rows(_forward_row, q, k, v, intervals, blocks)
    return out, (q, k, v, out, lse, intervals, blocks)


def _blockwise_backward(saved, grad):
    q, k, v, out, lse, intervals, blocks = saved
    grads = _rows(_backward_row, q, k, v, out, lse, grad, intervals, blocks)
    none = lambda x: np.zeros(x.shape, jax.dtypes.float0)  # integers have no gradient
    return *grads, jax.tree.map(none, intervals), jax.tree.map(none, blocks)


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)
