"""The Transformer stack that every tower here shares, its layers scanned and rematerialised."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from speechdst.models.attention import EVERYWHERE, masked
from speechdst.models.lora import Linear
from speechdst.sharding import constrain

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape of a stack.

    MLP: `gated`: activation(gate) * up, else activation(up); `activation`: of `ACTIVATIONS`,
    empty: silu if gated, else gelu_tanh. `bias`: of all linear layers; `qkv_bias`: of q, k, v also
    where the others have none.

    Norms: `rms`: RMSNorm, else LayerNorm; `norm_affine`: it has parameters; `norm_offset`: what is
    added to its scale (Gemma stores scale - 1); `final_norm`: of what leaves the stack;
    `pre_norm`: of what goes into attention and MLP,
    `post_norm`: of what comes out, before it is added to the stream; `qk_norm`: of queries and
    keys, per "head" or over the "full" projection.

    Attention: `clip_qkv` > 0: projections are clipped to +-it; `query_scale` of the scores, 0:
    head_dim**-0.5; `score_cap` > 0: scores become cap * tanh(score / cap); `windows`: by layer,
    how many positions back a query sees, itself included, 0: all; empty: all in every layer.

    Rotary positions: `rope_theta`, 0: none; `rope_local_theta`: of layers with a window, 0: the
    same; `rope_scaling`: see `frequencies`, not of layers with a local theta.

    `steps` > 0: sequences have that many positions and each has linear layers of its own; norms
    are shared. `lora_rank` 0: no LoRA; `remat`: recompute a layer's activations in the backward
    pass instead of keeping them.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int = 0  # 0: as many as heads
    head_dim: int = 0  # 0: width / heads
    mlp_width: int = 0  # 0: 4 x width
    gated: bool = False
    activation: str = ""
    bias: bool = True
    qkv_bias: bool = False
    rms: bool = False
    norm_affine: bool = True
    norm_offset: float = 0.0
    norm_epsilon: float = 1e-5
    final_norm: bool = True
    pre_norm: bool = True
    post_norm: bool = False
    qk_norm: str = ""
    clip_qkv: float = 0.0
    query_scale: float = 0.0
    score_cap: float = 0.0
    windows: tuple[int, ...] = ()
    rope_theta: float = 0.0
    rope_local_theta: float = 0.0
    rope_scaling: tuple[float, ...] = ()
    steps: int = 0
    lora_rank: int = 0
    lora_alpha: float = 0.0
    remat: bool = False

    def __post_init__(self):
        for name, value in (("kv_heads", self.heads), ("head_dim", self.width // self.heads),
                            ("mlp_width", 4 * self.width),
                            ("activation", "silu" if self.gated else "gelu_tanh")):
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads are no multiple of {self.kv_heads} kv_heads")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r}, expected one of {[*ACTIVATIONS]}")
        if self.qk_norm not in ("", "head", "full"):
            raise ValueError(f"qk_norm {self.qk_norm!r}, expected 'head', 'full' or ''")
        if len(self.windows) not in (0, self.layers):
            raise ValueError(f"{len(self.windows)} windows for {self.layers} layers")
        if len(self.rope_scaling) not in (0, 1, 4):
            raise ValueError(f"rope_scaling {self.rope_scaling}, expected (factor,) or (factor, "
                             "low, high, original context)")


def frequencies(config: TransformerConfig) -> np.ndarray:
    """Rotary frequencies in radians per position, float32 [layers, head_dim / 2].

    `rope_scaling` (factor,) divides all of them; (factor, low, high, original context) is Llama
    3's: wavelengths over context / low are divided by factor, those under context / high stay,
    and between the two it is interpolated.

    Rounded to float32 where the reference rounds: at position 30,000 a last bit is 0.002 radians.
    """
    c, half = config, config.head_dim // 2

    def plain(theta):
        exponent = np.arange(half, dtype=np.float32) / np.float32(half)
        return 1 / (np.float64(theta) ** exponent.astype(np.float64)).astype(np.float32)

    f = plain(c.rope_theta)
    if len(c.rope_scaling) == 1:
        f = f / c.rope_scaling[0]
    elif c.rope_scaling:
        factor, low, high, context = c.rope_scaling
        kept = np.clip((context / (2 * np.pi / f) - low) / (high - low), 0, 1)
        f = (1 - kept) * f / factor + kept * f
    local = plain(c.rope_local_theta) if c.rope_local_theta else f
    return np.stack([local if window else f for window in c.windows or (0,) * c.layers])


class Norm(nnx.Module):
    """RMSNorm or LayerNorm over the last axis, computed in float32, its scale included (Llama's and
    Qwen's reference rounds to the compute dtype before the scale; in float32 all agree)."""

    def __init__(self, width: int, config: TransformerConfig):
        c = self.config = config
        one = 1 - c.norm_offset
        self.scale = nnx.Param(jnp.full(width, one, jnp.float32)) if c.norm_affine else None
        self.bias = nnx.Param(jnp.zeros(width)) if c.norm_affine and not c.rms else None

    def __call__(self, x):
        c = self.config
        y = x.astype(jnp.float32)
        if not c.rms:
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + c.norm_epsilon)
        if self.scale is not None:
            scale = self.scale[...].astype(jnp.float32)
            y = y * (scale + c.norm_offset if c.norm_offset else scale)
        if self.bias is not None:
            y = y + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


def rotate(x, positions, frequency):
    """Rotary embedding (arXiv 2104.09864), halves paired as in Llama; x [R, T, H, D],
    positions int32 [R, T], frequency float32 [D / 2]."""
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


