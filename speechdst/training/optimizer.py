"""AdamW with a warm-up schedule, global-norm clipping and per-path learning rates."""

import re

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
    """`config`: lr, warmup, decay, end_ratio, clip, weight_decay, b2, and `multipliers`, a list
    of (regular expression, factor): the first that is found in a parameter's path scales its
    learning rate."""
    multipliers = [(pattern, factor) for pattern, factor in config.get("multipliers", ())]

    def factors(params):
        return {path: next((f for pattern, f in multipliers if re.search(pattern, path)), 1.0)
                for path in params}

    decayed = lambda params: {path: jnp.ndim(v) >= 2 and not path.endswith(("bias", "scale"))
                              for path, v in params.items()}
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(b1=0.9, b2=config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(schedule(config, steps)),
        optax.stateless(lambda updates, _: {
            path: u * f for (path, u), f in zip(updates.items(), factors(updates).values(),
                                                strict=True)}),
    )
