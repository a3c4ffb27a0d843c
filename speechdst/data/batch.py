"""The batch: one frozen pytree for all recipes. Numpy or JAX arrays; R rows of T positions."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np


def pytree(cls):
    cls = dataclasses.dataclass(frozen=True)(cls)
    return jax.tree_util.register_dataclass(
        cls, data_fields=[f.name for f in dataclasses.fields(cls)], meta_fields=[]
    )


@pytree
class Utterances:
    """A table of U utterances per row, from which an encoder makes the soft positions.

    Exactly one is set of `features` float [R, U, frames, channels] (log-mel, 100 frames/s),
    `waveform` float32 [R, U, samples] (16 kHz), `encoded` bfloat16 [R, U, vectors, width] (what
    the speech encoder made of it) and `words` int32 [R, U, tokens] (the text path); `lengths`
    int32 [R, U] in frames, samples, vectors or tokens, 0: no utterance. `transcripts` int32
    [R, U, L] with `transcript_lengths` [R, U] are what was said.
    """

    lengths: jax.Array
    transcripts: jax.Array
    transcript_lengths: jax.Array
    features: jax.Array | None = None
    waveform: jax.Array | None = None
    encoded: jax.Array | None = None
    words: jax.Array | None = None

    @property
    def spoken(self) -> bool:
        """Speech in one form or the other, not words."""
        return self.words is None


@pytree
class Blocks:
    """Visible attention blocks, n = T / block: see `data.tree.block_lists`.

    keys, queries int32 [R, n, n]; the counts int32 [R, n].
    """

    keys: jax.Array
    key_counts: jax.Array
    whole_keys: jax.Array
    queries: jax.Array
    query_counts: jax.Array
    whole_queries: jax.Array


@pytree
class Batch:
    """R rows of packed dialogue trees, T positions each.

    int32 [R, T]: `tokens`; `soft` (index into the row's soft vectors, the tables' one behind the
    other; -1: a token); `positions` (rotary); `trunk_start`, `fork`, `branch_start` (a position
    sees keys [trunk_start, fork) and [branch_start, itself]); `targets` (the token that follows);
    `branch` (which answer of the row, -1: trunk or padding); `tree` (which tree, -1: padding);
    `task` (of the answer, where a recipe weighs tasks apart; 0 elsewhere).
    float32 [R, T]: `loss_weight`.
    float32 [R, P, 2]: `reference`, of recipes that learn from pairs of answers, P the most of a
    row: log p of what is to be predicted of branches 2 p (chosen) and 2 p + 1 (rejected) under the
    reference model (NaN: not known; 0: no such pair).

    Multi-stream rows (`data.frames`) have text in `tokens` and `targets`, and `codes` int32
    [R, T, 2Q] (own and the user's audio that is read there), `code_targets` int32 [R, T, Q] (own
    audio of the frame that is predicted there) and `code_weight` float32 [R, T, Q]; where the audio
    of pairs is compared as well, `code_reference` float32 [R, P, 2], as `reference` is of the text.
    """

    tokens: jax.Array
    soft: jax.Array
    positions: jax.Array
    trunk_start: jax.Array
    fork: jax.Array
    branch_start: jax.Array
    targets: jax.Array
    loss_weight: jax.Array
    branch: jax.Array
    tree: jax.Array
    task: jax.Array
    reference: jax.Array
    blocks: Blocks
    tables: tuple[Utterances, ...]
    codes: jax.Array | None = None
    code_targets: jax.Array | None = None
    code_weight: jax.Array | None = None
    code_reference: jax.Array | None = None


def stack(rows: Sequence[dict]) -> Batch:
    """A batch of `data.tree.pack` rows of one shape."""
    arrays = jax.tree.map(lambda *x: np.stack(x), *rows)
    return Batch(**{k: v for k, v in arrays.items() if k not in ("blocks", "tables")},
                 blocks=Blocks(**arrays["blocks"]),
                 tables=tuple(Utterances(**t) for t in arrays["tables"]))
