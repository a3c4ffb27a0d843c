"""Reads a compiled program's text (HLO): collectives, FLOPs and traffic, loops counted in full.

XLA's own cost analysis counts the body of a loop once, so a scanned stack of layers looks like one
layer. Here every computation counts as often as it runs: the trip count stands beside a loop
(`known_trip_count`), or is the constant that its condition compares with. Custom calls (Pallas
kernels) hide what they compute.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
               "collective-permute", "collective-broadcast")
_SIZES = {"pred": 1, "token": 0, "opaque": 0, "s4": 0.5, "u4": 0.5, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|branch_computations|true_computation|"
                     r"false_computation|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_SLICES = ("dynamic-slice", "slice", "gather")
# What only renames, or moves nothing through memory by itself.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
         "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier"}
# What calls a computation of single elements.
_PER_ELEMENT = {"all-reduce", "reduce-scatter", "reduce", "reduce-window", "scatter",
                "select-and-scatter", "sort", "map"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """`bytes`: the whole array, as it is gathered or reduced, of one device's group; `group`: the
    partitions of the first group; `times`: how often it runs in the program."""

    kind: str
    bytes: int
    group: tuple[int, ...]
    times: float


@dataclasses.dataclass(frozen=True)
class Program:
    """What one device does in one run.

    `flops`: of products and convolutions; `bytes`: read from and written to device memory by all
    instructions; `unknown_loops`: loops counted once, since their length depends on data;
    `kernels`: runs of custom calls, whose FLOPs are not in `flops`.
    """

    collectives: tuple[Collective, ...]
    flops: float
    bytes: float
    unknown_loops: int
    kernels: float


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    inside: str  # what stands between the parentheses
    rest: str  # attributes
    root: bool

    def called(self) -> list[str]:
        return [name.strip().lstrip("%") for group in _CALLED.findall(self.rest)
                for name in group.strip("{}").split(",")]


def analyze(text: str, taken: float = 1.0) -> Program:
    """The totals of a program as `jax.stages.Compiled.as_text` prints it; `taken`: how often, of
    all times, a conditional takes the larger of its branches."""
    computations, entry = _parse(text)
    found: collections.Counter = collections.Counter()
    total = collections.Counter()

    def visit(name: str, times: float, memory: bool) -> None:
        """`memory`: its instructions go through memory (those of a fusion do not)."""
        types = {i.name: i.type for i in computations[name]}
        for i in computations[name]:
            base = i.opcode.removesuffix("-start")
            if base in COLLECTIVES:
                group = _group(i)
                size = sum(_bytes(types[o]) for o in i.operands)
                whole = size * len(group) if base == "all-gather" else size
                found[base, whole, group] += times
            if i.opcode in ("dot", "convolution"):
                total["flops"] += times * _flops(i, types)
            total["kernels"] += times * (i.opcode == "custom-call" and "tpu_custom_call" in i.rest)
            if memory and i.opcode not in _FREE and not i.opcode.endswith("-done"):
                total["bytes"] += times * _traffic(i, types, computations)
            if i.opcode == "while":
                length = _trips(i, computations)
                total["unknown"] += length is None
                visit(_attribute(i, "body"), times * (length or 1), memory)
            elif i.opcode == "conditional":
                visit(max(i.called(), key=lambda c: len(computations[c])), times * taken, memory)
            elif base not in _PER_ELEMENT:
                for inner in i.called():
                    visit(inner, times, memory and i.opcode == "call")

    visit(entry, 1, True)
    return Program(
        tuple(Collective(*key, times) for key, times in sorted(found.items())),
        float(total["flops"]), float(total["bytes"]), total["unknown"], total["kernels"])


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = header[2]
            computations[current] = []
            entry = current if header[1] else entry
        elif " = " in line and current:
            computations[current].append(_instruction(line.strip()))
    if not entry:
        raise ValueError("no ENTRY computation: not the text of an HLO module")
    return computations, entry


def _instruction(line: str) -> _Instruction:
    name, _, rest = line.partition(" = ")
    root, name = name.startswith("ROOT "), name.removeprefix("ROOT ").lstrip("%")
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
        kind, rest = rest[:end], rest[end + 1:]
    else:
        kind, _, rest = rest.partition(" ")
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1:end]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return _Instruction(name, kind, opcode, operands, inside, rest[end + 1:], root)


def _closing(text: str, start: int) -> int:
    """The parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"no closing parenthesis in {text[:100]!r}")


