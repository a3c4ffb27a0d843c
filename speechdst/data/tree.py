"""Dialogue trees: one context read once, and several answers scored against it. Numpy only.

A tree is a *trunk* of segments and *branches* that fork from it. It is laid out as one flat
sequence, trunk first, then the branches one after the other. Each position sees at most two
intervals of keys, `[trunk_start, fork)` and `[branch_start, itself]`:

    trunk   t0 t1 t2 t3 t4        t3 sees  t0 t1 t2 t3            (its fork interval is empty)
    branch  forks at 2: a0 a1     a1 sees  t0 t1 | a0 a1
    branch  forks at 5: b0 b1     b1 sees  t0 t1 t2 t3 t4 | b0 b1

Rotary positions of a branch go on from its fork, so every branch is computed as if it stood alone
behind its own prefix of the trunk. Because `trunk_start` is the tree's own first position, several
trees can share a row without seeing one another.
"""

import dataclasses
import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np

from speechdst.data import speech
from speechdst.data.dialogue import Audio


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Text: int32 token ids; with `loss`, each of them is to be predicted."""

    ids: Sequence[int]
    loss: bool = False


@dataclasses.dataclass(frozen=True)
class Soft:
    """Soft positions: `length` vectors that an encoder makes of utterance `utterance`."""

    utterance: int
    length: int


Segment = Tokens | Soft


# Kind of a table -> field of an utterance, field of the batch's table.
KINDS = {"speech": ("features", "features"), "waveform": ("audio", "waveform"),
         "encoded": ("encoded", "encoded"), "words": ("words", "words")}


@dataclasses.dataclass(frozen=True)
class Utterance:
    """What fills soft positions, one of: speech `features` [frames, channels], `audio` (decoded
    only when a row is packed), `encoded` speech [vectors, width], `words` (token ids).

    `transcript` are the token ids of what was said (for CTC); empty where it is unknown.
    """

    features: np.ndarray | None = None
    audio: Audio | None = None
    encoded: np.ndarray | None = None
    words: np.ndarray | None = None
    transcript: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def kind(self) -> str:
        """The kind of `Table` that it goes into."""
        return next(kind for kind, (field, _) in KINDS.items() if getattr(self, field) is not None)

    @property
    def size(self) -> int:
        """Frames, samples or vectors of speech, or the number of words' tokens."""
        if self.audio is not None:
            return self.audio.samples
        return len(next(x for x in (self.features, self.encoded, self.words) if x is not None))


@dataclasses.dataclass(frozen=True)
class Branch:
    """An answer that forks off behind the first `after` segments of the trunk; `task`: the number
    of the task that it belongs to, in recipes that weigh tasks apart; `reference`: log p of what is
    to be predicted of it under a reference model, in nats (NaN: not known)."""

    after: int
    segments: tuple[Segment, ...]
    task: int = 0
    reference: float = math.nan


