"""How long a compiled step would take at least, by what its chips can do.

Three times, as if each were all there is: products at the peak of the matrix units, memory traffic
at the bandwidth of the memory, collectives at that of the links; the step takes the longest of
them, as if the others hid behind it perfectly. What stands between that and a measurement: matrix
units that are not filled, elementwise work, latencies, collectives that nothing hides, the host.

Collectives are timed as ring algorithms over the axes of the torus that their group spans (see
"How to Scale Your Model", jax-ml.github.io/scaling-book, "Sharded Matrices"): V bytes in all pass a
chip in V (n - 1) / n / W seconds, an all-reduce twice; W is two links for each axis that is closed
to a ring and one for each that is not. What crosses slices also passes the network between them.
"""

import dataclasses
from collections.abc import Sequence

from speechdst.flops import Chip
from speechdst.hlo import Collective, Program

# An axis of the torus is a ring if it is a whole axis of the pod (two dimensions), or made of whole
# cubes of 4 x 4 x 4 (three).
_RING = {2: 16, 3: 4}
_TIMES = {"all-reduce": 2.0, "all-to-all": 0.25, "ragged-all-to-all": 0.25}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a device is: its slice, and its coordinates in the torus of the slice."""

    slice: int
    coords: tuple[int, ...]


def places(devices: Sequence) -> list[Place]:
    """Of devices in the order of the mesh (`mesh.devices.flat`)."""
    return [Place(getattr(d, "slice_index", 0), tuple(d.coords)) for d in devices]


def collective_seconds(c: Collective, chip: Chip, at: Sequence[Place]) -> tuple[float, float]:
    """(seconds on the links of a slice, seconds between slices) of one run."""
    n = len(c.group)
    if n < 2:
        return 0.0, 0.0
    group = [at[i] for i in c.group]
    slices = len({p.slice for p in group})
    inside = [p for p in group if p.slice == group[0].slice]
    volume = c.bytes * _TIMES.get(c.kind, 1.0)
    between = volume / len(inside) * (slices - 1) / slices / chip.dcn
    if len(inside) == 1:
        return 0.0, between
    dimensions = 2 if chip.links == 4 else 3
    width = 0.0
    for axis in range(dimensions):
        own = len({p.coords[axis] for p in inside})
        whole = len({p.coords[axis] for p in at})
        if own > 1:
            ring = own == whole and whole % _RING[dimensions] == 0
            width += chip.link * (2 if ring else 1)
    if c.kind in ("collective-permute", "collective-broadcast"):
        return c.bytes / chip.link, between
    return volume * (len(inside) - 1) / len(inside) / width, between


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one step by resource; `mfu`: model FLOPs over what the chips could do in the
    longest of them."""

    compute: float
    memory: float
    links: float
    network: float
    mfu: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.links, self.network)

    @property
    def limit(self) -> str:
        names = {"compute": self.compute, "memory": self.memory, "links": self.links,
                 "network": self.network}
        return max(names, key=names.get)

    @property
    def communication(self) -> float:
        """Communication time over compute time, none of it hidden."""
        return (self.links + self.network) / self.compute


def estimate(program: Program, model_flops: float, chip: Chip, at: Sequence[Place]) -> Estimate:
    """`model_flops`: of the whole step, over all devices (`flops.step_flops`).

    Products are those of the program, recomputation included, or the model's own if those are more
    (kernels hide theirs).
    """
    compute = max(program.flops, model_flops / len(at)) / chip.flops
    timed = [(c.times, *collective_seconds(c, chip, at)) for c in program.collectives]
    made = Estimate(compute, program.bytes / chip.hbm_bandwidth,
                    sum(n * inside for n, inside, _ in timed),
                    sum(n * between for n, _, between in timed), 0.0)
    return dataclasses.replace(
        made, mfu=model_flops / len(at) / chip.flops / max(made.seconds, 1e-12))
