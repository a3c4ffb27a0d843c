"""Hugging Face checkpoints in and out of (sharded) arrays, by the tables of `hf.table`.

Everything is checked against the headers before anything is read. Tensors are read one by one and
placed where they belong, stacked ones layer by layer: the host holds one tensor at a time.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from speechdst.data.dialogue import BadInput
from speechdst.hf import files
from speechdst.hf.table import Table, Tensor

_FEW = 8  # parameters named in an error


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A parameter and the tensors it is made of: one, or one a layer."""

    path: str
    tensor: Tensor
    stored: list[files.Stored]
    target: jax.ShapeDtypeStruct

    @property
    def stacked(self) -> bool:
        return "{i}" in self.tensor.name


def load(folder: str | Path, table: Table, template: dict[str, jax.ShapeDtypeStruct],
         ignored: Sequence[str] = (), stem: str = "model", progress: bool = False
         ) -> dict[str, jax.Array]:
    """The parameters of a checkpoint.

    Args:
      template: our path -> shape, dtype and sharding (None: the first device) to load it as; the
        paths of the table.
      ignored: regular expressions of tensors that the checkpoint may have and we do not need.
      stem: of the file names, "model" or "adapter_model".
      progress: show a bar.

    Raises:
      BadInput: a file is missing, damaged or outside the folder, a tensor is of another dtype, or
        tensors are missing, extra or misshapen (which lists them). Nothing has been read then.
    """
    folder = Path(folder)
    stored = files.index(folder, stem)
    parts = _fit(folder, stored, table, template, ignored)
    params = {}
    with _bar(progress, folder.name, sum(s.end - s.start for p in parts for s in p.stored)) as read:
        for part in parts:
            params[part.path] = _place(part, read)
    return params


def _fit(folder, stored, table, template, ignored) -> list[_Placed]:
    if set(table) != set(template):
        raise ValueError(f"table and template differ in {sorted(set(table) ^ set(template))[:5]}")
    wrong, parts, used = [], [], set()
    for path, tensor in table.items():
        target = template[path]
        layers = range(target.shape[0]) if "{i}" in tensor.name else (0,)
        chosen = []
        for i in layers:
            names = [name.format(i=i) for name in (tensor.name, *tensor.aliases)]
            name = next((n for n in names if n in stored), None)
            if name is None:
                wrong.append(f"{names[0]} missing")
                continue
            used.add(name)
            chosen.append(stored[name])
            expected = their_shape(tensor, target.shape)
            if stored[name].shape != expected:
                wrong.append(f"{name} {stored[name].shape} instead of {expected}")
        parts.append(_Placed(path, tensor, chosen, target))
    wrong += [f"{name} extra" for name in stored
              if name not in used and not any(re.search(p, name) for p in ignored)]
    if wrong:
        more = f"; and {len(wrong) - _FEW} more" * (len(wrong) > _FEW)
        raise BadInput(f"{len(wrong)} tensors of the checkpoint do not fit this model: "
                       f"{'; '.join(wrong[:_FEW])}{more}", file=folder,
                       mend="use the checkpoint of the model that the config names")
    for s in (s for part in parts for s in part.stored):
        if s.dtype not in files.DTYPES:
            raise BadInput(f"is {s.dtype}, expected one of {', '.join(files.DTYPES)}", file=s.file,
                           record=s.name, mend="quantised checkpoints are not read")
    return parts


def their_shape(tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a tensor (of one layer) in the checkpoint, of a parameter of this shape."""
    ours = shape[1:] if "{i}" in tensor.name else shape
    if tensor.axes is None:
        return tuple(ours)
    return tuple(ours[a] for a in np.argsort(tensor.axes))


def _place(part: _Placed, read) -> jax.Array:
    """Reads the tensors of a parameter to the devices; transposition and cast happen there."""
    target = part.target
    sharding = target.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    raw_sharding = _theirs(sharding, part)
    start, put = _placing(part.stacked, target.shape, target.dtype, sharding, part.tensor.axes)
    result = start()
    for i, stored in enumerate(part.stored):
        # What was read is let go before it is transposed, and waiting keeps tensors from queueing
        # up: of host memory one tensor is in use.
        x = jax.block_until_ready(_to_devices(stored.read(), raw_sharding))
        result = jax.block_until_ready(put(result, x, i))
        del x
        read(stored.end - stored.start)
    return result


def _to_devices(raw: np.ndarray, sharding) -> jax.Array:
    return jax.make_array_from_callback(raw.shape, sharding, lambda at: raw[at])


@functools.cache  # parameters of one shape share their compiled programs
def _placing(stacked: bool, shape, dtype, sharding, axes):
    """(() -> what to start with, (that, tensor, layer) -> with the tensor in its place)."""
    turn = lambda x: (x if axes is None else x.transpose(axes)).astype(dtype)
    if not stacked:
        return lambda: None, jax.jit(lambda _, x, i: turn(x), out_shardings=sharding)
    put = lambda stack, x, i: jax.lax.dynamic_update_index_in_dim(stack, turn(x), i, 0)
    return (jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=sharding),
            jax.jit(put, donate_argnums=0, out_shardings=sharding))


def _theirs(sharding, part: _Placed):
    """The sharding of a tensor as it is read, whose transpose (in the stack) is `sharding`."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    n = len(part.target.shape)
    ours = (*sharding.spec, *(None,) * (n - len(sharding.spec)))[1 if part.stacked else 0 :]
    axes = part.tensor.axes or range(len(ours))
    return NamedSharding(sharding.mesh, P(*(ours[a] for a in np.argsort(axes))))


@contextlib.contextmanager
def _bar(shown: bool, name: str, total: int):
    """A function that is told the bytes that were read."""
    if not shown:
        yield lambda n: None
        return
    with Progress(TextColumn(f"reading {name}"), BarColumn(), DownloadColumn(),
                  TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda n: bar.advance(task, n)


def save(folder: str | Path, params: dict[str, jax.Array], table: Table, dtype=None,
         stem: str = "model", shard_bytes: int = 5_000_000_000) -> None:
    """Writes parameters as a checkpoint of the same layout, of `dtype` (None: as they are).

    Parameters and table must have the same paths: LoRA is merged before, or saved apart.
    """
    if set(table) != set(params):
        raise ValueError(f"table and parameters differ in {sorted(set(table) ^ set(params))[:5]}")
    tensors = []
    for path, tensor in table.items():
        value = params[path]
        as_type = np.dtype(dtype or value.dtype)
        shape = their_shape(tensor, value.shape)
        for i in range(value.shape[0]) if "{i}" in tensor.name else (None,):
            make = functools.partial(_turned_back, value, i, tensor, as_type)
            size = int(np.prod(shape, dtype=np.int64)) * as_type.itemsize
            tensors.append((tensor.name.format(i=i), size, make))
    files.write(Path(folder), tensors, stem, shard_bytes)


def _turned_back(value, i, tensor: Tensor, dtype) -> np.ndarray:
    array = np.asarray(value if i is None else value[i]).astype(dtype)
    return array if tensor.axes is None else array.transpose(np.argsort(tensor.axes))
