"""The Transformer stack that every tower here shares, its layers scanned and rematerialised."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from speechdst.models.attention import masked
from speechdst.models.lora import Linear


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape of a pre-norm stack. `gated`: gated SiLU MLP, else GELU; `rms`: RMSNorm, else
    LayerNorm; `rope_theta` 0: no rotary positions; `lora_rank` 0: no LoRA; `remat`: recompute a
    layer's activations in the backward pass instead of keeping them."""

    width: int
    layers: int
    heads: int
    kv_heads: int = 0  # 0: as many as heads
    head_dim: int = 0  # 0: width / heads
    mlp_width: int = 0  # 0: 4 x width
    gated: bool = False
    rms: bool = False
    bias: bool = True
    rope_theta: float = 0.0
    lora_rank: int = 0
    lora_alpha: float = 0.0
    remat: bool = False

    def __post_init__(self):
        for name, value in (("kv_heads", self.heads), ("head_dim", self.width // self.heads),
                            ("mlp_width", 4 * self.width)):
            if not getattr(self, name):
                object.__setattr__(self, name, value)


class Norm(nnx.Module):
    """RMSNorm or LayerNorm over the last axis, computed in float32."""

    def __init__(self, width: int, rms: bool, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = None if rms else nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x):
        y = x.astype(jnp.float32)
        if self.bias is not None:
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.epsilon) * self.scale[...]
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


def rotate(x, positions, theta: float):
    """Rotary embedding (arXiv 2104.09864), halves paired as in Llama; x [R, T, H, D],
    positions int32 [R, T]."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


class Block(nnx.Module):
    """One pre-norm layer: attention, then MLP, each added to the stream."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        c = self.config = config
        linear = lambda i, o, bias=c.bias: Linear(
            i, o, bias=bias, rank=c.lora_rank, alpha=c.lora_alpha, rngs=rngs)
        self.attention_norm, self.mlp_norm = Norm(c.width, c.rms), Norm(c.width, c.rms)
        self.q = linear(c.width, c.heads * c.head_dim)
        self.k = linear(c.width, c.kv_heads * c.head_dim)
        self.v = linear(c.width, c.kv_heads * c.head_dim)
        self.o = linear(c.heads * c.head_dim, c.width)
        self.gate = linear(c.width, c.mlp_width) if c.gated else None
        self.up = linear(c.width, c.mlp_width)
        self.down = linear(c.mlp_width, c.width)

    def __call__(self, x, attend, positions, cache):
        c = self.config
        h = self.attention_norm(x)
        q, k, v = (p(h).reshape(*x.shape[:-1], n, c.head_dim) for p, n in (
            (self.q, c.heads), (self.k, c.kv_heads), (self.v, c.kv_heads)))
        if c.rope_theta:
            q, k = (rotate(y, positions, c.rope_theta) for y in (q, k))
        out, cache = attend(q, k, v, cache)
        x = x + self.o(out.reshape(*x.shape[:-1], -1))
        h = self.mlp_norm(x)
        up = self.up(h)
        hidden = jax.nn.gelu(up) if self.gate is None else jax.nn.silu(self.gate(h)) * up
        return x + self.down(hidden), cache


class Transformer(nnx.Module):
    """A stack of `Block`s, parameters stacked over layers, and a final norm."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.config = config
        make = nnx.vmap(lambda r: Block(config, r), in_axes=0, out_axes=0)
        self.blocks = nnx.split_rngs(splits=config.layers)(make)(rngs)
        self.norm = Norm(config.width, config.rms)

    def __call__(self, x, attend: Callable, positions=None, cache=None):
        """x [R, T, width] -> (normalised output [R, T, width], cache).

        `attend(q, k, v, cache_of_layer) -> (out, new cache_of_layer)` with q [R, T, H, D] and
        k, v [R, T, K, D]; what it returns as cache comes back stacked over layers.
        """
        graph, layers = nnx.split(self.blocks)

        def layer(x, scanned):
            parameters, cache = scanned
            return nnx.merge(graph, parameters)(x, attend, positions, cache)

        body = jax.checkpoint(layer) if self.config.remat else layer
        x, cache = jax.lax.scan(body, x, (layers, cache))
        return self.norm(x), cache


def sinusoids(length: int, width: int) -> jax.Array:
    """Whisper's sinusoidal positions, float32 [length, width]: sines, then cosines."""
    half = width // 2
    rate = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / max(half - 1, 1))
    angle = jnp.arange(length)[:, None] * rate
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def attend_within(lengths):
    """Bidirectional attention over the first `lengths` [N] positions; padding is never seen."""

    def attend(q, k, v, cache):
        mask = jnp.arange(k.shape[1])[None, None] < lengths[:, None, None]
        return masked(q, k, v, mask), cache

    return attend


def valid(x, lengths):
    """x [N, T, C] with everything behind `lengths` [N] set to zero."""
    return jnp.where(jnp.arange(x.shape[1])[None, :, None] < lengths[:, None, None], x, 0)
