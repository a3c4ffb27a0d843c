"""Speech encoded beforehand: what a frozen encoder made of the recordings of a prepared data set.

<data set>.encoded/<encoder>-<data>/             beside it; fingerprints of encoder and records
    manifest.json                                what it is; written last
    <split>-00000-of-00007.npy                   bfloat16 [vectors, width], as uint16 bits
    <split>-00000-of-00007.index.npy             int64 [recordings, 3]: dialogue, turn, vectors

Shards are those of the data set. They are memory maps: only what is asked for is read, and
planning, which wants lengths, reads nothing.
"""

import bisect
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from speechdst.data.dialogue import BadInput, Dialogue, Turn
from speechdst.data.prepared import Prepared
from speechdst.files import aside, write_text

FORMAT = 1
MANIFEST = "manifest.json"
_AGAIN = "run `python -m speechdst.prepare --features` with the same encoder"

Encode = Callable[[Sequence[Turn]], Iterable[tuple[int, np.ndarray]]]
"""Turns -> (number of the turn, bfloat16 [vectors, width]), in any order."""


def folder_of(prepared: Prepared, encoder: str) -> Path:
    """Where the output of the encoder of this fingerprint stands."""
    return prepared.folder.with_name(f"{prepared.folder.name}.encoded") / (
        f"{encoder}-{prepared.fingerprint}")


class Encoded(Sequence):
    """The dialogues of one split, their turns' `features` bfloat16 [vectors, width] by the encoder
    of this fingerprint (None: no recording, or one that was not encoded).

    Raises `BadInput` if they were not encoded, or a file is missing or cut off.
    """

    def __init__(self, prepared: Prepared, split: str, encoder: str):
        self.dialogues = prepared.dialogues(split)
        self.folder, self.split, self.encoder = folder_of(prepared, encoder), split, encoder
        shards = [s["records"] for s in self.dialogues.shards]
        self.starts = list(itertools.accumulate(shards[:-1], initial=0)) if shards else []
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text("utf-8"))
        except FileNotFoundError:
            raise BadInput("the recordings were not encoded by this encoder",
                           file=self.folder, mend=_AGAIN) from None
        except ValueError as error:
            raise BadInput(f"not JSON ({error})", file=self.folder / MANIFEST,
                           mend=_AGAIN) from error
        if manifest.get("format") != FORMAT or split not in manifest.get("splits", {}):
            raise BadInput(f"format {manifest.get('format')!r} with splits "
                           f"{sorted(manifest.get('splits', {}))}, expected {FORMAT} with {split}",
                           file=self.folder / MANIFEST, mend=_AGAIN)
        self.width = manifest["width"]

    @functools.cached_property
    def _shards(self) -> list[tuple[np.ndarray, dict[tuple[int, int], slice]]]:
        return [_read(path, self.width) for path in _paths(self.folder, self.split,
                                                           len(self.starts))]

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        dialogue = self.dialogues[index]
        number = index + len(self) if index < 0 else index
        shard = bisect.bisect_right(self.starts, number) - 1
        vectors, places = self._shards[shard]
        own = lambda turn: places.get((number - self.starts[shard], turn))
        turns = tuple(dataclasses.replace(
            t, features=vectors[own(i)] if own(i) is not None else None)
            for i, t in enumerate(dialogue.turns))
        return dataclasses.replace(dialogue, turns=turns)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_shards"}

    def __repr__(self) -> str:
        return f"Encoded({self.dialogues.name}/{self.encoder})"


def write(prepared: Prepared, encoder: str, width: int, vectors: Callable[[Turn], int],
          encode: Encode, card: dict,
          progress: Callable[[Iterable, int], Iterable] = lambda shards, total: shards) -> Path:
    """Encodes all splits of a data set; shards that are finished are left alone.

    Args:
      encoder: its fingerprint; width: of its vectors.
      vectors: how many it makes of a turn's recording; 0: the turn is not encoded.
      card: for the manifest: what the encoder is.
      progress: wraps the shards to show how far it is.

    Raises:
      BadInput: damaged records.
      ValueError: `encode` makes other than `vectors` of a turn.
    """
    folder = folder_of(prepared, encoder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.tmp"):  # of a process that was killed
        left.unlink()
    jobs, counts = [], {}
    for split in prepared.splits:
        dialogues = prepared.dialogues(split)
        sizes = [s["records"] for s in dialogues.shards]
        first = 0
        for path, size in zip(_paths(folder, split, len(sizes)), sizes, strict=True):
            jobs.append((split, path, dialogues, range(first, first + size)))
            first += size
    for split, path, dialogues, numbers in progress(jobs, len(jobs)):
        if not path.exists():
            _write_shard(path, (dialogues[i] for i in numbers), width, vectors, encode)
        counts[split] = counts.get(split, 0) + len(np.load(_index(path), allow_pickle=False))
    write_text(folder / MANIFEST, json.dumps({
        "format": FORMAT, "encoder": card | {"fingerprint": encoder}, "width": width,
        "data": prepared.fingerprint,
        "splits": {s: {"recordings": n} for s, n in counts.items()}}, indent=1) + "\n")
    return folder


def _paths(folder: Path, split: str, shards: int) -> list[Path]:
    return [folder / f"{split}-{i:05}-of-{shards:05}.npy" for i in range(shards)]


def _index(path: Path) -> Path:
    return path.with_name(f"{path.stem}.index.npy")


def _write_shard(path: Path, dialogues: Iterator[Dialogue], width: int, vectors, encode) -> None:
    """The index first, then the vectors: whoever finds the vectors finds both."""
    rows, turns = [], []
    for d, dialogue in enumerate(dialogues):
        for t, turn in enumerate(dialogue.turns):
            if n := vectors(turn):
                rows.append((d, t, n))
                turns.append(turn)
    index = np.array(rows, np.int64).reshape(-1, 3)
    ends = np.cumsum(index[:, 2])
    with aside(_index(path)) as temporary, open(temporary, "wb") as file:
        np.save(file, index, allow_pickle=False)
    with aside(path) as temporary:
        # An empty file cannot be mapped: a shard without a recording keeps one vector of zeros.
        stored = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.uint16, shape=(max(1, int(index[:, 2].sum())), width))
        for i, x in encode(turns):
            if x.shape != (index[i, 2], width):
                raise ValueError(f"{x.shape} vectors of a turn, expected {(index[i, 2], width)}")
            stored[ends[i] - len(x) : ends[i]] = x.view(np.uint16)
        stored.flush()
        del stored


def _read(path: Path, width: int) -> tuple[np.ndarray, dict[tuple[int, int], slice]]:
    try:
        index = np.load(_index(path), allow_pickle=False)
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"missing or damaged ({' '.join(str(error).split())})", file=path,
                       mend=f"remove it and {_AGAIN}") from error
    ends = np.cumsum(index[:, 2])
    expected = (max(1, int(ends[-1]) if len(ends) else 0), width)
    if stored.shape != expected or stored.dtype != np.uint16:
        raise BadInput(f"{stored.dtype} {stored.shape}, expected uint16 {expected}", file=path,
                       mend=f"remove it and {_AGAIN}")
    places = {(int(d), int(t)): slice(int(end - n), int(end))
              for (d, t, n), end in zip(index, ends, strict=True)}
    return stored.view(ml_dtypes.bfloat16), places
