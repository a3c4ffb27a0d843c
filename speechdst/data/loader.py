"""Grain loaders: planned rows, mixed over sources, shuffled, split by host, stacked to batches."""

import dataclasses
import hashlib
from collections.abc import Sequence

import grain
import numpy as np

from speechdst.data import plan as planning
from speechdst.data.augment import mask_features
from speechdst.data.batch import Batch, stack
from speechdst.data.contexts import TreeBuilder
from speechdst.data.dialogue import BadInput
from speechdst.data.tree import RowShape, pack

EPOCHS = 1_000_000  # in effect without end; Grain cannot slice what has none


@dataclasses.dataclass(frozen=True)
class Source:
    """Dialogues (a random-access sequence) and their share of the rows."""

    dialogues: Sequence
    weight: float = 1.0


class Part(Sequence):
    """Some of a sequence of dialogues: about `share` of its conversations, drawn by their ids.

    A smaller share is part of a larger one. Other renderings of a conversation and what it goes on
    to (ids that differ behind a "~") stay with it. `ids`: of all dialogues, in their order.
    """

    def __init__(self, dialogues: Sequence, ids: Sequence[str], share: float, seed: int = 0):
        order = lambda id: hashlib.sha256(f"{seed}/{id.partition('~')[0]}".encode()).digest()
        families = sorted({id.partition("~")[0] for id in ids}, key=order)
        kept = set(families[: max(1, round(share * len(families)))])
        self.dialogues, self.name = dialogues, f"{share}/{seed}"
        self.chosen = [i for i, id in enumerate(ids) if id.partition("~")[0] in kept]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int):
        return self.dialogues[self.chosen[index]]

    def __repr__(self) -> str:  # which Grain compares when it restores the position of a run
        return f"Part({self.name} of {self.dialogues!r})"


class _PackedRows(grain.transforms.RandomMap):
    """Row of a plan -> arrays; speech features are masked (SpecAugment) where asked."""

    def __init__(self, dialogues, plan, builder, spec_augment):
        self.dialogues, self.plan, self.builder = dialogues, plan, builder
        self.spec_augment = spec_augment

    def random_map(self, row: tuple[int, ...], rng: np.random.Generator) -> dict:
        trees = []
        for index in row:
            item = self.plan.items[index]
            tree = self.builder.trees(self.dialogues[item.dialogue])[item.tree]
            if self.spec_augment:
                tree = dataclasses.replace(tree, utterances=tuple(
                    u if u.features is None else dataclasses.replace(
                        u, features=mask_features(u.features, rng, **self.spec_augment))
                    for u in tree.utterances))
            trees.append(tree)
        return pack(trees, self.plan.shape)


@dataclasses.dataclass(frozen=True)
class Loader:
    """An endless stream of batches of `rows` rows, and the plans behind it."""

    dataset: grain.IterDataset
    plans: tuple[planning.Plan, ...]
    rows: int

    @property
    def shape(self) -> RowShape:
        return self.plans[0].shape

    def __iter__(self):
        return iter(self.dataset)


def make(sources: Sequence[Source], builder: TreeBuilder, *, positions: int, rows: int,
         seed: int, block: int = 128, channels: int = 80, spec_augment: dict | None = None,
         host: int = 0, hosts: int = 1, threads: int = 2) -> Loader:
    """Plans the sources for one common row shape and returns the stream of batches.

    The k-th batch of all hosts together is the same set of rows whatever the number of hosts.
    """
    masks = any((spec_augment or {}).get(name, 1) for name in ("time_masks", "channel_masks"))
    if spec_augment and masks and builder.table not in ("speech", "words"):
        raise BadInput(f"there are no log-mel features to mask in what the encoder hears "
                       f"({builder.table})", field="spec_augment",
                       mend="set it to {}, or its masks to 0")
    if rows % hosts:
        raise ValueError(f"{rows} rows a batch cannot be shared by {hosts} hosts")
    measured = [planning.fitting(planning.measure(
        s.dialogues, builder.sizes_only()), positions) for s in sources]
    everything = [i for items, _ in measured for i in items]
    shape = planning.row_shape(everything, positions, builder.table, builder.soft_length,
                               block=block, channels=channels)
    plans = tuple(planning.make(items, shape, left_out, seed=seed)
                  for items, left_out in measured)
    streams = []
    for k, (source, plan) in enumerate(zip(sources, plans, strict=True)):
        epochs = [grain.MapDataset.source(list(packing)).shuffle(seed=seed + 101 * k + e)
                  for e, packing in enumerate(plan.packings)]
        stream = grain.MapDataset.concatenate(epochs) if len(epochs) > 1 else epochs[0]
        stream = stream.repeat(EPOCHS).seed(seed + k)
        streams.append(stream.random_map(
            _PackedRows(source.dialogues, plan, builder, spec_augment)))
    mixed = streams[0] if len(streams) == 1 else grain.MapDataset.mix(
        streams, weights=[s.weight for s in sources])
    batches = mixed[host::hosts].batch(rows // hosts, batch_fn=stack)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    return Loader(batches.to_iter_dataset(options), plans, rows)


def count(batch: Batch) -> dict[str, int]:
    """Trees, answers, positions and frames (10 ms) of speech in a batch (numpy)."""
    frames = sum(int(t.lengths.sum() / planning.FRAME[
        "waveform" if t.waveform is not None else "encoded" if t.encoded is not None else "speech"])
        for t in batch.tables if t.spoken)
    answers = sum(len(np.unique(r[r >= 0])) for r in batch.branch)
    trees = sum(len(np.unique(r[r >= 0])) for r in batch.tree)
    return {"trees": trees, "answers": answers, "frames": frames,
            "positions": int((batch.tree >= 0).sum())}
