"""Prompts in, answers out: the text of every branch of a list of prompt trees."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from speechdst import sharding
from speechdst.data.auxiliary_trees import TaskContext
from speechdst.data.batch import stack
from speechdst.data.contexts import Context
from speechdst.data.plan import FRAME
from speechdst.data.tokenizer import Tokenizer
from speechdst.data.tree import DialogueTree, RowShape, Table, layout, length, pack
from speechdst.decoding.decode import decode
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.training import state

# A second table of utterances must save so much: every shape of a prompt is compiled for itself.
WORTH = 4


def answers(prompts: Sequence[DialogueTree], params: state.Params, config: DialogueLMConfig,
            tokenizer: Tokenizer, *, beam: int = 1, max_new: int = 256,
            rows: int = 8) -> Iterator[tuple[int, list[str]]]:
    """Yields (prompt index, answer text of every branch), longest prompts first.

    `prompts`: trees as `contexts.TreeBuilder.prompt` makes them, whose branches end one token
    behind where their answers begin; `rows` of them are decoded together, over the devices that
    hold the parameters. Their shapes come from a small closed set. Of many hosts each makes the
    whole batch and gets all answers.
    """
    order = sorted(range(len(prompts)), key=lambda i: -length(prompts[i]))
    graph, _ = state.abstract(config)
    mesh = sharding.mesh_of(params)
    for at in range(0, len(order), rows):
        chosen = order[at : at + rows]
        trees = [prompts[i] for i in chosen]
        shape = prompt_shape(trees, config)
        trees += [DialogueTree((), ())] * (rows - len(trees))
        batch = stack([pack([t], shape) for t in trees])
        branches = _up(max(len(t.branches) for t in trees), 1)
        starts = np.full((rows, branches), -1, np.int32)
        for row, tree in enumerate(trees):
            branch = layout(tree).branch
            last = np.flatnonzero((branch >= 0) & (branch != np.append(branch[1:], -1)))
            starts[row, : len(last)] = last
        with jax.set_mesh(mesh):
            tokens, _ = decode(params, *sharding.put((batch, starts), mesh), graph=graph,
                               beam=beam, max_new=max_new, eos=tokenizer.eos)
        tokens = np.asarray(tokens)
        for row, i in enumerate(chosen):
            yield i, [tokenizer.decode(t[: np.argmax(np.append(t, tokenizer.eos)
                                                     == tokenizer.eos)])
                      for t in tokens[row, : len(trees[row].branches)]]


@dataclasses.dataclass(frozen=True)
class Answerer:
    """A trained model with what is needed to have it answer.

    `context`: how its prompts are made. `beam`, `max_new` (tokens of an answer) and `rows` (prompts
    that are decoded together): of `answers`.
    """

    params: state.Params
    config: DialogueLMConfig
    tokenizer: Tokenizer
    context: Context | TaskContext
    beam: int = 1
    max_new: int = 256
    rows: int = 8

    def answers(self, prompts: Sequence[DialogueTree]) -> Iterator[tuple[int, list[str]]]:
        return answers(prompts, self.params, self.config, self.tokenizer, beam=self.beam,
                       max_new=self.max_new, rows=self.rows)


def prompt_shape(trees: Sequence[DialogueTree], config: DialogueLMConfig) -> RowShape:
    """A row shape for these prompts out of a small closed set: sizes are powers of two."""
    tables: tuple[Table, ...] = ()
    if sizes := [[u.size for u in t.utterances] for t in trees if t.utterances]:
        kind = next(u.kind for t in trees for u in t.utterances)
        least = 32 if kind == "words" else int(128 * FRAME[kind])
        most = config.encoder.most if kind == "waveform" else None
        tables = tuple(Table(kind, count, size, config.soft_length(kind, size))
                       for size, count in _tables(sizes, least, most))
    return RowShape(_up(max(map(length, trees)), 128), tables, channels=config.encoder.channels)


def _tables(sizes: Sequence[Sequence[int]], least: int, most: int | None) -> list[tuple[int, int]]:
    """(size, places) of the tables for utterances of these `sizes` by tree: one table, or, where
    long utterances among many short ones would make it far too large, a second one for the short.
    Encoders attend within utterances, so that a place costs the square of its size."""
    longest = _up(max(map(max, sizes)), least)
    places = lambda above, size: _up(max(sum(above < n <= size for n in own) for own in sizes), 1)
    made = [[(longest, places(0, longest))]]
    size = least
    while size < longest:
        made.append([(size, places(0, size)), (longest, places(size, longest))])
        size *= 2
    cost = lambda tables: sum(count * size**2 for size, count in tables)
    best = min(made, key=cost)
    chosen = best if cost(best) < cost(made[0]) / WORTH else made[0]
    return [(min(size, most or size), count) for size, count in chosen]


def _up(n: int, least: int) -> int:
    """The next power of two times `least`."""
    while least < n:
        least *= 2
    return least
