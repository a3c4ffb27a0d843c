"""Cross entropy of a multi-stream model, text and audio apart, as (sum, weight) pairs.

Source: Défossez et al. 2024 (arXiv 2410.00037), section 4.4: semantic codes weigh 100 times as
much as acoustic ones, text as much as all audio together, padding half of what words weigh.
"""

import dataclasses

import jax.numpy as jnp

from speechdst.objectives.cross_entropy import cross_entropy


@dataclasses.dataclass(frozen=True)
class StreamWeights:
    """`semantic`: of the first codebook, `acoustic`: of each other; `padding`: of PAD and EPAD."""

    semantic: float = 100.0
    acoustic: float = 1.0
    padding: float = 0.5


def text_loss(hidden, head, batch, padding: tuple[int, int], weight: float, cap: float) -> dict:
    """Args: hidden [R, T, width] of the temporal Transformer; head [width, V]; padding: the ids of
      PAD and EPAD, which count `weight`.
    Returns: "text", and for the record its parts "words" and "padding", each with its accuracy.
    """
    targets = jnp.maximum(batch.targets, 0)
    silent = (targets == padding[0]) | (targets == padding[1])
    words = cross_entropy(hidden, head, targets, batch.loss_weight * ~silent, cap=cap)
    pads = cross_entropy(hidden, head, targets, batch.loss_weight * silent, cap=cap)
    return {"text": _weighed(((1.0, words["loss"]), (weight, pads["loss"]))),
            "words": words["loss"], "words_accuracy": words["accuracy"],
            "padding": pads["loss"], "padding_accuracy": pads["accuracy"]}


def audio_loss(vectors, heads, batch, weights: StreamWeights) -> dict:
    """Args: vectors [R, T, Q, width] of the depth Transformer; heads [Q, width, card].
    Returns: "audio", and for the record its parts "semantic" and "acoustic" with accuracies.
    """
    parts = []
    for q in range(len(heads)):
        targets = jnp.clip(batch.code_targets[..., q], 0, heads.shape[-1] - 1)
        parts.append(cross_entropy(vectors[:, :, q], heads[q], targets, batch.code_weight[..., q]))
    each = [weights.semantic] + [weights.acoustic] * (len(heads) - 1)
    rest = lambda name: _weighed([(1.0, p[name]) for p in parts[1:]])
    return {"audio": _weighed([(w, p["loss"]) for w, p in zip(each, parts, strict=True)]),
            "semantic": parts[0]["loss"], "semantic_accuracy": parts[0]["accuracy"],
            "acoustic": rest("loss"), "acoustic_accuracy": rest("accuracy")}


def _weighed(parts) -> tuple:
    """One (sum, weight) of several, each times its weight."""
    return (sum(w * total for w, (total, _) in parts), sum(w * count for w, (_, count) in parts))