class Block(nnx.Module):
    """One layer: attention, then MLP, each added to the stream."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        c = self.config = config
        linear = lambda i, o, bias=c.bias: Linear(
            i, o, bias=bias, rank=c.lora_rank, alpha=c.lora_alpha, steps=c.steps, rngs=rngs)
        norm = lambda there, width=c.width: Norm(width, c) if there else None
        self.attention_norm, self.mlp_norm = norm(c.pre_norm), norm(c.pre_norm)
        self.attention_post_norm, self.mlp_post_norm = norm(c.post_norm), norm(c.post_norm)
        queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
        full = c.qk_norm == "full"
        self.q_norm = norm(c.qk_norm, queries if full else c.head_dim)
        self.k_norm = norm(c.qk_norm, keys if full else c.head_dim)
        self.q = linear(c.width, queries, c.bias or c.qkv_bias)
        self.k = linear(c.width, keys, c.bias or c.qkv_bias)
        self.v = linear(c.width, keys, c.bias or c.qkv_bias)
        self.o = linear(queries, c.width)
        self.gate = linear(c.width, c.mlp_width) if c.gated else None
        self.up = linear(c.width, c.mlp_width)
        self.down = linear(c.mlp_width, c.width)

    def __call__(self, x, attend, positions, cache, frequency=None, window=None):
        q, k, v = self.qkv(_maybe(self.attention_norm, x))
        if frequency is not None:
            q, k = (rotate(y, positions, frequency) for y in (q, k))
        rules = {"scale": self.config.query_scale or None, "cap": self.config.score_cap or None,
                 "window": window}
        q, k, v = (constrain(y, "heads") for y in (q, k, v))
        out, cache = attend(q, k, v, cache, **{n: r for n, r in rules.items() if r is not None})
        out = self.o(out.reshape(*x.shape[:-1], -1))
        x = constrain(x + _maybe(self.attention_post_norm, out), "stream")
        out = self.mlp(_maybe(self.mlp_norm, x))
        return constrain(x + _maybe(self.mlp_post_norm, out), "stream"), cache

    def qkv(self, h):
        """h [R, T, width] -> q [R, T, H, D], k and v [R, T, K, D], not yet rotated."""
        c = self.config
        q, k, v = self.q(h), self.k(h), self.v(h)
        if c.clip_qkv:
            q, k, v = (jnp.clip(y, -c.clip_qkv, c.clip_qkv) for y in (q, k, v))
        if c.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.reshape(*h.shape[:-1], -1, c.head_dim) for y in (q, k, v))
        if c.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def mlp(self, h):
        gate = () if self.gate is None else (self.gate(h),)
        return self.down(_activated(self.config.activation)(
            constrain(self.up(h), "columns"), *gate))


def _activated(name: str) -> Callable:
    """(up, gate) -> activation(gate) * up, or of `up` alone its activation. What it is made of is
    kept for the gradient, not what an activation computes on its way."""
    activation = ACTIVATIONS[name]
    return jax.checkpoint(lambda up, gate=None: activation(up) if gate is None else
                          activation(gate) * up, prevent_cse=False)


def _maybe(norm, x):
    return x if norm is None else norm(x)


class Transformer(nnx.Module):
    """A stack of `Block`s, parameters stacked over layers, and a final norm if there is one."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.config = config
        make = nnx.vmap(lambda r: Block(config, r), in_axes=0, out_axes=0)
        self.blocks = nnx.split_rngs(splits=config.layers)(make)(rngs)
        self.norm = Norm(config.width, config) if config.final_norm else None

    def __call__(self, x, attend: Callable, positions=None, cache=None, each: bool = False):
        """x [R, T, width] -> (normalised output [R, T, width], cache), and with `each` the stream
        behind every layer, [layers, R, T, width].

        `attend(q, k, v, cache_of_layer, **rules) -> (out, new cache_of_layer)` with q
        [R, T, H, D] and k, v [R, T, K, D]; what it returns as cache comes back stacked over
        layers. Of the rules `scale`, `cap` and `window` (see `attention.reference`) it is given
        those that the config sets.
        """
        c = self.config
        graph, layers = nnx.split(self.blocks)
        # What differs by layer beside the parameters, so that one scanned layer is all of them.
        differs = {}
        if c.rope_theta:
            differs["frequency"] = frequencies(c)
        if any(c.windows):
            differs["window"] = np.array([w or EVERYWHERE for w in c.windows], np.int32)

        def layer(x, scanned):
            parameters, cache, differs = scanned
            x, cache = nnx.merge(graph, parameters)(x, attend, positions, cache, **differs)
            return x, (cache, x if each else None)

        body = jax.checkpoint(layer) if c.remat else layer
        x, (cache, states) = jax.lax.scan(body, x, (layers, cache, differs))
        x = _maybe(self.norm, x)
        return (x, cache, states) if each else (x, cache)


def sinusoids(length: int, width: int) -> jax.Array:
    """Whisper's sinusoidal positions, float32 [length, width]: sines, then cosines."""
    half = width // 2
    rate = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / max(half - 1, 1))
    angle = jnp.arange(length)[:, None] * rate
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def attend_within(lengths):
    """Bidirectional attention over the first `lengths` [N] positions; padding is never seen."""

    def attend(q, k, v, cache, scale=None, cap=None):
        mask = jnp.arange(k.shape[1])[None, None] < lengths[:, None, None]
        return masked(q, k, v, mask, scale, cap), cache

    return attend


def valid(x, lengths):
    """x [N, T, C] with everything behind `lengths` [N] set to zero."""
    return jnp.where(jnp.arange(x.shape[1])[None, :, None] < lengths[:, None, None], x, 0)
