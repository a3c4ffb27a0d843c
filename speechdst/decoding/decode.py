"""Cached decoding of trunks and branches: one prefill, then all branches together.

The prefill runs the packed rows once and keeps every layer's keys and values. A branch then sees
its trunk up to the fork, its own prompt, and what it has generated, the same two intervals
as in training; the trunk's cache is shared by all branches and beams of a row.
"""

import functools

import jax
import jax.numpy as jnp

from speechdst.models import attention
from speechdst.models.attention import NEGATIVE
from speechdst.sharding import constrain
from speechdst.training.state import model_of


def prefill(model, batch):
    """(final hidden [R, T, width], (k, v) each [layers, R, T, K, D])."""
    attend = lambda q, k, v, cache, **rules: (
        attention.attend(q, k, v, batch, path=model.config.attention, **rules), (k, v))
    hidden, cache = model.decoder(model.embed(batch), batch.positions, attend)
    return hidden, tuple(constrain(x, "cache") for x in cache)


def attend_cached(q, k, v, cache, *, sees, distance, step, scale=None, cap=None, window=None):
    """q [R, N, H, D], one query a branch; cache: trunk k, v [R, T, K, D], own k, v
    [R, N, L, K, D]; sees bool [R, N, T]; distance int32 [R, N, T]: rotary positions from the keys
    of the trunk to the queries; step: how many own keys there are already."""
    trunk_k, trunk_v, own_k, own_v = cache
    own_k = jax.lax.dynamic_update_slice_in_dim(own_k, k[:, :, None], step, 2)
    own_v = jax.lax.dynamic_update_slice_in_dim(own_v, v[:, :, None], step, 2)
    r, n, h, d = q.shape
    groups = k.shape[2]
    q = q.reshape(r, n, groups, h // groups, d)
    back = step - jnp.arange(own_k.shape[2])  # own keys follow one another
    written = back >= 0
    if window is not None:
        sees, written = sees & (distance < window), written & (back < window)

    def scores(equation, keys, mask):
        s = jnp.einsum(equation, q, keys, preferred_element_type=jnp.float32)
        s = attention.capped(s * (d**-0.5 if scale is None else scale), cap)
        return jnp.where(mask, s, NEGATIVE)

    trunk = scores("rnghd,rtgd->rnght", trunk_k, sees[:, :, None, None])
    own = scores("rnghd,rnlgd->rnghl", own_k, written)
    p = jax.nn.softmax(jnp.concatenate([trunk, own], -1), -1).astype(v.dtype)
    t = trunk_k.shape[1]
    out = (jnp.einsum("rnght,rtgd->rnghd", p[..., :t], trunk_v)
           + jnp.einsum("rnghl,rnlgd->rnghd", p[..., t:], own_v))
    return out.reshape(r, n, h, d), (own_k, own_v)


@functools.partial(jax.jit, static_argnames=("graph", "beam", "max_new", "eos"))
def decode(params, batch, starts, *, graph, beam: int, max_new: int, eos: int):
    """Decodes every branch of every row; beam 1 is greedy.

    Args:
      params: flat parameters; graph: the model's graph.
      batch: rows of prompt trees (`contexts.TreeBuilder.prompt`).
      starts: int32 [R, N], the flat position of the last token of each branch's prompt; -1: no
        branch.
    Returns:
      tokens int32 [R, N, max_new] (eos and what follows it are eos), their log-probabilities
      float32 [R, N, max_new] (0 behind the first eos), of the best beam by mean log-probability.
    """
    model = model_of(graph, params)
    hidden, (trunk_k, trunk_v) = prefill(model, batch)
    r, n = starts.shape
    at = jnp.maximum(starts, 0)
    pick = lambda x: jnp.take_along_axis(x, at, 1)
    fork, trunk_start, position = pick(batch.fork), pick(batch.trunk_start), pick(batch.positions)
    branch_start = pick(batch.branch_start)
    key = jnp.arange(batch.tokens.shape[1])
    sees = (((key >= trunk_start[..., None]) & (key < fork[..., None]))
            | ((key >= branch_start[..., None]) & (key <= at[..., None])))
    first = jnp.take_along_axis(hidden, at[..., None], 1)
    per_beam = lambda x: jnp.repeat(x, beam, axis=1)
    sees, position = per_beam(sees), per_beam(position)

    c = model.decoder.config.transformer
    own = constrain(jnp.zeros((c.layers, r, n * beam, max_new, c.kv_heads, c.head_dim),
                              trunk_k.dtype), "own cache")
    logp = lambda h: jax.nn.log_softmax(model.decoder.logits(h))
    only_eos = jnp.where(jnp.arange(model.decoder.config.vocabulary) == eos, 0.0, NEGATIVE)

    def extend(state, hidden):
        """Chooses the next token of every beam from the hidden vectors [R, N * beam, width]."""
        i, tokens, logps, scores, done, own_k, own_v = state
        scored = jnp.where(done[..., None], only_eos, logp(hidden))
        v = scored.shape[-1]
        total = (scores[..., None] + scored).reshape(r, n, beam * v)
        best, index = jax.lax.top_k(total, beam)
        source, token = (index // v), (index % v).astype(jnp.int32)
        if beam > 1:
            flat = (source + jnp.arange(n)[None, :, None] * beam).reshape(r, n * beam)
            move = lambda x, axis: jax.vmap(lambda y, j: jnp.take(y, j, axis=axis))(x, flat)
            tokens, logps, done, scored = (move(x, 0) for x in (tokens, logps, done, scored))
            reorder = lambda x: jax.vmap(lambda y, j: jnp.take(y, j, axis=1),
                                         (1, 0), 1)(x, flat)
            own_k, own_v = reorder(own_k), reorder(own_v)
        token = token.reshape(r, n * beam)
        gained = jnp.take_along_axis(scored, token[..., None], -1)[..., 0]
        tokens = tokens.at[:, :, i].set(token)
        logps = logps.at[:, :, i].set(jnp.where(done, 0.0, gained))
        return (i + 1, tokens, logps, best.reshape(r, n * beam), done | (token == eos),
                own_k, own_v)

    def step(state):
        i, tokens, *_, own_k, own_v = state
        x = model.decoder.embed(tokens[:, :, i - 1], model.dtype)
        distance = (position + i)[..., None] - batch.positions[:, None]
        attend = functools.partial(attend_cached, sees=sees, distance=distance, step=i - 1)
        h, (own_k, own_v) = model.decoder(x, position + i, attend,
                                          (trunk_k, trunk_v, own_k, own_v))
        return extend((*state[:-2], own_k, own_v), h)

    # All beams start equal, so at first only one of them may be extended.
    scores = jnp.where(jnp.arange(n * beam) % beam == 0, 0.0, NEGATIVE)
    state = (0, jnp.full((r, n * beam, max_new), eos), jnp.zeros((r, n * beam, max_new)),
             jnp.broadcast_to(scores, (r, n * beam)),
             jnp.broadcast_to(per_beam(starts < 0), (r, n * beam)), own, own)
    state = extend(state, per_beam(first))
    state = jax.lax.while_loop(lambda s: (s[0] < max_new) & ~s[4].all(), step, state)
    _, tokens, logps, scores, *_ = state
    length = jnp.minimum((tokens != eos).sum(-1) + 1, max_new)
    best = (scores / length).reshape(r, n, beam).argmax(-1)
    choose = lambda x: jnp.take_along_axis(
        x.reshape(r, n, beam, max_new), best[..., None, None], 2)[:, :, 0]
    return tuple(constrain(choose(x), "whole") for x in (tokens, logps))
