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


@dataclasses.dataclass(frozen=True)
class Item:
    """A tree by its dialogue and its number among the dialogue's trees, and what it takes."""

    dialogue: int
    tree: int
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
        full = sum(i.positions for i in self.items) / (rows * self.shape.positions)
        out = "".join(f", {n} left out ({why})" for why, n in self.left_out.items())
        return (f"{len(self.items)} trees with {sum(i.answers for i in self.items)} answers in "
                f"{rows} rows of {self.shape.positions} positions, {full:.0%} full{out}")


def measure(dialogues: Sequence, builder: TreeBuilder) -> list[Item]:
    """The size of every tree; `dialogues` is a sequence of `Dialogue`."""
    items = []
    for d in range(len(dialogues)):
        for i, tree in enumerate(builder.trees(dialogues[d])):
            items.append(Item(
                d, i, T.length(tree), tuple(u.size for u in tree.utterances),
                max((len(u.transcript) for u in tree.utterances), default=0),
                len(tree.branches)))
    return items


def row_shape(items: Sequence[Item], positions: int, kind: str, soft_length, *, block: int,
              channels: int, buckets: int = 4) -> T.RowShape:
    """The closed shape for rows of these trees.

    Utterance tables are cut at quantiles of the utterances' sizes; each has room for what an
    average full row needs and a tenth more, and for whatever any single tree needs.
    """
    sizes = np.array([s for i in items for s in i.sizes])
    if not len(sizes):
        return T.RowShape(positions, (), block, channels)
    unit = 16 if kind == "words" else 32
    quantiles = np.quantile(sizes, np.linspace(0, 1, buckets + 1)[1:])
    edges = sorted({int(-(-q // unit) * unit) for q in quantiles})
    per_row = positions / (sum(i.positions for i in items) / len(sizes))
    counts = [max(1, int(np.ceil(1.1 * per_row * np.mean((sizes > low) & (sizes <= high)))))
              for low, high in zip([-1, *edges], edges, strict=False)]
    transcript = -(-max((i.transcript for i in items), default=0) // 8) * 8
    table = lambda size, count: T.Table(
        kind, count, size, soft_length(kind, size), transcript if kind == "speech" else 0)
    while True:
        tables = tuple(table(s, c) for s, c in zip(edges, counts, strict=True))
        shape = T.RowShape(positions, tables, block, channels)
        worst = [i for i in items if T.place(i.sizes, shape, [0] * len(tables)) is None]
        if not worst:
            return shape
        # Some tree has more long utterances than the average row: make room where it lacks it.
        need = np.array([[np.sum(np.array(i.sizes) > low) for low in [-1, *edges[:-1]]]
                         for i in worst]).max(0)
        room = np.cumsum(counts[::-1])[::-1]
        counts[int(np.argmax(need > room)) if (need > room).any() else -1] += 1


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
