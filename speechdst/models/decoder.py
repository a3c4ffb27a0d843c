"""The decoder LLM: pre-norm, rotary positions, grouped queries, gated MLP."""

import dataclasses

import jax
from flax import nnx

from speechdst.models.lora import Linear
from speechdst.models.transformer import Transformer, TransformerConfig


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    transformer: TransformerConfig
    vocabulary: int
    tied: bool = True  # output head = input embedding


class Decoder(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.transformer.width
        self.embedding = nnx.Param(
            jax.random.normal(rngs.params(), (config.vocabulary, width)) * width**-0.5)
        self.transformer = Transformer(config.transformer, rngs)
        self.lm_head = None if config.tied else Linear(width, config.vocabulary, rngs=rngs)

    def embed(self, tokens, dtype):
        """int32 [...] -> [..., width]; tied embeddings are brought to unit scale here."""
        x = self.embedding[...].astype(dtype)[tokens]
        return x * self.config.transformer.width**0.5 if self.config.tied else x

    def head(self):
        """The output matrix [width, vocabulary]."""
        return self.embedding[...].T if self.lm_head is None else self.lm_head.kernel[...]

    def __call__(self, x, positions, attend, cache=None) -> tuple[jax.Array, object]:
        """Embeddings [R, T, width] -> (hidden [R, T, width], cache): see `Transformer`."""
        return self.transformer(x, attend, positions, cache)
