"""The connector: speech encoder output, or the text encoder's, to vectors the LLM reads.

Convolutions of arXiv 2511.22503 (stride 6 in all) or 6-frame stacking of arXiv 2506.08633, then a
shared Transformer. Unlike the authors' code, its attention never sees padding.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from speechdst.models.audio_encoder.log_mel_encoder import Conv
from speechdst.models.lora import Linear
from speechdst.models.transformer import (
    Transformer,
    TransformerConfig,
    attend_within,
    sinusoids,
    valid,
)


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """`strides` of the convolutions of `taps` taps; `stack` > 0: that many frames are stacked
    and projected instead. `inputs`, `outputs`: widths of the speech encoder and of the LLM."""

    transformer: TransformerConfig
    inputs: int
    outputs: int
    strides: tuple[int, ...] = (3, 2)
    taps: int = 7
    stack: int = 0

    def length(self, vectors: int) -> int:
        """Soft positions for `vectors` speech encoder outputs; none for none."""
        if not vectors:
            return 0
        if self.stack:
            return -(-vectors // self.stack)
        for stride in self.strides:
            vectors = (max(vectors, self.taps) - self.taps) // stride + 1
        return vectors


class Connector(nnx.Module):
    def __init__(self, config: ConnectorConfig, rngs: nnx.Rngs):
        c = self.config = config
        width = c.transformer.width
        if c.stack:
            self.project = Linear(c.inputs * c.stack, width, bias=True, rngs=rngs)
        else:
            inputs = (c.inputs, *[width] * (len(c.strides) - 1))
            self.convs = nnx.List(Conv(i, width, c.taps, s, 0, rngs)
                                  for i, s in zip(inputs, c.strides, strict=True))
        self.transformer = Transformer(c.transformer, rngs)
        self.out = Linear(width, c.outputs, bias=True, rngs=rngs)

    def speech(self, x, lengths):
        """Encoder output [N, vectors, inputs], lengths [N] -> ([N, soft, outputs], lengths)."""
        c = self.config
        if c.stack:
            n, t, d = x.shape
            x = jnp.pad(valid(x, lengths), ((0, 0), (0, -t % c.stack), (0, 0)))
            x = self.project(x.reshape(n, -1, c.stack * d))
            return self.shared(x, -(-lengths // c.stack))
        x = jax.nn.gelu(x)
        for conv, stride in zip(self.convs, c.strides, strict=True):
            x = valid(x, lengths)
            x = jnp.pad(x, ((0, 0), (0, max(0, c.taps - x.shape[1])), (0, 0)))
            lengths = jnp.where(
                lengths > 0, (jnp.maximum(lengths, c.taps) - c.taps) // stride + 1, 0)
            x = jax.nn.gelu(conv(x))
        return self.shared(x, lengths)

    def shared(self, x, lengths):
        """What both paths share: positions, Transformer, projection; x [N, soft, width]."""
        x = x + sinusoids(x.shape[1], x.shape[2]).astype(x.dtype)
        return self.out(self.transformer(x, attend_within(lengths))[0]), lengths
