"""AdamW with a warm-up schedule, global-norm clipping and per-path learning rates."""

import re

import jax
import jax.numpy as jnp
import optax


def schedule(config, steps: int):
    """Linear warm-up over `warmup` steps to `lr`, then `decay` to `lr * end_ratio` at `steps`."""
    warmup = min(config.warmup, max(steps - 1, 1))
    after = max(steps - warmup, 1)
    if config.decay == "cosine":
        down = optax.cosine_decay_schedule(config.lr, after, config.end_ratio)
    elif config.decay == "linear":
        down = optax.linear_schedule(config.lr, config.lr * config.end_ratio, after)
    elif config.decay == "constant":
        down = optax.constant_schedule(config.lr)
    else:
        raise ValueError(f"optimizer.decay is {config.decay!r}, "
                         "expected cosine, linear or constant")
    # The first step already moves: a warm-up from exactly zero would waste it.
    up = optax.linear_schedule(config.lr / (warmup + 1), config.lr, warmup)
    return optax.join_schedules([up, down], [warmup])


def make(config, steps: int) -> optax.GradientTransformation:
    """`config`: lr, warmup, decay, end_ratio, clip, weight_decay, b2; `multipliers`, a list of
    (regular expression, factor): the first that is found in a parameter's path scales its learning
    rate; `compensated`: see there, for learning rates that float32 weights would not feel."""
    multipliers = [(pattern, factor) for pattern, factor in config.get("multipliers", ())]

    def factors(params):
        return {path: next((f for pattern, f in multipliers if re.search(pattern, path)), 1.0)
                for path in params}

    decayed = lambda params: {path: jnp.ndim(v) >= 2 and not path.endswith(("bias", "scale"))
                              for path, v in params.items()}
    last = [compensated()] if config.get("compensated", False) else []
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(b1=0.9, b2=config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(schedule(config, steps)),
        optax.stateless(lambda updates, _: {
            path: u * f for (path, u), f in zip(updates.items(), factors(updates).values(),
                                                strict=True)}),
        *last,
    )


def compensated() -> optax.GradientTransformation:
    """Compensated (Kahan) summation of the updates, the last of a chain.

    A float32 weight of 0.125 lies 1.5e-8 from its neighbours: an update of 5e-9 (arXiv 2506.21463)
    would be rounded away, every time. Here what rounding took from an update is kept, float32 like
    the weights, and is added to the next, so that weight + rest follows the exact sum; the memory
    is one more copy of what trains. The rest is less than half the distance to the neighbouring
    weight, so that evaluation and export may leave it out.
    """

    def update(updates, rest, params):
        total = jax.tree.map(jnp.add, rest, updates)
        # The barrier keeps compilers from cancelling what differs by its rounding alone.
        moved = jax.tree.map(lambda weight, step: jax.lax.optimization_barrier(weight + step)
                             - weight, params, total)
        return moved, jax.tree.map(jnp.subtract, total, moved)

    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), update)
