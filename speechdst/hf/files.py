"""Safetensors files, one or sharded, read and written tensor by tensor.

A file is eight bytes (the header's length), a JSON header (name -> dtype, shape, offsets) and the
data. The reader goes by offsets itself: a memory map would stay resident as a whole, and
checkpoints are larger than the memory that is to spare beside the model.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from speechdst.data.dialogue import BadInput
from speechdst.files import write_text

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
          "BF16": np.dtype(ml_dtypes.bfloat16)}
_AGAIN = "download or copy the checkpoint again"
_SHARD = re.compile(r"(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file: its `dtype` as the file names it, and bytes [start, end) of the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self) -> np.ndarray:
        """The tensor. Raises `BadInput` for a dtype that is not one of `DTYPES`."""
        if self.dtype not in DTYPES:
            raise BadInput(f"is {self.dtype}, expected one of {', '.join(DTYPES)}", file=self.file,
                           record=self.name, mend="quantised checkpoints are not read")
        dtype = DTYPES[self.dtype]
        flat = np.fromfile(self.file, dtype, (self.end - self.start) // dtype.itemsize,
                           offset=self.start)
        return flat.reshape(self.shape)


def header(path: Path) -> dict[str, Stored]:
    """The tensors of one file by name.

    Raises:
      BadInput: no such file, not a safetensors file, or one that was cut off.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise BadInput(f"not a safetensors file, or cut off: {size} bytes with a header of "
                               f"{length}", file=path, mend=_AGAIN)
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        tensors = {
            name: Stored(path, name, x["dtype"], tuple(map(int, x["shape"])),
                         *(8 + length + int(offset) for offset in x["data_offsets"]))
            for name, x in entries.items()}
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", file=path, mend=_AGAIN) from error
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError,
            json.JSONDecodeError) as error:
        raise BadInput(f"not a safetensors file ({error})", file=path, mend=_AGAIN) from error
    end = max((t.end for t in tensors.values()), default=8 + length)
    if end != size:
        raise BadInput(f"the file is cut off or has been changed: {size} bytes, its header says "
                       f"{end}", file=path, mend=_AGAIN)
    for t in tensors.values():
        if t.dtype in DTYPES and t.end - t.start != math.prod(t.shape) * DTYPES[t.dtype].itemsize:
            raise BadInput(f"{t.dtype} {t.shape} in {t.end - t.start} bytes", file=path,
                           record=t.name, mend=_AGAIN)
    return tensors


def index(folder: Path, stem: str = "model") -> dict[str, Stored]:
    """The tensors of a checkpoint by name: of `<stem>.safetensors`, or of the shards that
    `<stem>.safetensors.index.json` lists.

    Raises:
      BadInput: neither is there, a shard lies outside the folder, is missing or damaged, or does
        not hold what the index says.
    """
    single, listing = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.exists():
        return header(single)
    if not listing.exists():
        if pickled := sorted(p.name for p in folder.glob("*.bin")):
            raise BadInput(f"no {single.name} there, only {pickled[0]}", file=folder,
                           mend="convert the checkpoint to safetensors")
        raise BadInput(f"no {single.name} there", file=folder,
                       mend="point at the folder of a downloaded checkpoint")
    try:
        weight_map = json.loads(listing.read_text("utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"not an index of safetensors ({error})", file=listing,
                       mend=_AGAIN) from error
    for shard in shards:
        # An index comes from elsewhere: it may only name files of its own folder.
        plain = isinstance(shard, str) and Path(shard).name == shard and "\\" not in shard
        if not plain or shard in ("", ".."):
            raise BadInput(f"shard {shard!r} is not a file name in this folder", file=listing,
                           field="weight_map", mend="do not use this checkpoint, or mend its index")
    tensors: dict[str, Stored] = {}
    for shard in shards:
        found = header(folder / shard)
        listed = {name for name, file in weight_map.items() if file == shard}
        if differ := sorted(listed ^ set(found)):
            raise BadInput(f"index and shard differ in {len(differ)} tensors: "
                           f"{', '.join(differ[:5])}", file=folder / shard, mend=_AGAIN)
        tensors |= found
    return tensors


def write(folder: Path, tensors: Iterable[tuple[str, int, object]], stem: str = "model",
          shard_bytes: int = 5_000_000_000) -> None:
    """Writes one file, or shards of at most `shard_bytes` with their index, as Hugging Face does.

    Args: tensors: (name, bytes, function that makes the array), called one shard at a time.
    What the folder held under `stem` before is replaced, and stays until the new one is written.
    """
    shards: list[list] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t[1] for t in shards[-1]) + tensor[1] > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    names = [f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = [f"{stem}.safetensors"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, shard in zip(names, shards, strict=True):
        arrays = {n: np.ascontiguousarray(make()) for n, _, make in shard}
        save_file(arrays, folder / f"{name}.tmp", {"format": "pt"})
        del arrays
    for name in names:
        os.replace(folder / f"{name}.tmp", folder / name)
    if len(shards) > 1:
        weight_map = {t[0]: name for name, shard in zip(names, shards, strict=True) for t in shard}
        total = sum(t[1] for shard in shards for t in shard)
        names.append(f"{stem}.safetensors.index.json")
        write_text(folder / names[-1], json.dumps(
            {"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")
    for old in folder.glob(f"{stem}*"):
        if _SHARD.fullmatch(old.name.removeprefix(stem)) and old.name not in names:
            old.unlink()
