"""Mapping tables: where each of our parameters stands in a Hugging Face checkpoint.

A family is one table. A parameter whose tensor name holds "{i}" is stacked: entry i of its leading
axis is the tensor of layer i (`nn.Linear.weight` is [out, in], our kernels are [in, out]).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a Hugging Face checkpoint.

    `name`: with "{i}" for the number of the layer where our parameter stacks the layers.
    `axes`: the transposition from theirs to ours (of one layer where stacked); None: as it is.
    `aliases`: other names that checkpoints use for it; they are read, never written.
    """

    name: str
    axes: tuple[int, ...] | None = None
    aliases: tuple[str, ...] = ()


Table = dict[str, Tensor]  # our flat parameter path -> its tensor

LINEAR = (1, 0)  # nn.Linear.weight [out, in] -> kernel [in, out]
CONV1D = (2, 1, 0)  # nn.Conv1d.weight [out, in / groups, taps] -> kernel [taps, in / groups, out]


def prefixed(table: Table, first: str, *others: str) -> Table:
    """The table with `first` before every name, and as aliases the names behind `others`: the
    same tower as part of larger models."""
    names = lambda t: (t.name, *t.aliases)
    return {path: dataclasses.replace(t, name=first + t.name, aliases=tuple(
        prefix + name for prefix in (first, *others) for name in names(t))[1:])
        for path, t in table.items()}