def _arrays(kind: str, memory: bool = False) -> Iterator[tuple[float, list[int]]]:
    """Bytes of an element, and dimensions, of the arrays of a type; with `memory` only those that
    lie in device memory, not in a core's own (layouts with a memory space, "S(1)")."""
    for name, dims, layout in _ARRAY.findall(kind):
        if memory and "S(" in layout:
            continue
        bits = re.match(r"[a-z]+(\d+)", name)
        size = _SIZES.get(name)
        size = int(bits[1]) / 8 if size is None and bits else size or 0
        yield size, [int(d) for d in dims.split(",") if d]


def _bytes(kind: str, memory: bool = False) -> int:
    return int(sum(size * math.prod(dims) for size, dims in _arrays(kind, memory)))


def _attribute(i: _Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", i.rest)
    return found[1] if found else ""


def _trips(loop: _Instruction, computations: dict) -> int | None:
    """How often a loop runs; None if that depends on data."""
    if known := re.search(r'known_trip_count"?\s*:\s*\{\s*"?n"?\s*:\s*"?(\d+)', loop.rest):
        return int(known[1])
    condition = computations.get(_attribute(loop, "condition"), [])
    ends = [end for i in condition if (end := _integer(i)) is not None]
    return -(-ends[0] // _stride(loop, condition, computations)) if len(ends) == 1 else None


def _stride(loop: _Instruction, condition: list[_Instruction], computations: dict) -> int:
    """What a round adds to the number that a loop's condition compares: 1, but where XLA does the
    work of several in one (products whose operand goes around between devices)."""
    body = {i.name: i for i in computations[_attribute(loop, "body")]}
    names = {i.name: i for i in condition}
    compared = [names[o] for i in condition if i.opcode == "compare" for o in i.operands]
    places = [re.search(r"\bindex=(\d+)", i.rest) for i in compared
              if i.opcode == "get-tuple-element"]
    result = next((i for i in body.values() if i.root and i.opcode == "tuple"), None)
    if not result or not places:
        return 1
    update = body[result.operands[int(places[0][1])]]
    added = [_integer(body[o]) for o in update.operands] if update.opcode == "add" else []
    return next((n for n in added if n), 1)


def _integer(i: _Instruction) -> int | None:
    """A scalar constant, if it is one."""
    scalar = i.opcode == "constant" and re.match(r"[su]\d+\[\]", i.type)
    return int(i.inside) if scalar else None


def _group(i: _Instruction) -> tuple[int, ...]:
    """The first group of partitions that take part together."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\]"
                         r"(?:T\(([\d,]+)\))?\))? \{([^}]*)\}", i.rest):
        return _along(*mesh.groups())
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", i.rest):
        return tuple(int(n) for n in listed[1].split(","))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", i.rest):
        shape = [int(n) for n in iota[1].split(",")]
        return tuple(_iota(iota[2], iota[3]).reshape(shape)[0].tolist())
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", i.rest):
        return int(pairs[1]), int(pairs[2])
    return ()


def _iota(dims: str, order: str | None) -> np.ndarray:
    shape = [int(n) for n in dims.split(",")]
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose([int(n) for n in order.split(",")]) if order else ids


def _along(axes: str, dims: str | None, order: str | None, over: str) -> tuple[int, ...]:
    """The group of partition 0 over some axes of a mesh, e.g. "'a'=2,'b'=4" over "'b':(2)2": of
    the axis b, cut into 2 x 2, the second part."""
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    whole = math.prod(sizes.values())
    ids = _iota(dims or str(whole), order).reshape(tuple(sizes.values()))
    taken = {name: (int(pre or 1), int(size) if size else None)
             for name, pre, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", over)}
    for k, (name, n) in enumerate(sizes.items()):
        pre, size = taken.get(name, (1, 1))
        size = n if size is None else size
        after = n // (pre * size)
        ids = ids.take([j * after for j in range(size)], axis=k)
    return tuple(ids.reshape(-1).tolist())


def _flops(i: _Instruction, types: dict[str, str]) -> float:
    (_, out), (_, a), (_, b) = (next(_arrays(t)) for t in (
        i.type, types[i.operands[0]], types[i.operands[1]]))
    if i.opcode == "dot":
        inner = [int(n) for n in re.search(r"lhs_contracting_dims=\{([\d,]*)\}",
                                           i.rest)[1].split(",") if n]
        return 2.0 * math.prod(out) * math.prod(a[n] for n in inner)
    # Only taps that meet an element count: products with batches come as dilated convolutions.
    left, right, result = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest).groups()
    total = 2.0 * out[result.index("b")] * out[result.index("f")] * b[right.index("i")]
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(
        r"window=\{([^}]*)\}", i.rest) or ["", ""])[1]))
    for k in range(len(left) - 2):
        at = lambda name, default, k=k: window.get(name, "x".join([default] * (k + 1))).split(
            "x")[k]
        taps, stride = int(at("size", "1")), int(at("stride", "1"))
        holes, spread = int(at("lhs_dilate", "1")), int(at("rhs_dilate", "1"))
        low = int(at("pad", "0_0").split("_")[0])
        place = (np.arange(out[result.index(str(k))])[:, None] * stride - low
                 + np.arange(taps) * spread)
        there = (place % holes == 0) & (place >= 0) & (
            place // holes < a[left.index(str(k))])
        total *= int(there.sum())
    return total


def _traffic(i: _Instruction, types: dict[str, str], computations: dict) -> int:
    """Bytes of device memory that an instruction reads and writes."""
    write = _bytes(i.type, memory=True)
    if i.opcode == "copy-start":
        return write  # its type names source and destination
    if i.opcode == "slice-start":  # ((operand), result, context)
        size, dims = list(_arrays(i.type))[len(i.operands)]
        return int(size * math.prod(dims))
    if i.opcode in _SLICES:
        return 2 * write
    if i.opcode == "dynamic-update-slice":
        return 2 * _bytes(types[i.operands[1]], memory=True)
    if i.opcode != "fusion":
        return write + sum(_bytes(types[o], memory=True) for o in i.operands)
    body = computations[i.called()[0]]
    root = next(j for j in body if j.root)
    if root.opcode == "dynamic-update-slice":
        write = _bytes({j.name: j.type for j in body}[root.operands[1]])
    return write + sum(
        min(_bytes(types[o], memory=True), _read(body, n, computations))
        for n, o in enumerate(i.operands))


def _read(body: list[_Instruction], number: int, computations: dict) -> float:
    """Bytes that a fusion reads of its operand: a slice where it only slices it, nothing where it
    only writes into it, else all there are."""
    own = next((j for j in body if j.opcode == "parameter" and int(j.inside) == number), None)
    total, names = 0.0, {own.name} if own else set()
    for j in body:
        for place, name in enumerate(j.operands):
            if name not in names:
                continue
            if j.opcode == "bitcast" and not j.root:
                names.add(j.name)
            elif j.opcode == "fusion":
                total += _read(computations[j.called()[0]], place, computations)
            elif j.opcode in _SLICES and place == 0:
                total += _bytes(j.type)
            elif j.opcode != "dynamic-update-slice" or place:
                return math.inf
    return total