@dataclasses.dataclass(frozen=True)
class DialogueTree:
    trunk: tuple[Segment, ...]
    branches: tuple[Branch, ...]
    utterances: tuple[Utterance, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layout:
    """A tree as flat arrays, each [positions]; indices are relative to the tree's first position.

    tokens, utterance (-1: a token), offset (place within the utterance's soft positions),
    positions (rotary), fork, branch_start, targets, loss_weight, branch (-1: trunk), task (of the
    branch; 0: trunk). Of multi-stream frames also codes, code_targets and code_weight [positions,
    codebooks] (see `Batch`).
    """

    tokens: np.ndarray
    utterance: np.ndarray
    offset: np.ndarray
    positions: np.ndarray
    fork: np.ndarray
    branch_start: np.ndarray
    targets: np.ndarray
    loss_weight: np.ndarray
    branch: np.ndarray
    task: np.ndarray
    codes: np.ndarray | None = None
    code_targets: np.ndarray | None = None
    code_weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def _size(segment: Segment) -> int:
    return len(segment.ids) if isinstance(segment, Tokens) else segment.length


def _flat(segments: Sequence[Segment]) -> tuple[np.ndarray, ...]:
    """Tokens, utterance, offset and loss flag of consecutive segments."""
    tokens, utterance, offset, loss = columns = [], [], [], []
    for s in segments:
        n = _size(s)
        soft = isinstance(s, Soft)
        tokens += [0] * n if soft else list(s.ids)
        utterance += [s.utterance if soft else -1] * n
        offset += range(n) if soft else [0] * n
        loss += [not soft and s.loss] * n
    return tuple(np.array(c, np.int32) for c in columns)


def length(tree: DialogueTree) -> int:
    """Positions that `layout(tree)` takes."""
    return sum(map(_size, tree.trunk)) + sum(
        max(sum(map(_size, b.segments)) - 1, 0) for b in tree.branches)


def layout(tree: DialogueTree) -> Layout:
    """Trunk first, then the branches. A position predicts what follows it; the last token of a
    branch is only ever a target and takes no position."""
    tokens, utterance, offset, loss = _flat(tree.trunk)
    n = len(tokens)
    forks = np.cumsum([0, *map(_size, tree.trunk)])
    columns = [_columns(tokens, utterance, offset, loss, n, start=0, at=0, fork=0, branch=-1,
                        task=0)]
    place = n
    for i, b in enumerate(tree.branches):
        fork = int(forks[b.after])
        t, u, o, w = _flat(b.segments)
        n = max(len(t) - 1, 0)
        columns.append(_columns(t, u, o, w, n, start=place, at=fork, fork=fork, branch=i,
                                task=b.task))
        place += n
    return Layout(*(np.concatenate(c) for c in zip(*columns, strict=True)))


def _columns(tokens, utterance, offset, loss, n, *, start, at, fork, branch, task):
    """The `Layout` columns of one run of n positions; what follows position n - 1 may be absent."""
    following = np.zeros(n, np.int32)
    weight = np.zeros(n, np.float32)
    known = min(n, max(len(tokens) - 1, 0))
    following[:known], weight[:known] = tokens[1 : known + 1], loss[1 : known + 1]
    full = lambda value: np.full(n, value, np.int32)
    return (tokens[:n], utterance[:n], offset[:n], at + np.arange(n, dtype=np.int32), full(fork),
            full(start), following, weight, full(branch), full(task))


@dataclasses.dataclass(frozen=True)
class Table:
    """A closed shape for utterances: `count` of up to `size` frames (samples, vectors, words),
    each `soft` positions long after the connector, with transcripts of up to `transcript` tokens.
    """

    kind: str  # of `KINDS`
    count: int
    size: int
    soft: int
    transcript: int = 0


@dataclasses.dataclass(frozen=True)
class RowShape:
    """The closed shape of one row: positions and utterance tables, shortest first; `channels` of
    features and of encoded speech. `pairs` > 0: branches are pairs of a chosen and a rejected
    answer, one behind the other, and a row has at most so many pairs."""

    positions: int
    tables: tuple[Table, ...]
    block: int = 128
    channels: int = 80
    pairs: int = 0


def place(sizes: Sequence[int], shape: RowShape, used: Sequence[int]) -> list[int] | None:
    """The table of each utterance (the shortest with room that fits it), or None: no room."""
    free = [t.count - u for t, u in zip(shape.tables, used, strict=True)]
    placed = [-1] * len(sizes)
    # The longest choose first: they have the fewest tables to choose from.
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        for j, t in enumerate(shape.tables):
            if sizes[i] <= t.size and free[j]:
                placed[i] = j
                free[j] -= 1
                break
        else:
            return None
    return placed


def pack(trees: Sequence[DialogueTree], shape: RowShape) -> dict:
    """One row of trees as the arrays of `Batch` (without its leading row axis).

    Raises:
      ValueError: the trees do not fit the shape (the plan and the data disagree).
    """
    flats = [layout(tree) for tree in trees]
    row = pack_layouts(flats, [[b.reference for b in tree.branches] for tree in trees],
                       shape.positions, shape.block, shape.pairs)
    tables = [_empty(table, shape.channels) for table in shape.tables]
    offsets = np.cumsum([0] + [table.count * table.soft for table in shape.tables])
    used = [0] * len(tables)
    at = 0
    for tree, flat in zip(trees, flats, strict=True):
        placed = place([u.size for u in tree.utterances], shape, used)
        if placed is None:
            raise ValueError(
                f"tree with utterances of {[u.size for u in tree.utterances]} does not fit beside "
                f"the {sum(used)} before it into {shape}")
        first = np.zeros(len(tree.utterances) + 1, np.int32)  # soft index of each utterance
        for u, (utterance, j) in enumerate(zip(tree.utterances, placed, strict=True)):
            first[u] = offsets[j] + used[j] * shape.tables[j].soft
            _fill(tables[j], used[j], shape.tables[j].kind, utterance)
            used[j] += 1
        s = slice(at, at + len(flat))
        row["soft"][s] = np.where(flat.utterance >= 0, first[flat.utterance] + flat.offset, -1)
        at += len(flat)
    row["tables"] = tuple(tables)
    return row


def pack_layouts(flats: Sequence[Layout], references: Sequence[Sequence[float]], positions: int,
                 block: int, pairs: int = 0) -> dict:
    """One row of laid-out trees as the arrays of `Batch`; utterances are left out. `references`:
    by tree, the `reference` of each of its branches; `pairs`: see `RowShape`.

    Raises:
      ValueError: the trees do not fit (the plan and the data disagree).
    """
    t = positions
    answers = [r for of_tree in references for r in of_tree]
    if pairs and (len(answers) > 2 * pairs or len(answers) % 2):
        raise ValueError(f"{len(answers)} branches are not {pairs} pairs or less")
    row = {
        name: np.zeros(t, np.int32)
        for name in ("tokens", "positions", "trunk_start", "fork", "targets", "task")
    }
    # Padding sees only itself, and nothing sees padding.
    row |= {"soft": np.full(t, -1, np.int32), "branch": np.full(t, -1, np.int32),
            "branch_start": np.arange(t, dtype=np.int32), "loss_weight": np.zeros(t, np.float32),
            "tree": np.full(t, -1, np.int32), "tables": ()}
    row["reference"] = by_pair(answers, pairs)
    streams = [name for name in ("codes", "code_targets", "code_weight")
               if flats and getattr(flats[0], name) is not None]
    for name in streams:
        like = getattr(flats[0], name)
        row[name] = np.zeros((t, like.shape[1]), like.dtype)
    at, branches = 0, 0
    for index, (flat, own) in enumerate(zip(flats, references, strict=True)):
        n = len(flat)
        if at + n > t:
            raise ValueError(f"tree of {n} positions does not fit behind {at} into {t}")
        s = slice(at, at + n)
        row["tokens"][s], row["positions"][s] = flat.tokens, flat.positions
        row["trunk_start"][s], row["fork"][s] = at, at + flat.fork
        row["branch_start"][s] = at + flat.branch_start
        row["targets"][s], row["loss_weight"][s] = flat.targets, flat.loss_weight
        row["branch"][s] = np.where(flat.branch >= 0, flat.branch + branches, -1)
        row["tree"][s], row["task"][s] = index, flat.task
        for name in streams:
            row[name][s] = getattr(flat, name)
        branches += len(own)
        at += n
    row["blocks"] = block_lists(row["trunk_start"], row["fork"], row["branch_start"], block)
    return row


def by_pair(values: Sequence[float], pairs: int) -> np.ndarray:
    """One value for each branch of a row -> float32 [pairs, 2], 0 where there is no pair."""
    made = np.zeros((pairs, 2), np.float32)
    if pairs:
        made.flat[: len(values)] = values
    return made


def _empty(table: Table, channels: int) -> dict:
    dtype = {"words": np.int32, "encoded": ml_dtypes.bfloat16}.get(table.kind, np.float32)
    last = (channels,) if table.kind in ("speech", "encoded") else ()
    return {
        KINDS[table.kind][1]: np.zeros((table.count, table.size, *last), dtype),
        "lengths": np.zeros(table.count, np.int32),
        "transcripts": np.zeros((table.count, table.transcript), np.int32),
        "transcript_lengths": np.zeros(table.count, np.int32),
    }


def _fill(table: dict, slot: int, kind: str, utterance: Utterance) -> None:
    ours, theirs = KINDS[kind]
    content = getattr(utterance, ours)
    table[theirs][slot, : utterance.size] = (
        speech.decode(content) if kind == "waveform" else content)
    table["lengths"][slot] = utterance.size
    # A transcript over the table's bound is left out whole: CTC over half of one would be wrong.
    if (n := len(utterance.transcript)) <= table["transcripts"].shape[1]:
        table["transcripts"][slot, :n] = utterance.transcript
        table["transcript_lengths"][slot] = n


def block_lists(trunk_start, fork, branch_start, block: int) -> dict:
    """For each block of queries the blocks of keys that any of them sees, and the transpose.

    Args: int32 [T] each, T a multiple of `block`.
    Returns: `keys` int32 [T/block, T/block], the visible key blocks of each query block, then
      zeros; `key_counts` int32 [T/block]; `whole_keys` int32 [T/block], how many of them, the first
      ones, every query of the block sees from end to end; `queries`, `query_counts`,
      `whole_queries`: the same by key block.
    """
    t = len(fork)
    if t % block:
        raise ValueError(f"{t} positions are no multiple of the attention block {block}")
    n = t // block
    at = np.arange(t)
    query = at // block
    visible, whole = np.zeros((n, n), bool), np.ones((n, n), bool)
    rows = lambda *columns: set(zip(*(c.tolist() for c in columns), strict=True))
    # Of both intervals of a query, the blocks that it touches (an empty one touches none) ...
    spans = rows(query, trunk_start // block, np.where(fork > trunk_start, -(-fork // block), 0))
    for q, a, b in spans | rows(query, branch_start // block, query + 1):
        visible[q, a:b] = True
    # ... and those that lie in it from end to end; where a branch follows its fork they are one.
    ends = lambda start, end: (-(-start // block), end // block)
    start = np.where(branch_start == fork, trunk_start, branch_start)
    for q, a, b, c, d in rows(query, *ends(trunk_start, fork), *ends(start, at + 1)):
        seen = np.zeros(n, bool)
        seen[a:b] = seen[c:d] = True
        whole[q] &= seen

    def lists(visible, whole):
        count = lambda v: v.sum(1).astype(np.int32)
        # A stable sort: whole blocks, then the others that are visible, each in order.
        order = np.argsort(2 - (visible.astype(int) + whole), axis=1, kind="stable")
        counts = count(visible)
        shown = np.where(np.arange(n) < counts[:, None], order, 0).astype(np.int32)
        return shown, counts, count(whole)

    keys, key_counts, whole_keys = lists(visible, whole)
    queries, query_counts, whole_queries = lists(visible.T, whole.T)
    return {"keys": keys, "key_counts": key_counts, "whole_keys": whole_keys,
            "queries": queries, "query_counts": query_counts, "whole_queries": whole_queries}
