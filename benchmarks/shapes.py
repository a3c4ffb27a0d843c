"""SpokenWOZ-shaped dialogues of random content, as trees and as single turns.

18.4 user turns of some 4.4 s a dialogue, states of some 80 tokens: SpokenWOZ (arXiv 2305.13040),
rounded. The encoder gives 50 vectors/s and the connector strides by 6, as in arXiv 2511.22503.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from speechdst.config import model_config
from speechdst.data.batch import Batch, Utterances, stack
from speechdst.data.tree import (
    Branch,
    DialogueTree,
    RowShape,
    Segment,
    Soft,
    Table,
    Tokens,
    Utterance,
    length,
    pack,
)
from speechdst.models.dialogue_lm import DialogueLMConfig

CHANNELS = 80
CONTEXTS = ("spoken_history", "text_history")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A dialogue: user turns (an agent turn between any two), frames of 10 ms a turn, tokens of a
    state and of a turn's text; `vocabulary` of the model."""

    turns: int = 18
    frames: int = 440
    state: int = 80
    text: int = 20
    vocabulary: int = 4096


def decoder(width: int, layers: int, head_dim: int = 32) -> dict:
    """A decoder as a config; with heads of 32, that of the from-scratch presets."""
    heads = max(2, width // head_dim)
    return dict(
        transformer=dict(
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=heads // 2,
            mlp_width=3 * width,
            gated=True,
            rms=True,
            bias=False,
            rope_theta=10_000.0,
        ),
        vocabulary=0,
    )


def model(width: int, layers: int, sizes: Sizes, head_dim: int = 32) -> DialogueLMConfig:
    """A decoder of `width`, six layers meant, and three encoder layers of 3/4 of it: their layers'
    parameters are as 1 : 3.5, those of WavLM-large and OLMo-1B in the paper as 1 : 3.6; its frame
    rates, 50 vectors and 8.3 soft positions a second. `head_dim`: of the decoder."""
    ears = width * 3 // 4
    small = dict(width=ears, layers=1, heads=4)
    return model_config(
        dict(
            encoder=dict(
                transformer=small | dict(layers=3), channels=CHANNELS, strides=[1, 2], taps=[3, 3]
            ),
            connector=dict(transformer=small, inputs=ears, outputs=width, strides=[3, 2], taps=7),
            text_encoder=dict(transformer=small, vocabulary=0, outputs=ears),
            decoder=decoder(width, layers, head_dim),
        ),
        sizes.vocabulary,
    )


def dialogue(
    kind: str, sizes: Sizes, config: DialogueLMConfig, rng: np.random.Generator
) -> DialogueTree:
    """A tree as `data.contexts.TreeBuilder` lays one out, without what follows the last answer.

    `spoken_history`: user and agent speech in the trunk; `text_history`: only the current user
    turn is speech, in its branch.
    """
    soft = config.soft_length("speech", sizes.frames)
    utterances: list[Utterance] = []

    def words(n: int, loss: bool = False) -> Tokens:
        return Tokens(rng.integers(3, sizes.vocabulary, n).tolist(), loss)

    def speech() -> Soft:
        utterances.append(
            Utterance(rng.standard_normal((sizes.frames, CHANNELS)).astype(np.float32))
        )
        return Soft(len(utterances) - 1, soft)

    trunk: list[Segment] = [words(1)]
    branches = []
    for turn in range(sizes.turns):
        answer = (words(1), words(sizes.state, loss=True))
        last = turn == sizes.turns - 1
        if kind == "spoken_history":
            trunk += [words(1), speech(), words(1)]
            branches.append(Branch(len(trunk), answer))
            trunk += [] if last else [words(1), speech(), words(1)]
        else:
            branches.append(Branch(len(trunk), (speech(), *answer)))
            trunk += [] if last else [words(sizes.text), words(sizes.text)]
    return DialogueTree(tuple(trunk), tuple(branches), tuple(utterances))


def alone(tree: DialogueTree) -> list[DialogueTree]:
    """Every answer as a tree of its own: its prefix of the trunk, and only what that hears."""
    result = []
    for branch in tree.branches:
        heard: list[int] = []

        def own(segments: Sequence[Segment], heard=heard) -> tuple[Segment, ...]:
            made = []
            for s in segments:
                if isinstance(s, Soft):
                    heard.append(s.utterance)
                    s = dataclasses.replace(s, utterance=len(heard) - 1)
                made.append(s)
            return tuple(made)

        trunk, answer = own(tree.trunk[: branch.after]), own(branch.segments)
        result.append(
            DialogueTree(
                trunk,
                (dataclasses.replace(branch, segments=answer),),
                tuple(tree.utterances[u] for u in heard),
            )
        )
    return result


def up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def rows(
    trees: Sequence[DialogueTree],
    positions: int,
    block: int,
    config: DialogueLMConfig,
    share: bool = False,
) -> Batch:
    """A batch of one tree a row over one table of utterances for all rows, so that no row's table
    is padded to another's; with `share`, an utterance that several rows hear stands there once."""
    made, heard, places = [], [], {}
    for r, tree in enumerate(trees):
        size = max((u.size for u in tree.utterances), default=0)
        soft = config.soft_length("speech", size)
        table = Table("speech", len(tree.utterances), size, soft)
        row = pack([tree], RowShape(positions, (table,), block, CHANNELS))
        place = np.zeros(len(tree.utterances) + 1, np.int32)
        for i, u in enumerate(tree.utterances):
            key = id(u) if share else (r, i)
            if key not in places:
                places[key] = len(heard)
                heard.append(u)
            place[i] = places[key]
        row["soft"] = np.where(
            row["soft"] >= 0, place[row["soft"] // soft] * soft + row["soft"] % soft, -1
        )
        made.append(row | {"tables": ()})
    none = np.zeros((1, len(heard)), np.int32)
    table = Utterances(
        none + [u.size for u in heard],
        none[..., None][..., :0],
        none,
        np.stack([u.features for u in heard])[None],
    )
    return dataclasses.replace(stack(made), tables=(table,))


def buckets(trees: Sequence[DialogueTree], width: int) -> list[list[DialogueTree]]:
    """Single turns by length, shortest first; lengths of a bucket differ by less than `width`."""
    made: dict[int, list[DialogueTree]] = {}
    for tree in sorted(trees, key=length):
        made.setdefault(up(length(tree), width), []).append(tree)
    return list(made.values())
