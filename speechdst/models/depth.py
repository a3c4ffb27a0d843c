"""The depth Transformer: the codes of one frame, one codebook after the other.

Source: Défossez et al. 2024 (Moshi, arXiv 2410.00037), section 3.4.1. A frame is a sequence of Q
steps without positions; step q knows the temporal Transformer's vector of the frame, the frame's
text token and its codes before q. Training runs all frames at once as a batch of short sequences,
decoding one step at a time over a cache.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from speechdst.models.attention import masked
from speechdst.models.lora import Linear
from speechdst.models.transformer import Transformer, TransformerConfig
from speechdst.sharding import constrain

ZERO = -1  # token or code that gives no input and is no target
UNGENERATED = -2  # token or code that decoding has yet to choose


class Tables(nnx.Module):
    """An embedding table for each of `count` streams."""

    def __init__(self, count: int, rows: int, width: int, rngs: nnx.Rngs):
        self.embedding = nnx.Param(
            jax.random.normal(rngs.params(), (count, rows, width)) * width**-0.5)

    def __call__(self, ids, dtype):
        """int32 [..., count] -> [..., count, width]; `ZERO` gives zeros."""
        return self.of(jnp.arange(ids.shape[-1]), ids, dtype)

    def of(self, stream, ids, dtype):
        """The same of one stream, or of as many as there are ids: [...] -> [..., width]."""
        # One gather from all tables: a slice for each stream would be copied.
        tables = constrain(self.embedding[...].astype(dtype), "tables")
        return jnp.where(ids[..., None] == ZERO, 0, tables[stream, jnp.maximum(ids, 0)])


class DepthTransformer(nnx.Module):
    """Q codebooks of `card` entries from vectors of `inputs` channels.

    Input tables have a row more than there are ids (the initial token), `text_rows` included.
    """

    def __init__(self, config: TransformerConfig, *, codebooks: int, card: int, text_rows: int,
                 inputs: int, rngs: nnx.Rngs):
        self.codebooks = codebooks
        self.text = Tables(1, text_rows, config.width, rngs)
        self.audio = Tables(codebooks - 1, card + 1, config.width, rngs)
        self.project = Linear(inputs, config.width, steps=codebooks, rngs=rngs)
        self.transformer = Transformer(config, rngs)
        self.lm_head = Linear(config.width, card, steps=codebooks, rngs=rngs)

    def __call__(self, hidden, text, codes):
        """Teacher-forced vectors [R, T, Q, depth width], whose codebook q is scored by `heads`[q].

        Args: hidden [R, T, inputs]; text int32 [R, T] and codes int32 [R, T, Q] of the frame that
          is predicted there.
        """
        tokens = [self.text(text[..., None], hidden.dtype),
                  self.audio(codes[..., :-1], hidden.dtype)]
        projected = jnp.einsum("rti,sio->rtso", hidden,
                               self.project.kernel[...].astype(hidden.dtype))
        x = projected + jnp.concatenate(tokens, 2)
        out, _ = self.transformer(x.reshape(-1, *x.shape[2:]), _attend_before)
        return out.reshape(x.shape)

    def heads(self):
        """Output matrices [Q, depth width, card]."""
        return self.lm_head.kernel[...]

    def logits(self, vectors):
        """[R, T, Q, depth width] -> float32 [R, T, Q, card]."""
        return jnp.einsum("rtqd,qdv->rtqv", vectors, self.heads().astype(vectors.dtype),
                          preferred_element_type=jnp.float32)

    def cache(self, rows: int, dtype):
        """Of the keys and values of one frame, for `step`."""
        c = self.transformer.config
        empty = jnp.zeros((c.layers, rows, self.codebooks, c.kv_heads, c.head_dim), dtype)
        return empty, empty

    def step(self, q: int, hidden, token, cache):
        """Step q of a frame: (logits float32 [B, card], cache).

        Args: hidden [B, inputs]; token int32 [B]: the text token at step 0, else code q - 1.
        """
        tables = self.text if q == 0 else self.audio
        x = tables.of(max(q - 1, 0), token, hidden.dtype)
        x = x + hidden @ self.project.kernel[q].astype(hidden.dtype)

        def attend(query, key, value, cache, **rules):
            keys, values = (old.at[:, q].set(new[:, 0]) for old, new in
                            zip(cache, (key, value), strict=True))
            sees = np.ones((1, 1, q + 1), bool)
            out = masked(query, keys[:, : q + 1], values[:, : q + 1], sees, **rules)
            return out, (keys, values)

        out, cache = self._own(q)(x[:, None], attend, cache=cache)
        head = self.heads()[q].astype(out.dtype)
        return jnp.einsum("bd,dv->bv", out[:, 0], head,
                          preferred_element_type=jnp.float32), cache

    def _own(self, q: int) -> Transformer:
        """The Transformer that has the weights of step q alone, for sequences of that position."""
        if not self.transformer.config.steps:
            return self.transformer
        graph, params = nnx.split(self.transformer)
        # Stacked over layers, what has four axes leads with [layers, steps].
        return nnx.merge(graph, jax.tree.map(lambda x: x[:, q : q + 1] if x.ndim == 4 else x,
                                             params))


def _attend_before(q, k, v, cache, **rules):
    """Every step sees itself and the steps before it."""
    return masked(q, k, v, np.tri(q.shape[1], dtype=bool)[None], **rules), cache
