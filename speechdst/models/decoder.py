"""The decoder LLM: one module for the Llama, Qwen, OLMo and Gemma families, told apart by config.

What a family's config is, and where its parameters stand in a checkpoint: `speechdst/hf`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from speechdst.models.attention import capped
from speechdst.models.lora import Linear
from speechdst.models.transformer import Transformer, TransformerConfig
from speechdst.sharding import constrain


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """`embedding_scale`: of token embeddings, rounded to the compute dtype; with `scale_soft` soft
    vectors are multiplied by it too (Gemma 2; Gemma 3 leaves them alone). `logit_cap` > 0: logits
    become cap * tanh(logit / cap). `initial`: the input embedding has one row more, behind the
    vocabulary, of the token that stands before a sequence and is never predicted."""

    transformer: TransformerConfig
    vocabulary: int
    tied: bool = True  # output head = input embedding
    embedding_scale: float = 1.0
    scale_soft: bool = False
    logit_cap: float = 0.0
    initial: bool = False

    def __post_init__(self):
        if self.initial and self.tied:
            raise ValueError("an initial token is never predicted: tied must be False")


class Decoder(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.transformer.width
        self.embedding = nnx.Param(
            jax.random.normal(rngs.params(), (config.vocabulary + config.initial, width))
            * width**-0.5)
        self.transformer = Transformer(config.transformer, rngs)
        self.lm_head = None if config.tied else Linear(width, config.vocabulary, rngs=rngs)

    def embed(self, tokens, dtype):
        """int32 [...] -> [..., width], scaled."""
        table = constrain(self.embedding[...].astype(dtype), "table")
        return constrain(self._scaled(table[tokens]), "stream")

    def soft(self, x):
        """What soft vectors [..., width] are to this family before they enter."""
        return self._scaled(x) if self.config.scale_soft else x

    def _scaled(self, x):
        scale = self.config.embedding_scale
        return x if scale == 1 else x * jnp.asarray(scale, x.dtype)

    def head(self):
        """The output matrix [width, vocabulary]."""
        return self.embedding[...].T if self.lm_head is None else self.lm_head.kernel[...]

    def logits(self, hidden):
        """[..., width] -> float32 [..., vocabulary], capped."""
        product = jnp.einsum("...d,dv->...v", hidden, self.head().astype(hidden.dtype),
                             preferred_element_type=jnp.float32)
        return capped(product, self.config.logit_cap)

    def __call__(self, x, positions, attend, cache=None) -> tuple[jax.Array, object]:
        """Embeddings [R, T, width] -> (hidden [R, T, width], cache): see `Transformer`."""
        return self.transformer(x, attend, positions, cache)
