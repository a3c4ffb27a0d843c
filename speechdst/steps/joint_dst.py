"""The joint-DST train step (arXiv 2511.22503): speech trees, unpaired text, transcripts.

The loss is a weighted sum of means: CE over the speech trees + w x CE over the text trees and the
transcripts of the speech trees together (the authors' code concatenates them), w = 0.5 by default.
From-scratch presets add a CTC term on the speech encoder.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from speechdst.objectives.cross_entropy import cross_entropy, ctc
from speechdst.training import optimizer
from speechdst.training.state import TrainState, model_of


def losses(model, batches: dict, terms: dict, key) -> dict:
    """(sum, weight) pairs by name.

    Args:
      batches: name -> `Batch`. Batches whose loss has one name are merged before division.
      terms: batch name -> name of its loss; "ctc" among `batches`' speech is added if the model
        has a CTC head and `terms` holds "ctc".
    """
    merged: dict = {}

    def add(name, pair):
        old = merged.get(name, (0.0, 0.0))
        merged[name] = (old[0] + pair[0], old[1] + pair[1])

    for i, (name, batch) in enumerate(sorted(batches.items())):
        encoded = [model.encode(t) if t.spoken else None for t in batch.tables]
        hidden = model(batch, jax.random.fold_in(key, i), encoded)
        result = cross_entropy(hidden, model.decoder.head(), batch.targets, batch.loss_weight,
                               cap=model.decoder.config.logit_cap)
        add(terms[name], result["loss"])
        add(f"{terms[name]}_accuracy", result["accuracy"])
        if "ctc" in terms:
            for table, out in zip(batch.tables, encoded, strict=True):
                if out is not None:
                    flat = lambda x: x.reshape(-1, *x.shape[2:])
                    add("ctc", ctc(model.ctc_head(out[0]), out[1], flat(table.transcripts),
                                   flat(table.transcript_lengths)))
    return merged


def make_step(graph, stage, losses: dict[str, str], **jit):
    """`joint_dst_train_step` of a stage of the config, compiled: (state, batches) -> (state,
    metrics).

    Args:
      stage: `optimizer`, `steps` and `weights` of the config.
      losses: batch name -> loss name; CTC is added if it has a weight.
      jit: options of `jax.jit`.
    """
    ctc = {"ctc": "ctc"} if "ctc" in stage.weights else {}
    return jax.jit(functools.partial(
        joint_dst_train_step, graph=graph, tx=optimizer.make(stage.optimizer, stage.steps),
        terms=losses | ctc, weights=dict(stage.weights),
        schedule=optimizer.schedule(stage.optimizer, stage.steps)), **jit)


def joint_dst_train_step(state: TrainState, batches: dict, *, graph, tx, terms: dict,
                         weights: dict, schedule) -> tuple[TrainState, dict]:
    """One optimizer step.

    Args:
      batches: name -> `Batch` of R rows.
      terms: batch name -> loss name (see `losses`).
      weights: loss name -> its weight in the objective.
    Returns: the new state, and float32 scalars: `loss`, every (sum / weight), `grad_norm`, `lr`.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

    def objective(trainable):
        model = model_of(graph, trainable | state.frozen)
        pairs = losses(model, batches, terms, key)
        means = {name: total / jnp.maximum(weight, 1.0) for name, (total, weight) in pairs.items()}
        return sum(weights[name] * means[name] for name in weights), means

    (loss, means), grads = jax.value_and_grad(objective, has_aux=True)(state.trainable)
    updates, optimizer = tx.update(grads, state.optimizer, state.trainable)
    new = TrainState(state.step + 1, optax.apply_updates(state.trainable, updates), state.frozen,
                     optimizer, state.key)
    return new, {"loss": loss, **means, "grad_norm": optax.global_norm(grads),
                 "lr": schedule(state.step)}
