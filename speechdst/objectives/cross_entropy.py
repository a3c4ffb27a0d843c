"""Cross entropy and CTC as (sum, weight) pairs, merged before they are divided."""

import functools

import jax
import jax.numpy as jnp
import optax

from speechdst.sharding import by_rows

CHUNK = 128  # positions whose logits exist at a time


def cross_entropy(hidden, head, targets, weights, chunk: int = CHUNK, cap: float = 0.0) -> dict:
    """Next-token cross entropy, chunked so that no full row of logits ever exists.

    Args: hidden [R, T, width], head [width, V], targets int32 [R, T], weights float32 [R, T];
      cap > 0: logits become cap * tanh(logit / cap).
    Returns: {"loss": (sum in nats, weight), "accuracy": (sum, weight)}, float32.
    """
    loss, right = token_losses(hidden, head, targets, weights, chunk, cap)
    return {"loss": (loss.sum(), weights.sum()), "accuracy": (right.sum(), weights.sum())}


def token_losses(hidden, head, targets, weights, chunk: int = CHUNK, cap: float = 0.0
                 ) -> tuple[jax.Array, jax.Array]:
    """The weighted loss of every position, and its weight where the target is the likeliest token;
    float32 [R, T] each. Arguments as for `cross_entropy`."""
    each = functools.partial(_of_rows, chunk=min(chunk, hidden.shape[1]), cap=cap)
    return by_rows(each, (hidden, targets, weights), head)


def _of_rows(rows, head, chunk: int, cap: float):
    """(hidden, targets, weights), head -> what `token_losses` returns."""
    r, t, _ = rows[0].shape
    pad = -t % chunk
    # A row's targets come first, so that all but one chunk are either full of them or empty.
    order = jnp.argsort(rows[2] == 0, axis=1, stable=True)

    def split(x):
        more = (1,) * (x.ndim - 2)
        x = jnp.take_along_axis(x, order.reshape(r, t, *more), 1)
        x = jnp.pad(x, ((0, 0), (0, pad), *((0, 0) for _ in more)))
        return x.reshape(r, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    def present(h, y, w):
        # Cast here, so that the chunks' gradients are summed in the head's own dtype.
        logits = jnp.einsum("rcd,dv->rcv", h, head.astype(h.dtype),
                            preferred_element_type=jnp.float32)
        if cap:
            logits = cap * jnp.tanh(logits / cap)
        picked = jnp.take_along_axis(logits, y[..., None], -1)[..., 0]
        loss = jax.nn.logsumexp(logits, -1) - picked
        return loss * w, (picked >= logits.max(-1)) * w

    zero = (jnp.zeros((r, chunk)), jnp.zeros((r, chunk)))

    # Around the condition, not within it: what a branch keeps for its gradient is stacked over
    # the chunks, and the head of a large vocabulary would be kept once for each.
    @jax.checkpoint
    def step(_, x):
        # Most chunks of a row of trees have nothing to predict.
        return None, jax.lax.cond(x[2].any(), present, lambda *_: zero, *x)

    _, chunks = jax.lax.scan(step, None, tuple(map(split, rows)))
    back = jnp.argsort(order, axis=1)
    return jax.tree.map(lambda x: jnp.take_along_axis(
        x.swapaxes(0, 1).reshape(r, -1)[:, :t], back, 1), chunks)


def ctc(logits, lengths, transcripts, transcript_lengths):
    """CTC loss, blank = last class. Utterances without a transcript, or with one that needs more
    frames than there are, count nothing.

    Args: logits [N, frames, V + 1], lengths [N], transcripts int32 [N, L], their lengths [N].
    Returns: (sum in nats, number of target tokens).
    """
    frames, labels = jnp.arange(logits.shape[1]), jnp.arange(transcripts.shape[1])
    repeats = ((transcripts[:, 1:] == transcripts[:, :-1])
               & (labels[1:] < transcript_lengths[:, None])).sum(-1)
    counted = (transcript_lengths > 0) & (transcript_lengths + repeats <= lengths)
    loss = optax.ctc_loss(
        logits.astype(jnp.float32), (frames >= lengths[:, None]).astype(jnp.float32), transcripts,
        (labels >= transcript_lengths[:, None]).astype(jnp.float32),
        blank_id=logits.shape[-1] - 1)
    return (jnp.where(counted, loss, 0).sum(),
            (counted * transcript_lengths).sum().astype(jnp.float32))
