"""What the pretrained speech encoders share: layers scanned over stacked parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx


def stacked(make: Callable, layers: int, rngs: nnx.Rngs):
    """`layers` modules of `make(rngs)` as one, every parameter with a leading axis of layers."""
    return nnx.split_rngs(splits=layers)(nnx.vmap(make, in_axes=0, out_axes=0))(rngs)


def through(blocks, x, *arguments, remat: bool = False, every: bool = False):
    """x through stacked blocks, one after the other; each is called with (x, *arguments).

    Returns the last output and, with `every`, the outputs of all blocks stacked (else None).
    `remat`: recompute a block's activations in the backward pass instead of keeping them.
    """
    graph, layers = nnx.split(blocks)

    def layer(x, parameters):
        x = nnx.merge(graph, parameters)(x, *arguments)
        return x, x if every else None

    return jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, layers)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis, computed in float32."""

    def __init__(self, width: int, epsilon: float = 1e-5):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


def gelu(x):
    """GELU by the error function, as the released encoders have it (not by a tanh)."""
    return jax.nn.gelu(x, approximate=False)
