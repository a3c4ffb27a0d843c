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
    def own(rows, head):
        hidden, targets, weights = rows
        return jax.tree.map(lambda x: x[None], _sums(
            hidden, head, targets, weights, min(chunk, hidden.shape[1]), cap))

    loss, right = by_rows(own, (hidden, targets, weights), head)
    return {"loss": (loss.sum(), weights.sum()), "accuracy": (right.sum(), weights.sum())}


def token_losses(hidden, head, targets, weights, chunk: int = CHUNK, cap: float = 0.0
                 ) -> tuple[jax.Array, jax.Array]:
    """The weighted loss of every position, and its weight where the target is the likeliest token;
    float32 [R, T] each. Arguments as for `cross_entropy`."""
    each = functools.partial(_of_rows, chunk=min(chunk, hidden.shape[1]), cap=cap)
    return by_rows(each, (hidden, targets, weights), head)


def _of_rows(rows, head, chunk: int, cap: float):
    """(hidden, targets, weights), head -> what `token_losses` returns."""
    chunks = _Chunks(rows[2], chunk)

    def present(h, y, w):
        loss, right, _ = _losses(_logits(h, head, cap), y)
        return loss * w, right * w

    zero = (jnp.zeros(chunks.shape),) * 2

    # Around the condition, not within it: what a branch keeps for its gradient is stacked over
    # the chunks, and the head of a large vocabulary would be kept once for each.
    @jax.checkpoint
    def step(_, x):
        # Most chunks of a row of trees have nothing to predict.
        return None, jax.lax.cond(x[2].any(), present, lambda *_: zero, *x)

    _, found = jax.lax.scan(step, None, tuple(map(chunks.split, rows)))
    return jax.tree.map(chunks.join, found)


class _Chunks:
    """The positions of rows in chunks. A row's targets come first, so that all but one chunk are
    either full of them or empty."""

    def __init__(self, weights, size: int):
        self.rows, self.positions = weights.shape
        self.shape = (self.rows, size)
        self.order = jnp.argsort(weights == 0, axis=1, stable=True)

    def split(self, x):
        """[R, T, ...] -> [chunks, R, chunk, ...]."""
        more = (1,) * (x.ndim - 2)
        x = jnp.take_along_axis(x, self.order.reshape(self.rows, -1, *more), 1)
        pad = -self.positions % self.shape[1]
        x = jnp.pad(x, ((0, 0), (0, pad), *((0, 0) for _ in more)))
        return x.reshape(self.rows, -1, self.shape[1], *x.shape[2:]).swapaxes(0, 1)

    def join(self, x):
        """The inverse of `split`."""
        more = (1,) * (x.ndim - 3)
        x = x.swapaxes(0, 1).reshape(self.rows, -1, *x.shape[3:])[:, : self.positions]
        return jnp.take_along_axis(x, jnp.argsort(self.order, axis=1).reshape(
            self.rows, -1, *more), 1)


def _logits(h, head, cap: float):
    # Cast here, so that the chunks' gradients are summed in the head's own dtype.
    logits = jnp.einsum("rcd,dv->rcv", h, head.astype(h.dtype), preferred_element_type=jnp.float32)
    return cap * jnp.tanh(logits / cap) if cap else logits


def _losses(logits, targets):
    """(-log p of the targets, whether they are likeliest, log of the sum of all exp)."""
    picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    total = jax.nn.logsumexp(logits, -1)
    return total - picked, picked >= logits.max(-1), total


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _sums(hidden, head, targets, weights, chunk: int, cap: float):
    """The sums over all rows of what `token_losses` returns.

    The gradient of a sum is known as soon as the logits are, up to a factor: it is made beside the
    loss, so that logits are not computed a second time for it (as in Liger Kernel, 2410.10989).
    """
    return jax.tree.map(jnp.sum, _of_rows((hidden, targets, weights), head, chunk, cap))


def _sums_forward(hidden, head, targets, weights, chunk: int, cap: float):
    trained, head, weights = head.perturbed, head.value, weights.value
    rows = (hidden.value, targets.value, weights)
    chunks = _Chunks(weights, chunk)

    def present(by_head, h, y, w):
        logits = _logits(h, head, cap)
        loss, right, total = _losses(logits, y)
        by_logits = jnp.exp(logits - total[..., None]) - (jnp.arange(head.shape[1]) == y[..., None])
        by_logits *= w[..., None]
        if cap:
            by_logits *= 1 - (logits / cap) ** 2
        by_logits = by_logits.astype(h.dtype)
        by_h = jnp.einsum("rcv,dv->rcd", by_logits, head.astype(h.dtype))
        if trained:
            by_head += jnp.einsum("rcd,rcv->dv", h, by_logits, preferred_element_type=by_head.dtype)
        return by_head, (loss, right * w, by_h)

    def absent(by_head, h, y, w):
        return by_head, (jnp.zeros_like(w), jnp.zeros_like(w), jnp.zeros_like(h))

    def step(by_head, x):
        return jax.lax.cond(x[2].any(), present, absent, by_head, *x)

    by_head, found = jax.lax.scan(step, jnp.zeros_like(head) if trained else None,
                                  tuple(map(chunks.split, rows)))
    loss, right, by_hidden = map(chunks.join, found)
    return ((loss * weights).sum(), right.sum()), (by_hidden, by_head, loss)


def _sums_backward(chunk: int, cap: float, kept, by_sums):
    by_hidden, by_head, loss = kept
    by_loss = by_sums[0]
    if isinstance(by_loss, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    scaled = lambda x: None if x is None else (by_loss * x).astype(x.dtype)
    return scaled(by_hidden), scaled(by_head), None, by_loss * loss


_sums.defvjp(_sums_forward, _sums_backward, symbolic_zeros=True)


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
