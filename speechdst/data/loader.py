"""Grain loaders: planned rows, mixed over sources, shuffled, shared by hosts, made batches."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from speechdst.data import plan as planning
from speechdst.data.batch import Batch, stack
from speechdst.data.contexts import TreeBuilder
from speechdst.data.dialogue import BadInput
from speechdst.data.measured import measured
from speechdst.data.plan import Item
from speechdst.data.rows import Rows, elsewhere
from speechdst.data.tree import RowShape

FRAME = 8  # of 10 ms that a multi-stream frame lasts
EPOCHS = 1_000_000  # in effect without end; Grain cannot slice what has none


@dataclasses.dataclass(frozen=True)
class Source:
    """Dialogues (a random-access sequence), the share of the rows that they make, and of which of
    them, by number, rows are made (None: all; empty: no rows of this source). The shape of the
    rows is that of all of them, so that the program for a part is the program for the whole."""

    dialogues: Sequence
    weight: float = 1.0
    part: frozenset[int] | None = None


class First(Sequence):
    """The first `limit` of a sequence of records (0: all), read when asked for."""

    def __init__(self, records: Sequence, limit: int):
        self.records, self.count = records, min(len(records), limit or len(records))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.records[index]


def part(ids: Sequence[str], share: float, seed: int = 0) -> frozenset[int]:
    """Numbers of some dialogues: about `share` of the conversations, drawn by their ids; at least
    one, and none for a share of 0.

    A smaller share is part of a larger one. Other renderings of a conversation and what it goes on
    to (ids that differ behind a "~") stay with it.
    """
    family = lambda id: id.partition("~")[0]
    order = lambda id: hashlib.sha256(f"{seed}/{id}".encode()).digest()
    families = sorted(set(map(family, ids)), key=order)
    kept = set(families[: max(1, round(share * len(families)))] if share else ())
    return frozenset(i for i, id in enumerate(ids) if family(id) in kept)


@dataclasses.dataclass(frozen=True)
class Loader:
    """An endless stream of batches of `rows` rows, and what is behind it: a plan for every source,
    the builder of their trees, and `made`, which makes the stream of rows with a builder."""

    sources: tuple[Source, ...]
    plans: tuple[planning.Plan, ...]
    builder: TreeBuilder
    made: Callable[[TreeBuilder], grain.MapDataset]
    rows: int
    threads: int

    @functools.cached_property
    def stream(self) -> grain.MapDataset:
        """Rows, mixed over the sources."""
        return self.made(self.builder)

    @property
    def shape(self) -> RowShape:
        return self.plans[0].shape

    @property
    def fingerprint(self) -> int:
        """The same where the same rows are planned."""
        return hash(tuple((p.items, p.packings) for p in self.plans))

    def __iter__(self):
        return self.batches(range(self.rows))

    def once(self, share: Sequence[int]) -> Iterator[tuple[list[list[tuple[Source, Item]]], Batch]]:
        """Every row of the first packings once: the trees of each row of a batch, and of the batch
        the rows in `share`. The last batch is filled up with its last row, then without trees."""
        rng = np.random.default_rng(0)  # nothing is drawn from it
        for source, plan in zip(self.sources, self.plans, strict=True):
            rows = plan.packings[0]
            read = Rows(source.dialogues, plan.items, plan.shape, self.builder, {})
            for at in range(0, len(rows), self.rows):
                own = [rows[min(at + r, len(rows) - 1)] for r in range(self.rows)]
                trees = [[(source, plan.items[i]) for i in row] for row in own]
                trees[len(rows) - at :] = [[] for _ in trees[len(rows) - at :]]
                yield trees, stack([read(own[r], rng) for r in share])

    def batches(self, share: Sequence[int]) -> grain.DatasetIterator:
        """The batches, of each only the rows in `share`: what one of many hosts reads.

        The k-th batch of all hosts together is the same rows in the same order however they share
        them, and the state of the iterator is the number of batches taken.
        """
        if list(share) == list(range(self.rows)):
            batches = self.stream.batch(self.rows, batch_fn=stack)
        else:
            of_row = [self.stream[row :: self.rows] for row in share]
            whole = min(map(len, of_row))  # the last batch of all is not full
            batches = grain.experimental.ZipMapDataset([s[:whole] for s in of_row]).map(stack)
        options = grain.ReadOptions(num_threads=self.threads,
                                    prefetch_buffer_size=max(4, self.threads))
        return iter(batches.to_iter_dataset(options))


def make(sources: Sequence[Source], builder: TreeBuilder, *, positions: int, rows: int,
         seed: int, block: int = 128, buckets: int = 4, channels: int = 80,
         spec_augment: dict | None = None, threads: int = 2, workers: int = 0,
         pairs: bool = False) -> Loader:
    """Plans the sources for one common row shape, of tables for at most `buckets` sizes of
    utterances, and returns the stream of batches.

    Rows are made by `threads` threads, or by `workers` processes where Python's lock would hold
    the threads up; the stream is the same, and so is its state.

    `pairs`: the builder's branches are pairs of answers. They are packed in one way only, since
    what a reference model makes of an answer is, to the last bit, that of the row it stands in.
    """
    masks = any((spec_augment or {}).get(name, 1) for name in ("time_masks", "channel_masks"))
    if spec_augment and masks and builder.table not in ("speech", "words"):
        raise BadInput(f"there are no log-mel features to mask in what the encoder hears "
                       f"({builder.table})", field="spec_augment",
                       mend="set it to {}, or its masks to 0")
    sizes = [measured(s.dialogues, builder.sizes_only()) for s in sources]
    everything = [i for items in sizes for i in planning.fitting(items, positions)[0]]
    shape = planning.row_shape(everything, positions, builder.table, builder.soft_length,
                               block=block, channels=channels, buckets=buckets)
    fit = [planning.fitting(
        [i for i in items if s.part is None or i.dialogue in s.part], positions)
        if s.part is None or s.part else ([], {}) for s, items in zip(sources, sizes, strict=True)]
    plans = tuple(planning.make(items, shape, left_out, seed=seed, packings=1 if pairs else 4)
                  for items, left_out in fit)
    if not any(p.items for p in plans):
        raise BadInput("no source has a share", field="share", mend="give one of them some")
    if pairs:
        most = max(sum(p.items[i].answers for i in row) for p in plans for row in p.packings[0])
        shape = dataclasses.replace(shape, pairs=most // 2)
        plans = tuple(dataclasses.replace(p, shape=shape) for p in plans)

    def made(builder: TreeBuilder) -> grain.MapDataset:
        makers = [Rows(source.dialogues, plan.items, shape, builder, spec_augment or {})
                  for source, plan in zip(sources, plans, strict=True)]
        if workers:
            makers = elsewhere(makers, workers)
        streams, weights = [], []
        for k, (make_row, plan) in enumerate(zip(makers, plans, strict=True)):
            if not plan.items:
                continue
            weights.append(sources[k].weight)
            epochs = [grain.MapDataset.source(list(packing)).shuffle(seed=seed + 101 * k + e)
                      for e, packing in enumerate(plan.packings)]
            stream = grain.MapDataset.concatenate(epochs) if len(epochs) > 1 else epochs[0]
            stream = stream.repeat(EPOCHS).seed(seed + k)
            streams.append(stream.random_map(make_row))
        return streams[0] if len(streams) == 1 else grain.MapDataset.mix(
            streams, weights=weights)

    # A thread waits for a worker.
    return Loader(tuple(sources), plans, builder, made, rows, max(threads, workers))


def count(batch: Batch) -> dict[str, int]:
    """Trees, answers, positions and frames (10 ms) of speech in a batch (numpy); of multi-stream
    frames both speakers' are one."""
    frames = sum(int(t.lengths.sum() / planning.FRAME[
        "waveform" if t.waveform is not None else "encoded" if t.encoded is not None else "speech"])
        for t in batch.tables if t.spoken)
    if batch.codes is not None:
        frames += FRAME * int((batch.tree >= 0).sum())
    answers = sum(len(np.unique(r[r >= 0])) for r in batch.branch)
    trees = sum(len(np.unique(r[r >= 0])) for r in batch.tree)
    return {"trees": trees, "answers": answers, "frames": frames,
            "positions": int((batch.tree >= 0).sum())}
