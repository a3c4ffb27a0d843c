"""The training state: parameters split into trainable and frozen, optimizer, random key.

Parameters are flat dicts `path -> array` ("decoder/transformer/blocks/q/kernel"; stacked layers
lead). Only `trainable` is differentiated and has optimizer state: frozen is frozen.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from speechdst import sharding

Params = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """`step` int32 (steps done), `key` uint32 [2] (base of all randomness, never changes)."""

    step: jax.Array
    trainable: Params
    frozen: Params
    optimizer: object
    key: jax.Array


def create(config, seed: int) -> Params:
    """Freshly drawn parameters, float32, of the model that `config.make` builds."""
    return flatten(nnx.state(config.make(nnx.Rngs(seed))))


def abstract(config) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """The model's graph and the shapes of its parameters; nothing is computed."""
    graph, shapes = _abstract(config)
    return graph, dict(shapes)


@functools.lru_cache(maxsize=8)  # a third of a second each, and every decoder asks
def _abstract(config) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    graph, state = nnx.split(nnx.eval_shape(lambda: config.make(nnx.Rngs(0))))
    return graph, flatten(state)


def flatten(state: nnx.State) -> Params:
    return {"/".join(map(str, path)): v.get_value() if isinstance(v, nnx.Variable) else v
            for path, v in nnx.to_flat_state(state)}


def model_of(graph: nnx.GraphDef, params: Params) -> nnx.Module:
    """The module over these parameters (to be called inside jit; costs nothing there)."""
    key = lambda part: int(part) if part.isdigit() else part
    flat = {tuple(map(key, path.split("/"))): nnx.Param(v) for path, v in params.items()}
    return nnx.merge(graph, nnx.from_flat_state(flat))


def split(params: dict, trainable: Sequence[str]) -> tuple[dict, dict]:
    """(trainable, frozen): a path trains if any of the regular expressions is found in it.

    Raises:
      ValueError: an expression that matches no parameter.
    """
    for pattern in trainable:
        if not any(re.search(pattern, path) for path in params):
            raise ValueError(f"stage.trainable {pattern!r} matches no parameter; there are, e.g., "
                             f"{sorted(params)[:3]}")
    chosen = {p for p in params if any(re.search(pattern, p) for pattern in trainable)}
    return ({p: v for p, v in params.items() if p in chosen},
            {p: v for p, v in params.items() if p not in chosen})


def stored(shapes: dict, trainable: Sequence[str], dtype: str) -> dict:
    """path -> dtype in which a stage keeps a parameter: float32 if it trains, else `dtype`, in
    which it is computed with anyway."""
    _, frozen = split(shapes, trainable)
    return {path: jnp.dtype(dtype if path in frozen else "float32") for path in shapes}


def start(params: Params, trainable: Sequence[str], tx, seed: int) -> TrainState:
    """The state before the first step; also of shapes, under `jax.eval_shape`."""
    train, frozen = split(params, trainable)
    return TrainState(jnp.zeros((), jnp.int32), train, frozen, tx.init(train),
                      jax.random.key_data(jax.random.key(seed)))


def shardings(shapes: TrainState, mesh) -> TrainState:
    """Where every array of a state lies, by the rules."""
    whole = sharding.replicated(mesh)
    return TrainState(whole, sharding.parameters(shapes.trainable, mesh),
                      sharding.parameters(shapes.frozen, mesh),
                      sharding.like_parameters(shapes.optimizer, mesh), whole)


def placed(params: Params, trainable: Sequence[str], tx, seed: int, mesh) -> TrainState:
    """`start` with every array made where it lies: no device ever holds a whole optimizer. The
    parameters must lie there already; they are not copied."""
    where = shardings(jax.eval_shape(lambda p: start(p, trainable, tx, seed), params), mesh)
    train, frozen = split(params, trainable)
    rest = jax.jit(lambda p: dataclasses.replace(start(p, trainable, tx, seed), trainable={},
                                                 frozen={}),
                   out_shardings=dataclasses.replace(where, trainable={}, frozen={}))(params)
    return dataclasses.replace(rest, trainable=train, frozen=frozen)


def content(params: Params, dtype: str) -> str:
    """Tells parameters apart that differ in one weight, as `dtype` holds them: one line of paths,
    shapes and sums, made where the arrays are, sharded or not, in whole numbers."""
    return "".join(f"{path} {params[path].shape} {np.asarray(_sums(params[path], dtype)).tolist()}"
                   for path in sorted(params))


@functools.partial(jax.jit, static_argnums=1)
def _sums(x, dtype: str):
    """Two sums of an array's bits in a dtype, weighted by place: uint32 [2], exact in any order."""
    x = x.astype(dtype)
    bits = jax.lax.bitcast_convert_type(x, {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    place = functools.reduce(
        lambda sofar, axis: sofar * jnp.uint32(x.shape[axis])
        + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis), range(x.ndim), jnp.uint32(0))
    mixed = bits.astype(jnp.uint32) * (place * jnp.uint32(2_654_435_761) | 1)
    return jnp.stack([mixed.sum(dtype=jnp.uint32),
                      ((mixed ^ (mixed >> 15)) * jnp.uint32(2_246_822_519)).sum(dtype=jnp.uint32)])
