"""The most likely command of a grammar, by what a CTC head hears.

Token passing (Young, Russell and Thornton 1989) over the tree of a grammar's expressions. In a
part of an expression stand all its alternatives beside one another, the values of a slot or
words, and where it ends the best of them goes on, for every vector: the search is exact but that
CTC's paths are not added up, the best one counts.
"""

import dataclasses

import numpy as np

from speechdst.data.grammar import Grammar, Part
from speechdst.data.tokenizer import Tokenizer

IMPOSSIBLE = -1e30  # nats


@dataclasses.dataclass(frozen=True)
class Command:
    """What was said, in nats of the best path; `slots`: name -> value."""

    intent: str
    slots: dict[str, str]
    text: str
    nats: float


@dataclasses.dataclass(frozen=True)
class _Edge:
    """A part between two nodes of the tree, of `intent` if a command ends behind it. `rows`: its
    alternatives, of those of all edges of its depth."""

    parent: int
    part: Part
    intents: tuple[str, ...]
    rows: slice


@dataclasses.dataclass(frozen=True)
class _Depth:
    """All edges of one depth; nodes of the next depth are numbered as they are. Of every
    alternative: its `texts`, `labels` int [N, L], `lengths` int [N] and node before it, `parents`
    int [N]."""

    edges: list[_Edge]
    texts: list[str]
    labels: np.ndarray
    lengths: np.ndarray
    parents: np.ndarray


class Search:
    """Log-probabilities [vectors, V + 1], the blank last, to the most likely `Command`; None if the
    utterance is too short for any."""

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer):
        self._depths = list(_depths(grammar, tokenizer))

    def __call__(self, log_probs: np.ndarray) -> Command | None:
        x = np.asarray(log_probs, np.float64)
        # Nothing but blanks from vector t on.
        rest = np.append(np.cumsum(x[::-1, -1])[::-1], 0.0)
        score = np.full((1, len(x) + 1), IMPOSSIBLE)
        score[0, 0] = 0.0
        last = np.full(score.shape, -1)  # the token that a path has ended with
        best, passed = (IMPOSSIBLE, None), []
        for depth in self._depths:
            ended, began = _advance(x, score, last, depth)
            made = [(ended[e.rows], e.rows.start) for e in depth.edges]
            score = np.stack([of.max(0) for of, _ in made])
            chosen = np.stack([of.argmax(0) + first for of, first in made])
            last = depth.labels[chosen, depth.lengths[chosen] - 1]
            passed.append((chosen, began))
            for node, edge in enumerate(depth.edges):
                if edge.intents:
                    whole = score[node] + rest
                    at = int(whole.argmax())
                    if whole[at] > best[0]:
                        best = whole[at], (len(passed) - 1, node, at)
        return None if best[1] is None else self._command(best[0], passed, *best[1])

    def _command(self, nats: float, passed: list, at: int, node: int, vector: int) -> Command:
        """What leads to `vector` at a node of depth `at`."""
        intent, slots, texts = self._depths[at].edges[node].intents[0], {}, []
        for depth, (chosen, began) in reversed(list(zip(
                self._depths[: at + 1], passed[: at + 1], strict=True))):
            row, edge = chosen[node, vector], depth.edges[node]
            texts.append(depth.texts[row])
            if isinstance(edge.part, str):
                slots[edge.part] = depth.texts[row]
            node, vector = edge.parent, began[row, vector]
        return Command(intent, slots, " ".join(reversed(texts)), float(nats))


def _depths(grammar: Grammar, tokenizer: Tokenizer):
    """Expressions that begin alike share their first nodes."""
    lines = [(intent, parts) for intent, all_parts in grammar.expressions.items()
             for parts in all_parts]
    nodes: dict[tuple, int] = {(): 0}
    for depth in range(max(len(parts) for _, parts in lines)):
        begun = dict.fromkeys(parts[: depth + 1] for _, parts in lines if len(parts) > depth)
        edges, texts, parents = [], [], []
        for path in begun:
            said = grammar.said(path[-1])
            edges.append(_Edge(nodes[path[:-1]], path[-1], tuple(dict.fromkeys(
                intent for intent, parts in lines if parts == path)),
                slice(len(texts), len(texts) + len(said))))
            texts += said
            parents += [nodes[path[:-1]]] * len(said)
        ids = [tokenizer.words(text) for text in texts]
        labels = np.zeros((len(ids), max(map(len, ids))), np.int64)
        for row, of in zip(labels, ids, strict=True):
            row[: len(of)] = of
        yield _Depth(edges, texts, labels, np.array([len(of) for of in ids]), np.array(parents))
        nodes = {path: node for node, path in enumerate(begun)}


def _advance(x: np.ndarray, score: np.ndarray, last: np.ndarray, depth: _Depth):
    """One part further: of every alternative the best score of having ended with vector t - 1,
    [N, vectors + 1], and at which vector it has begun, likewise.

    `score` and `last` [nodes, vectors + 1]: of the paths that come in, and their last token.
    """
    labels, parents, rows = depth.labels, depth.parents, np.arange(len(depth.labels))
    # CTC needs a blank between two tokens that are the same.
    same = np.zeros(labels.shape, bool)
    same[:, 1:] = labels[:, 1:] == labels[:, :-1]
    token = np.full(labels.shape, IMPOSSIBLE)
    blank = np.full(labels.shape, IMPOSSIBLE)  # before the token of this place
    token_began = np.zeros(labels.shape, np.int64)
    blank_began = np.zeros(labels.shape, np.int64)
    ended = np.full((len(labels), len(x) + 1), IMPOSSIBLE)
    began = np.zeros(ended.shape, np.int64)
    for t, heard in enumerate(x):
        before = np.concatenate([score[parents, t][:, None], token[:, :-1]], 1)
        before_began = np.concatenate([np.full((len(labels), 1), t), token_began[:, :-1]], 1)
        same[:, 0] = last[parents, t] == labels[:, 0]
        direct = np.where(same, IMPOSSIBLE, before)
        stays = token >= np.maximum(blank, direct)
        waited = blank >= direct
        new = np.where(stays, token, np.where(waited, blank, direct)) + heard[labels]
        new_began = np.where(stays, token_began, np.where(waited, blank_began, before_began))
        waits = blank >= before
        blank_began = np.where(waits, blank_began, before_began)
        blank = np.where(waits, blank, before) + heard[-1]
        token, token_began = new, new_began
        ended[:, t + 1] = token[rows, depth.lengths - 1]
        began[:, t + 1] = token_began[rows, depth.lengths - 1]
    return np.maximum(ended, IMPOSSIBLE), began
