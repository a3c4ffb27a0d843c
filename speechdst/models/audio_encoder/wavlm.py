"""WavLM (arXiv 2110.13900) as Hugging Face computes it, from a waveform to vectors.

Seven convolutions make a frame of every 20 ms; a Transformer reads them, with a relative position
bias that is looked up once and gated anew by every layer, head and query (section III-A). Unlike
the reference, what lies behind a clip's last sample changes nothing: see `leak_padding`.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from speechdst.models.attention import NEGATIVE
from speechdst.models.audio_encoder.layers import LayerNorm, gelu, stacked, through
from speechdst.models.audio_encoder.log_mel_encoder import Conv
from speechdst.models.lora import Linear
from speechdst.models.transformer import valid
from speechdst.sharding import constrain


@dataclasses.dataclass(frozen=True)
class WavLMConfig:
    """The defaults are base and base-plus; `WAVLM_LARGE` below.

    `conv_channels`, `taps`, `strides` of the convolutions; `conv_norm` "group": one GroupNorm
    behind the first of them, each channel over time; "layer": a LayerNorm behind each. `pre_norm`:
    norms before attention and MLP and at the end, else behind them and at the start.
    `position_taps`, `position_groups` of the positional convolution; `buckets`, `max_distance`
    of the relative position bias. `normalize`: every clip is brought to mean 0 and variance 1
    first, as the large model was trained (the code of arXiv 2511.22503 leaves that out).
    `leak_padding`: the statistics of a GroupNorm are taken over the padding as well, as the
    reference does, so that a clip's output depends on its batch; for comparisons only.
    `remat`: recompute a layer's activations in the backward pass instead of keeping them.
    """

    kind: ClassVar[str] = "wavlm"
    hears: ClassVar[str] = "waveform"
    channels: ClassVar[int] = 1

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    conv_channels: tuple[int, ...] = (512,) * 7
    taps: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "group"
    pre_norm: bool = False
    position_taps: int = 128
    position_groups: int = 16
    buckets: int = 320
    max_distance: int = 800
    epsilon: float = 1e-5
    normalize: bool = False
    leak_padding: bool = False
    remat: bool = False

    def __post_init__(self):
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm is {self.conv_norm!r}, expected 'group' or 'layer'")
        if self.width % self.heads or self.width % self.position_groups:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads and "
                             f"{self.position_groups} groups of the positional convolution")

    most: ClassVar[int | None] = None  # samples of the longest clip: no limit

    @property
    def least(self) -> int:
        """Samples of the shortest clip: what the first output vector hears, 400 = 25 ms."""
        return 1 + sum((taps - 1) * int(np.prod(self.strides[:i]))
                       for i, taps in enumerate(self.taps))

    def length(self, samples: int) -> int:
        """Output vectors of `samples` samples: 49 of one second at 16 kHz."""
        return max(0, int(_frames(samples, self.taps, self.strides)))


WAVLM_BASE = WavLMConfig()
WAVLM_LARGE = WavLMConfig(width=1024, layers=24, heads=16, mlp_width=4096, conv_norm="layer",
                          pre_norm=True, normalize=True)


def _frames(samples, taps, strides):
    """Frames behind unpadded convolutions; zero or less of clips that are too short."""
    for t, s in zip(taps, strides, strict=True):
        samples = (samples - t) // s + 1
    return samples


def normalized(samples, lengths):
    """Each clip at mean 0 and variance 1 over its own samples, zeros behind; float32 [N, S]."""
    inside = jnp.arange(samples.shape[1]) < lengths[:, None]
    count = jnp.maximum(lengths, 1)[:, None]
    x = jnp.where(inside, samples.astype(jnp.float32), 0)
    x = jnp.where(inside, x - x.sum(1, keepdims=True) / count, 0)
    return x * jax.lax.rsqrt((x * x).sum(1, keepdims=True) / count + 1e-7)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each distance key - query from 1 - length to length - 1: int32 [2 length - 1].

    Half of them for keys that follow; of each half, one half exact and the other logarithmic.
    """
    distance = np.arange(1 - length, length)
    half = buckets // 2
    exact = half // 2
    far = np.log(np.maximum(np.abs(distance), exact).astype(np.float32) / np.float32(exact))
    far = exact + far / np.float32(np.log(max_distance / exact)) * (half - exact)
    near = np.abs(distance) < exact
    bucket = np.where(near, np.abs(distance), np.minimum(far.astype(np.int32), half - 1))
    return (bucket + half * (distance > 0)).astype(np.int32)


