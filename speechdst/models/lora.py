"""Linear layers that can carry a low-rank update (LoRA, arXiv 2106.09685)."""

import jax
import jax.numpy as jnp
from flax import nnx

fan_in = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
fan_in_each = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", batch_axis=0)


class Linear(nnx.Module):
    """y = x kernel + bias + (x lora_a) lora_b * alpha / rank.

    kernel float32 [inputs, outputs]; with rank > 0, lora_a [inputs, rank] is drawn and lora_b
    [rank, outputs] starts at zero, so that a fresh LoRA changes nothing. With `steps` > 0 every
    parameter leads with that many, and step s of x [..., steps, inputs] has those of its own.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, rank: int = 0,
                 alpha: float = 0.0, steps: int = 0, rngs: nnx.Rngs):
        own, draw = ((steps,), fan_in_each) if steps else ((), fan_in)
        self.kernel = nnx.Param(draw(rngs.params(), (*own, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros((*own, outputs))) if bias else None
        self.scale = alpha / rank if rank else 0.0
        drawn = jax.random.normal(rngs.params(), (*own, inputs, rank)) / rank if rank else None
        self.lora_a = nnx.Param(drawn) if rank else None
        self.lora_b = nnx.Param(jnp.zeros((*own, rank, outputs))) if rank else None

    def __call__(self, x):
        y = _product(x, self.kernel)
        if self.lora_a is not None:
            y = y + _product(_product(x, self.lora_a), self.lora_b) * self.scale
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def _product(x, matrix: nnx.Param):
    matrix = matrix[...].astype(x.dtype)
    return _rows(x, matrix) if matrix.ndim == 2 else jnp.einsum("...si,sio->...so", x, matrix)


@jax.custom_vjp
def _rows(x, matrix):
    """x [..., inputs] @ matrix [inputs, outputs]. JAX writes the matrix's gradient as (grad^T x)^T,
    for which XLA's CPU backend lays out every gradient of an activation a second time."""
    return x @ matrix


def _rows_backward(saved, grad):
    x, matrix = saved
    flat = lambda y: y.reshape(-1, y.shape[-1])
    return grad @ matrix.T, jax.lax.dot_general(flat(x), flat(grad), (((0,), (0,)), ((), ())))


_rows.defvjp(lambda x, matrix: (x @ matrix, (x, matrix)), _rows_backward)


def merge(params: dict, rank: int, alpha: float) -> dict:
    """Flat parameters (path -> array) with every LoRA added to its kernel and dropped. The sum is
    made in the wider of both dtypes and has the kernel's."""
    merged = {}
    for path, value in params.items():
        name, _, last = path.rpartition("/")
        if last in ("lora_a", "lora_b"):
            continue
        if last == "kernel" and f"{name}/lora_a" in params:
            update = params[f"{name}/lora_a"] @ params[f"{name}/lora_b"]  # stacked: batched
            value = (value + update * (alpha / rank)).astype(value.dtype)
        merged[path] = value
    return merged
