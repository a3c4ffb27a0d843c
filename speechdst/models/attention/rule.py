"""The two-interval rule itself, which every way to compute it shares."""

import jax.numpy as jnp
import numpy as np

NEGATIVE = -1e30  # not -inf: a query without a visible key must stay finite
EVERYWHERE = np.iinfo(np.int32).max  # a window that hides nothing


def visible(query, key, trunk_start, fork, branch_start):
    """Whether the query at flat index `query` sees the key at `key` (arrays that broadcast)."""
    in_trunk = (key >= trunk_start) & (key < fork)
    return in_trunk | ((key >= branch_start) & (key <= query))


def capped(x, cap: float | None):
    """Soft cap of scores or logits (arXiv 2408.00118, section 2): |result| < cap."""
    return cap * jnp.tanh(x / cap) if cap else x