class ClipNorm(nnx.Module):
    """GroupNorm with as many groups as channels: each channel over the clip's own frames."""

    def __init__(self, width: int, epsilon: float = 1e-5):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x, lengths):
        """x [N, T, width], lengths [N] -> [N, T, width]; statistics in float32."""
        y = x.astype(jnp.float32)
        count = jnp.maximum(lengths, 1)[:, None, None]
        y = y - valid(y, lengths).sum(1, keepdims=True) / count
        variance = valid(y * y, lengths).sum(1, keepdims=True) / count
        y = y * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


class PositionConv(nnx.Module):
    """A grouped convolution over 2.5 s that tells the model where it is, weight-normalised.

    Its kernel is magnitude x direction / |direction|, the norm taken for each tap by itself:
    direction [taps, width / groups, width], magnitude [taps, 1, 1].
    """

    def __init__(self, width: int, taps: int, groups: int, rngs: nnx.Rngs):
        drawn = jax.random.normal(rngs.params(), (taps, width // groups, width))
        self.direction = nnx.Param(drawn * 2 * (taps * width) ** -0.5)
        self.magnitude = nnx.Param(self.length())
        self.bias = nnx.Param(jnp.zeros(width))
        self.groups = groups

    def length(self):
        return jnp.sqrt(jnp.square(self.direction[...]).sum((1, 2), keepdims=True))

    def __call__(self, x):
        taps = self.direction.shape[0]
        kernel = (self.magnitude[...] / self.length() * self.direction[...]).astype(x.dtype)
        # The reference pads both sides alike and drops the last frame if the taps are even.
        y = jax.lax.conv_general_dilated(
            x, kernel, (1,), [(taps // 2, taps - 1 - taps // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=self.groups)
        return gelu(y + self.bias[...].astype(x.dtype))


class Block(nnx.Module):
    """One layer: attention with the gated position bias, then the MLP."""

    def __init__(self, config: WavLMConfig, rngs: nnx.Rngs):
        c = self.config = config
        linear = lambda inputs, outputs: Linear(inputs, outputs, bias=True, rngs=rngs)
        self.q, self.k, self.v, self.o = (linear(c.width, c.width) for _ in range(4))
        self.bias_gate = linear(c.width // c.heads, 8)
        self.gate_scale = nnx.Param(jnp.ones((1, c.heads, 1, 1)))
        self.up, self.down = linear(c.width, c.mlp_width), linear(c.mlp_width, c.width)
        self.attention_norm = LayerNorm(c.width, c.epsilon)
        self.mlp_norm = LayerNorm(c.width, c.epsilon)

    def attention(self, x, bias, mask):
        n, t, _ = x.shape
        heads = lambda y: y.reshape(n, t, self.config.heads, -1)
        q, k, v = (constrain(heads(y), "heads") for y in (self.q(x), self.k(x), self.v(x)))
        scores = jnp.einsum("nthd,nshd->nhts", q, k, preferred_element_type=jnp.float32)
        # The gate reads what the layer reads, cut into heads, not the projected query.
        gate = self.bias_gate(heads(x)).astype(jnp.float32).reshape(n, t, -1, 2, 4).sum(-1)
        a, b = jnp.split(jax.nn.sigmoid(gate).transpose(0, 2, 1, 3), 2, -1)  # [N, H, T, 1]
        gate = a * (b * self.gate_scale[...] - 1) + 2
        scores = scores * q.shape[-1] ** -0.5 + gate * bias
        p = jax.nn.softmax(jnp.where(mask, scores, NEGATIVE), -1).astype(v.dtype)
        return constrain(self.o(jnp.einsum("nhts,nshd->nthd", p, v).reshape(n, t, -1)), "stream")

    def mlp(self, x):
        return constrain(self.down(gelu(constrain(self.up(x), "columns"))), "stream")

    def __call__(self, x, bias, mask):
        """x [N, T, width], bias float32 [H, T, T], mask bool [N, 1, 1, T] -> [N, T, width]."""
        if self.config.pre_norm:
            x = x + self.attention(self.attention_norm(x), bias, mask)
            return x + self.mlp(self.mlp_norm(x))
        x = self.attention_norm(x + self.attention(x, bias, mask))
        return self.mlp_norm(x + self.mlp(x))


class WavLM(nnx.Module):
    """samples [N, S] (16 kHz), lengths [N] -> (vectors [N, T, width], their lengths [N])."""

    def __init__(self, config: WavLMConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.convs = nnx.List(
            Conv(i, o, t, s, 0, rngs, bias=c.conv_bias) for i, o, t, s in
            zip((1, *c.conv_channels[:-1]), c.conv_channels, c.taps, c.strides, strict=True))
        self.conv_norms = nnx.List(
            [ClipNorm(c.conv_channels[0])] if c.conv_norm == "group" else
            [LayerNorm(channels) for channels in c.conv_channels])
        self.project_norm = LayerNorm(c.conv_channels[-1], c.epsilon)
        self.project = Linear(c.conv_channels[-1], c.width, bias=True, rngs=rngs)
        self.position_conv = PositionConv(c.width, c.position_taps, c.position_groups, rngs)
        self.relative_bias = nnx.Param(jax.random.normal(rngs.params(), (c.buckets, c.heads)))
        self.blocks = stacked(lambda r: Block(c, r), c.layers, rngs)
        self.norm = LayerNorm(c.width, c.epsilon)

    def _convolved(self, i: int, x, lengths):
        """The i-th convolution with what follows it; `lengths` in samples."""
        c, x = self.config, self.convs[i](x)
        if c.conv_norm == "layer":
            x = self.conv_norms[i](x)
        elif i == 0:
            own = (lengths - c.taps[0]) // c.strides[0] + 1
            x = self.conv_norms[0](x, jnp.full_like(own, x.shape[1]) if c.leak_padding else own)
        return gelu(x)

    def frames(self, samples, lengths):
        """The convolutions: [N, S], lengths in samples -> [N, T, channels], lengths in frames."""
        c = self.config
        # A table narrower than one window still makes one frame, which belongs to no clip.
        x = jnp.pad(samples, ((0, 0), (0, max(0, c.least - samples.shape[1]))))[..., None]
        for i in range(len(self.convs)):
            layer = functools.partial(self._convolved, i)
            x = jax.checkpoint(layer)(x, lengths) if c.remat else layer(x, lengths)
        return x, jnp.maximum(_frames(lengths, c.taps, c.strides), 0)

    def bias(self, length: int):
        """The position bias before its gate, float32 [H, length, length]."""
        values = self.relative_bias[...].astype(jnp.float32)[
            relative_buckets(length, self.config.buckets, self.config.max_distance)]
        distance = np.arange(length) - np.arange(length)[:, None]
        return values.T[:, length - 1 + distance]

    def __call__(self, samples, lengths, dtype=None, every: bool = False):
        """samples float [N, S]; lengths int [N], in samples, 0: no clip; `dtype` of what is
        computed (None: that of the samples). With `every`, the outputs of all layers
        [layers, N, T, width] come third."""
        c = self.config
        inside = jnp.arange(samples.shape[1]) < lengths[:, None]
        x = normalized(samples, lengths) if c.normalize else jnp.where(inside, samples, 0)
        x, lengths = self.frames(x.astype(samples.dtype if dtype is None else dtype), lengths)
        x = valid(self.project(self.project_norm(x)), lengths)
        x = x + self.position_conv(x)
        if not c.pre_norm:
            x = self.norm(x)
        mask = (jnp.arange(x.shape[1]) < lengths[:, None])[:, None, None]
        x, states = through(self.blocks, x, self.bias(x.shape[1]), mask, remat=c.remat,
                            every=every)
        x = self.norm(x) if c.pre_norm else x
        return (x, lengths, states) if every else (x, lengths)
