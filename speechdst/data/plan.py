"""The plan: which trees share a row. Cheap, made anew when tokenizer, context or shape change.

Preparation knows nothing of tokens or batches; a plan is what they add: the length of every tree,
which trees are left out and why, one closed row shape, and several shuffled packings of the trees
into rows of that shape. Because rows are planned ahead, the data position of a run is one number.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from speechdst.data import tree as T
from speechdst.data.contexts import TreeBuilder
from speechdst.data.dialogue import BadInput

SAMPLE = 600  # trees that a row shape is tried on
FRAME = {"speech": 1, "waveform": 160, "encoded": 0.5, "words": 1}  # of 10 ms, or a word of text
POSITION = 4  # what a position of the decoder costs, in frames of speech or words of text


@dataclasses.dataclass(frozen=True)
class Item:
    """A tree by its dialogue and `TreeBuilder.tree`'s key, and what it takes."""

    dialogue: int
    key: int
    positions: int
    sizes: tuple[int, ...]
    transcript: int
    answers: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """`packings`: several lists of rows, each row a tuple of indices into `items`."""

    items: tuple[Item, ...]
    packings: tuple[tuple[tuple[int, ...], ...], ...]
    shape: T.RowShape
    left_out: dict[str, int]

    def summary(self) -> str:
        rows = len(self.packings[0])
        if not rows:
            return "nothing"
        full = sum(i.positions for i in self.items) / (rows * self.shape.positions)
        out = "".join(f", {n} left out ({why})" for why, n in self.left_out.items())
        return (f"{len(self.items)} trees with {sum(i.answers for i in self.items)} answers in "
                f"{rows} rows of {self.shape.positions} positions, {full:.0%} full{out}")


def measure(dialogues: Sequence, builder: TreeBuilder) -> list[Item]:
    """The size of every tree; `dialogues` is a sequence of `Dialogue`."""
    items = []
    for d in range(len(dialogues)):
        dialogue = dialogues[d]
        for key in builder.keys(dialogue):
            tree = builder.tree(dialogue, key)
            items.append(Item(
                d, key, builder.length(tree), tuple(u.size for u in tree.utterances),
                max((len(u.transcript) for u in tree.utterances), default=0),
                len(tree.branches)))
    return items


def table_sizes(sizes: np.ndarray, unit: int, buckets: int) -> list[int]:
    """Multiples of `unit`, at most `buckets` of them, for the least padding of these sizes.

    The largest holds the largest size. Exact, by dynamic programming over the distinct sizes.
    """
    values, counts = np.unique(-(-sizes // unit) * unit, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    n = len(values)
    cost = np.full(n + 1, np.inf)  # of the first j values in the buckets so far
    cost[0] = 0
    cuts = []
    for _ in range(min(buckets, n)):
        each = [cost[:j] + values[j - 1] * (before[j] - before[:j]) for j in range(1, n + 1)]
        cuts.append([0] + [int(np.argmin(c)) for c in each])
        cost = np.array([np.inf] + [c.min() for c in each])
    chosen, j = [], n
    for cut in reversed(cuts):
        chosen.append(int(values[j - 1]))
        j = cut[j]
    return chosen[::-1]


def row_shape(items: Sequence[Item], positions: int, kind: str, soft_length, *, block: int,
              channels: int, buckets: int) -> T.RowShape:
    """The closed shape for rows of these trees: tables with little padding and few empty places.

    Every table starts with room for what an average full row needs and for whatever any single
    tree needs; then places are taken away as long as a sample of the trees gets cheaper to pack.
    """
    sizes = np.array([s for i in items for s in i.sizes])
    if not len(sizes):
        return T.RowShape(positions, (), block, channels)
    edges = np.array(table_sizes(sizes, 8 if kind == "words" else int(32 * FRAME[kind]), buckets))
    transcript = -(-max((i.transcript for i in items), default=0) // 8) * 8

    def shape(counts):
        return T.RowShape(positions, tuple(
            T.Table(kind, int(c), int(size), soft_length(kind, int(size)),
                    0 if kind == "words" else transcript)
            for size, c in zip(edges, counts, strict=True) if c), block, channels)

    below = np.concatenate([[-1], edges[:-1]])
    # An utterance may go to any table that is long enough, so a tree fits if for every table
    # those from it on have as many places as the tree has utterances longer than the one before.
    need = np.max([(np.array(i.sizes)[:, None] > below).sum(0) for i in items if i.sizes], axis=0)
    per_row = positions / (sum(i.positions for i in items) / len(sizes))
    counts = np.ceil(1.1 * per_row * np.diff(np.searchsorted(np.sort(sizes), edges, "right"),
                                             prepend=0) / len(sizes)).astype(int)
    for k in reversed(range(len(counts))):
        counts[k] = max(counts[k], need[k] - counts[k + 1:].sum())

    sample = [items[i] for i in np.random.default_rng(0).permutation(len(items))[:SAMPLE]]

    def cost(counts):
        rows = len(pack_rows(sample, shape(counts), range(len(sample))))
        return rows * (POSITION * positions + int(edges @ counts / FRAME[kind]))

    now = cost(counts)
    while True:
        fewer = [c for c in counts - np.eye(len(counts), dtype=int)
                 if (c >= 0).all() and (np.cumsum(c[::-1])[::-1] >= need).all()]
        costs = [cost(c) for c in fewer]
        if not costs or min(costs) >= now:
            return shape(counts)
        now, counts = min(costs), fewer[int(np.argmin(costs))]


def pack_rows(items: Sequence[Item], shape: T.RowShape, order: Sequence[int], open_rows: int = 24):
    """First fit over the trees in `order`, with at most `open_rows` rows open at a time."""
    rows, done = collections.deque(), []
    for index in order:
        item = items[index]
        for row in rows:
            if row["at"] + item.positions <= shape.positions:
                placed = T.place(item.sizes, shape, row["used"])
                if placed is not None:
                    break
        else:
            if len(rows) == open_rows:
                done.append(tuple(rows.popleft()["trees"]))
            row = {"at": 0, "used": [0] * len(shape.tables), "trees": []}
            rows.append(row)
            placed = T.place(item.sizes, shape, row["used"])
        row["at"] += item.positions
        row["trees"].append(index)
        for j in placed:
            row["used"][j] += 1
    return tuple(done + [tuple(row["trees"]) for row in rows])


def make(items: Sequence[Item], shape: T.RowShape, left_out: dict[str, int], *, seed: int,
         packings: int = 4) -> Plan:
    made = []
    for epoch in range(packings):
        order = np.random.default_rng([seed, epoch]).permutation(len(items))
        made.append(pack_rows(items, shape, order.tolist()))
    return Plan(tuple(items), tuple(made), shape, left_out)


def fitting(items: Sequence[Item], positions: int) -> tuple[list[Item], dict[str, int]]:
    """The items that fit a row, and a count by reason of those that do not."""
    fit = [i for i in items if i.positions <= positions]
    dropped = len(items) - len(fit)
    if not fit:
        longest = max((i.positions for i in items), default=0)
        raise BadInput(f"no tree fits a row of {positions} positions (the longest has {longest})",
                       field="positions", mend="raise `positions` in the config" if items else
                       "the data has no answers: check corpus, split and filters")
    return fit, {f"longer than a row of {positions}": dropped} if dropped else {}
