"""Two-interval attention: a query sees keys [trunk_start, fork) and [branch_start, itself].

`reference` builds the mask. `walk` goes through the lists of visible blocks that the layout made
and never touches the others, forward and backward: in `blockwise`, plain XLA for any platform, or
in `kernel`, Pallas for TPU and GPU. `attend` picks.

A sliding window is over rotary positions, which a branch continues from its fork: flat indices
know nothing of how far back in its own text a token stands.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from speechdst import sharding
from speechdst.models.attention import blockwise, kernel
from speechdst.models.attention.rule import EVERYWHERE, NEGATIVE, capped, visible

__all__ = ["EVERYWHERE", "NEGATIVE", "attend", "capped", "masked", "over", "reference",
           "visible", "walk"]

# What `attend` can be told to take; by default the kernel where it can run, else "xla".
PATHS = ("", "reference", "xla", "kernel")
KERNELS = ("tpu", "cuda")  # the platforms that have one


def reference(q, k, v, trunk_start, fork, branch_start, positions=None, *, scale=None, cap=None,
              window=None):
    """q [R, T, H, D]; k, v [R, T, K, D] with H a multiple of K; intervals int32 [R, T].

    `scale` of the scores, None: D**-0.5; `cap`: scores become cap * tanh(score / cap); `window`
    int32 (may be traced): a query sees keys of its last `window` `positions` [R, T] only.
    """
    t = jnp.arange(q.shape[1])
    mask = visible(t[None, :, None], t[None, None, :], trunk_start[..., None], fork[..., None],
                   branch_start[..., None])
    if window is not None:
        mask &= positions[:, :, None] - positions[:, None] < window
    return masked(q, k, v, mask, scale, cap)


def masked(q, k, v, mask, scale: float | None = None, cap: float | None = None):
    """q [R, T, H, D]; k, v [R, S, K, D]; mask bool, broadcastable to [R, T, S]. Softmax float32."""
    r, t, h, d = q.shape
    groups = k.shape[2]
    q = q.reshape(r, t, groups, h // groups, d)
    scores = jnp.einsum("rtghd,rsgd->rghts", q, k, preferred_element_type=jnp.float32)
    scores = capped(scores * (d**-0.5 if scale is None else scale), cap)
    p = jax.nn.softmax(jnp.where(mask[:, None, None], scores, NEGATIVE), -1).astype(v.dtype)
    return jnp.einsum("rghts,rsgd->rtghd", p, v).reshape(r, t, h, d)


def attend(q, k, v, batch, *, scale=None, cap=None, window=None, path: str = ""):
    """Two-interval attention over a batch's own intervals; [R, T, H, D] -> [R, T, H, D].

    Short rows fit one dense product; longer ones are walked by blocks. `path`: of `PATHS`.
    """
    intervals = (batch.trunk_start, batch.fork, batch.branch_start)
    rules = {"scale": scale, "cap": cap, "window": window}
    if path == "reference" or (not path and batch.blocks.keys.shape[-1] <= 2):
        return reference(q, k, v, *intervals, batch.positions, **rules)
    return walk(q, k, v, *intervals, batch.blocks, batch.positions, path=path, **rules)


def over(batch, path: str = ""):
    """`attend` over this batch, as `models.transformer.Transformer` calls it; keeps no cache."""
    return lambda q, k, v, cache, **rules: (attend(q, k, v, batch, path=path, **rules), None)


def walk(q, k, v, trunk_start, fork, branch_start, blocks, positions=None, *, scale=None, cap=None,
         window=None, path: str = "", interpret: bool = False):
    """As `reference`, visiting only the blocks in `blocks` (`data.batch.Blocks`), and of these
    only those that the window reaches.

    `path`: "xla", "kernel" or a platform ("tpu", "cuda") whose kernel is meant, which runs
    elsewhere with `interpret`; empty: the kernel on platforms that can run it, else XLA.
    """
    r, t, h, d = q.shape
    # Every shard needs key heads of its own, so where there are fewer they are repeated.
    k, v = (jnp.repeat(x, sharding.copies(h, k.shape[2]), 2) for x in (k, v))
    groups = k.shape[2]
    # Rows of [groups, heads per group, T, D]: the heads that share keys share one product.
    q = q.reshape(r, t, groups, h // groups, d).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    windowed = window is not None
    if windowed:
        blocks = _reached(blocks, positions, window)
        seen = (positions - window, positions)
    else:
        seen = (fork, fork)  # not looked at
    where = jnp.stack([trunk_start, fork, branch_start, *seen], 1)
    rules = _Rules(d**-0.5 if scale is None else scale, cap, windowed, path, interpret)
    out = _walk(q, k, v, where, blocks, rules)
    return out.transpose(0, 3, 1, 2, 4).reshape(r, t, h, d)


def _reached(blocks, positions, window):
    """The lists without the blocks of which the window hides every key from every query. Which are
    seen from end to end is not kept: with a window, nothing asks."""
    ends = positions.reshape(*blocks.keys.shape[:2], -1)
    near = ends.min(-1)[:, :, None] - ends.max(-1)[:, None] < window  # [R, query, key]

    def kept(lists, counts, near):
        keep = jnp.take_along_axis(near, lists, 2) & (jnp.arange(near.shape[2]) < counts[..., None])
        order = jnp.argsort(~keep, axis=2, stable=True)
        return jnp.take_along_axis(lists, order, 2), keep.sum(2, dtype=jnp.int32)

    keys, key_counts = kept(blocks.keys, blocks.key_counts, near)
    queries, query_counts = kept(blocks.queries, blocks.query_counts, near.swapaxes(1, 2))
    return dataclasses.replace(blocks, keys=keys, key_counts=key_counts, queries=queries,
                               query_counts=query_counts)


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What a walk is compiled for; see `walk`."""

    scale: float
    cap: float | None
    windowed: bool
    path: str
    interpret: bool

    def run(self, name: str, *arrays):
        """`name`, "forward" or "backward", on every device's own rows and heads."""
        q, where, blocks = arrays[0], *arrays[-2:]
        size, d = q.shape[3] // blocks.keys.shape[-1], q.shape[4]
        rules = (self.scale, self.cap, self.windowed)
        xla = lambda *x: getattr(blockwise, name)(*x, *rules)
        if self.path not in (*PATHS, *KERNELS):
            raise ValueError(f"attention {self.path!r} is none of {PATHS}")
        platform = self.path if self.path in KERNELS else sharding.platform()
        own = lambda *x: getattr(kernel, name)(*x, *rules, platform=platform,
                                               interpret=self.interpret)
        refused = (kernel.refusal(platform, size, q.shape[3], d, q.dtype) if platform in KERNELS
                   else f"there is none for {platform}")
        if self.path == "kernel" and refused:
            raise ValueError(f"the attention kernel was asked for, but {refused}; 'xla' runs "
                             f"everywhere")
        if self.path == platform:
            function = own
        elif self.path == "xla" or refused:
            function = xla
        else:  # what is traced here may yet be compiled for the host
            function = lambda *x: jax.lax.platform_dependent(*x, **{platform: own}, default=xla)
        return sharding.by_rows_and_heads(lambda heads, rows: function(*heads, *rows),
                                          arrays[:-2], (where, blocks))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _walk(q, k, v, where, blocks, rules):
    return rules.run("forward", q, k, v, where, blocks)[0]


def _walk_forward(q, k, v, where, blocks, rules):
    out, lse = rules.run("forward", q, k, v, where, blocks)
    return out, (q, k, v, out, lse, where, blocks)


def _walk_backward(rules, saved, grad):
    *floats, where, blocks = saved
    grads = rules.run("backward", *floats, grad, where, blocks)
    none = lambda x: np.zeros(x.shape, jax.dtypes.float0)  # integers have no gradient
    return *grads, *jax.tree.map(none, (where, blocks))


_walk.defvjp(_walk_forward, _walk_backward)
