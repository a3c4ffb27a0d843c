"""The multi-stream spoken dialogue model: text, own audio and the user's audio, frame by frame.

Source: Défossez et al. 2024 (Moshi, arXiv 2410.00037), sections 3.4.2 to 3.4.4, and Moshi's public
code for the special tokens. There are K = 2Q + 1 streams of 12.5 frames a second: the model's text
(words, or padding while it is silent), the Q codebooks of its own speech, and those of the user's.
Codebook q of a frame stands `delays[q]` positions later than the frame. At every position the
temporal Transformer reads the sum of the K embeddings of what stood one position before, the text
head predicts the text there, and the depth Transformer the own codes, one after the other. The
user's codes are never predicted.

Special tokens: before the first frame of a stream stands its initial token (the id behind its
last: `vocabulary`, `card`); `depth.ZERO` (-1) gives no input and is no target; `depth.UNGENERATED`
(-2) is what decoding has yet to choose.

Where the public weights of Moshi go; kernels transposed, layers stacked in front, [q] by step, and
the rotary halves of q and k taken apart, which are interleaved there:

    text_emb, emb.{k}                              decoder/embedding, audio/embedding[k]
    transformer.layers.{i}.norm1, norm2            decoder/transformer/blocks/attention_norm,
                                                   mlp_norm/scale
    transformer.layers.{i}.self_attn.in_proj       .../q, k, v/kernel: thirds of its rows
    transformer.layers.{i}.self_attn.out_proj      .../o/kernel
    transformer.layers.{i}.gating.linear_in, _out  .../gate and up: halves of its rows, down/kernel
    out_norm, text_linear                          decoder/transformer/norm/scale, lm_head/kernel
    depformer_in.{q}                               depth/project/kernel[q]
    depformer_text_emb, depformer_emb.{q}          depth/text/embedding[0], depth/audio/embedding[q]
    depformer.layers.{i}.self_attn.in_proj         depth/transformer/blocks/q, k, v/kernel: rows of
                                                   step 0 first, of each step thirds
    depformer.layers.{i}.gating.{q}                depth/transformer/blocks/gate, up, down/kernel[q]
    linears.{q}                                    depth/lm_head/kernel[q]
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from speechdst.models import attention
from speechdst.models.decoder import Decoder, DecoderConfig
from speechdst.models.depth import ZERO, DepthTransformer, Tables
from speechdst.models.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class MultiStreamLMConfig:
    """`decoder`: the temporal Transformer with text embedding and text head; `depth`: its `steps`
    are the codebooks, or 0: all steps share their weights; `codebooks` (Q) of `card` entries for
    either speaker; `delays` in frames by codebook; `pad`, `epad`: text tokens of a frame without a
    word, and of the last one before a word."""

    kind: ClassVar[str] = "multistream"

    decoder: DecoderConfig
    depth: TransformerConfig
    codebooks: int = 8
    card: int = 2048
    delays: tuple[int, ...] = (0, 1, 1, 1, 1, 1, 1, 1)
    pad: int = 3
    epad: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        if not self.decoder.initial:
            raise ValueError("decoder.initial must be True: the text stream has an initial token")
        if self.codebooks < 2 or len(self.delays) != self.codebooks or min(self.delays) < 0:
            raise ValueError(f"delays {self.delays}, expected one, not negative, for each of "
                             f"{self.codebooks} codebooks, of which there are two or more")
        if self.depth.steps not in (0, self.codebooks) or self.depth.bias or self.depth.rope_theta:
            raise ValueError(f"depth has {self.depth.steps} steps; expected {self.codebooks} (one "
                             "for each codebook) or 0, no bias and no rotary positions")

    @property
    def stream_delays(self) -> tuple[int, ...]:
        """Of all K streams: text, own codebooks, the user's."""
        return (0, *self.delays, *self.delays)

    @property
    def initial(self) -> tuple[int, ...]:
        """The initial tokens of all K streams."""
        return (self.decoder.vocabulary, *(self.card,) * (2 * self.codebooks))

    def make(self, rngs: nnx.Rngs) -> "MultiStreamLM":
        return MultiStreamLM(self, rngs)


# The published size: 7B temporal, 600M depth (Moshi, Table 1, and the public checkpoint's shapes).
MOSHI = MultiStreamLMConfig(
    decoder=DecoderConfig(
        TransformerConfig(width=4096, layers=32, heads=32, mlp_width=11264, gated=True, bias=False,
                          rms=True, norm_epsilon=1e-8, rope_theta=10_000.0, windows=(3000,) * 32,
                          remat=True),
        vocabulary=32_000, tied=False, initial=True),
    depth=TransformerConfig(width=1024, layers=6, heads=16, mlp_width=2816, gated=True, bias=False,
                            rms=True, norm_epsilon=1e-8, final_norm=False, steps=8, remat=True),
    dtype="bfloat16")


class MultiStreamLM(nnx.Module):
    """Batches carry text in `tokens` and `targets`, and audio in `codes` and `code_targets`."""

    def __init__(self, config: MultiStreamLMConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.decoder.transformer.width
        self.decoder = Decoder(config.decoder, rngs)
        self.audio = Tables(2 * config.codebooks, config.card + 1, width, rngs)
        self.depth = DepthTransformer(
            config.depth, codebooks=config.codebooks, card=config.card,
            text_rows=config.decoder.vocabulary + 1, inputs=width, rngs=rngs)

    @property
    def dtype(self):
        return jnp.dtype(self.config.dtype)

    def embed(self, tokens, codes):
        """Text int32 [R, T], audio int32 [R, T, 2Q] -> their summed embeddings [R, T, width]."""
        x = self.decoder.embed(jnp.maximum(tokens, 0), self.dtype)
        x = jnp.where(tokens[..., None] == ZERO, 0, x)
        return x + self.audio(codes, self.dtype).sum(-2)

    def __call__(self, batch, key=None, encoded=None):
        """Final hidden vectors of the temporal Transformer, [R, T, width]. Text logits are
        `decoder.logits(hidden)`; `key` and `encoded` have no meaning here: there is neither
        randomness nor an encoder."""
        x = self.embed(batch.tokens, batch.codes)
        return self.decoder(x, batch.positions, attention.over(batch))[0]

    def code_vectors(self, batch, hidden):
        """Vectors of the depth Transformer [R, T, Q, depth width] under the batch's own targets."""
        return self.depth(hidden, batch.targets, batch.code_targets)

    def logits(self, batch):
        """Logits by frame, for rows of one sequence each (no branches), as Moshi's public forward
        pass gives them: (text float32 [R, T, V], audio float32 [R, T, Q, card], valid bool
        [R, T, Q]). A codebook's last frames, whose delayed position is behind the end, are not
        valid, nor are frames whose target is `ZERO`."""
        hidden = self(batch)
        audio = self.depth.logits(self.code_vectors(batch, hidden))
        frames = jnp.arange(hidden.shape[1])
        ends = (batch.tree >= 0).sum(1)[:, None]  # positions of the row's sequence
        by_frame, valid = [], []
        for q, delay in enumerate(self.config.delays):
            at = jnp.minimum(frames + delay, len(frames) - 1)
            by_frame.append(audio[:, at, q])
            valid.append((frames + delay < ends) & (batch.code_targets[:, at, q] != ZERO))
        return self.decoder.logits(hidden), jnp.stack(by_frame, 2), jnp.stack(valid, 2)
