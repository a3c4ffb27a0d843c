"""The encoder of Whisper (arXiv 2212.04356, section 2.2) as Hugging Face computes it.

The released models have only ever seen windows of 30 s: the reference pads every clip with silence
to 3000 frames and attends to all of them. `window` "pad30" does the same;
"short" computes no more than the clip: its positions are cut and padding is never seen. Either
way the encoder hears waveforms and makes the features itself.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from speechdst.models.attention import masked
from speechdst.models.audio_encoder.layers import LayerNorm, gelu, stacked, through
from speechdst.models.audio_encoder.log_mel import HOP, WINDOW, frame_lengths, log_mel
from speechdst.models.audio_encoder.log_mel_encoder import Conv
from speechdst.models.lora import Linear
from speechdst.models.transformer import sinusoids, valid
from speechdst.sharding import constrain


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    """The defaults are the tiny model; `SIZES` has the others.

    `mels`: channels of the log-mel features; `positions`: most output vectors, two frames each;
    `window`: "short" or "pad30", see the module; `remat`: recompute a layer's activations in the
    backward pass instead of keeping them.
    """

    kind: ClassVar[str] = "whisper"
    hears: ClassVar[str] = "waveform"
    channels: ClassVar[int] = 1
    least: ClassVar[int] = WINDOW  # samples of the shortest clip

    width: int = 384
    layers: int = 4
    heads: int = 6
    mlp_width: int = 1536
    mels: int = 80
    positions: int = 1500
    window: str = "short"
    remat: bool = False

    def __post_init__(self):
        if self.window not in ("short", "pad30"):
            raise ValueError(f"window is {self.window!r}, expected 'short' or 'pad30'")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")

    @property
    def most(self) -> int:
        """Samples of the longest clip: 30 s for all released models."""
        return 2 * HOP * self.positions

    def length(self, samples: int) -> int:
        """Output vectors of `samples` samples: 50 of one second at 16 kHz."""
        return -(-(samples // HOP) // 2)


def _size(width, layers, heads, mels=80):
    return WhisperConfig(width, layers, heads, 4 * width, mels)


SIZES = {"tiny": _size(384, 4, 6), "base": _size(512, 6, 8), "small": _size(768, 12, 12),
         "medium": _size(1024, 24, 16), "large": _size(1280, 32, 20),
         "large-v2": _size(1280, 32, 20), "large-v3": _size(1280, 32, 20, 128),
         "large-v3-turbo": _size(1280, 32, 20, 128)}


class Block(nnx.Module):
    """One pre-norm layer: attention (keys without a bias), then the MLP."""

    def __init__(self, config: WhisperConfig, rngs: nnx.Rngs):
        c = self.config = config
        linear = lambda i, o, bias=True: Linear(i, o, bias=bias, rngs=rngs)
        self.q, self.v, self.o = (linear(c.width, c.width) for _ in range(3))
        self.k = linear(c.width, c.width, bias=False)
        self.up, self.down = linear(c.width, c.mlp_width), linear(c.mlp_width, c.width)
        self.attention_norm, self.mlp_norm = LayerNorm(c.width), LayerNorm(c.width)

    def __call__(self, x, mask):
        """x [N, T, width], mask bool [N, 1, T] -> [N, T, width]."""
        h = self.attention_norm(x)
        q, k, v = (p(h).reshape(*x.shape[:-1], self.config.heads, -1)
                   for p in (self.q, self.k, self.v))
        q, k, v = (constrain(y, "heads") for y in (q, k, v))
        x = constrain(x + self.o(masked(q, k, v, mask).reshape(x.shape)), "stream")
        up = constrain(self.up(self.mlp_norm(x)), "columns")
        return constrain(x + self.down(gelu(up)), "stream")


class Whisper(nnx.Module):
    """samples [N, S] (16 kHz), lengths [N] -> (vectors [N, T, width], their lengths [N])."""

    def __init__(self, config: WhisperConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.convs = nnx.List([Conv(c.mels, c.width, 3, 1, 1, rngs),
                               Conv(c.width, c.width, 3, 2, 1, rngs)])
        self.positions = nnx.Param(sinusoids(c.positions, c.width))
        self.blocks = stacked(lambda r: Block(c, r), c.layers, rngs)
        self.norm = LayerNorm(c.width)

    def features(self, samples, lengths):
        """Log-mel features float32 [N, frames, mels] and frames [N]: `log_mel`; under "pad30" of
        the clip with silence behind it, where all frames of the window count."""
        if samples.shape[1] > (most := self.config.most):
            raise ValueError(f"clips of {samples.shape[1]} samples, Whisper hears at most {most}")
        if self.config.window == "pad30":
            inside = jnp.arange(samples.shape[1]) < lengths[:, None]
            samples = jnp.pad(jnp.where(inside, samples, 0),
                              ((0, 0), (0, most - samples.shape[1])))
            lengths = jnp.full_like(lengths, most)
        return log_mel(samples, lengths, self.config.mels)

    def encode(self, features, lengths, every: bool = False):
        """Features [N, frames, mels] and lengths [N] in frames -> (vectors [N, T, width], lengths
        [N]); with `every`, the outputs of all layers [layers, N, T, width] come third."""
        c = self.config
        x = valid(features, lengths)
        for conv, stride in zip(self.convs, (1, 2), strict=True):
            lengths = -(-lengths // stride)
            # Behind the end every layer must see zeros, as it would if the batch ended there.
            x = valid(gelu(conv(x)), lengths)
        # Stored in the checkpoints, yet never trained (the reference freezes them).
        x = x + jax.lax.stop_gradient(self.positions[...])[: x.shape[1]].astype(x.dtype)
        mask = (jnp.arange(x.shape[1]) < lengths[:, None])[:, None]
        x, states = through(self.blocks, x, mask, remat=c.remat, every=every)
        return (self.norm(x), lengths, states) if every else (self.norm(x), lengths)

    def __call__(self, samples, lengths, dtype=None, every: bool = False):
        """samples float [N, S], S at most `config.most`; lengths int [N] in samples, 0: no clip;
        `dtype` of what is computed (None: that of the samples). With `every` as in `encode`.

        Under "pad30" T is `positions`; the lengths are those of the clips all the same: what
        stands behind them has heard silence.

        Raises:
          ValueError: more samples than there are positions for.
        """
        features, frames = self.features(samples, lengths)
        x = features.astype(samples.dtype if dtype is None else dtype)
        x, _, *states = self.encode(x, frames, every)
        return (x, -(-frame_lengths(lengths) // 2), *states)
