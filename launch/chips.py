"""What launching needs to know of a chip: its XLA flags with their reasons, its names in the cloud.

    python3 launch/chips.py explain v5e              the flags, and why each is set
    python3 launch/chips.py flags v5e:4x4            the flags on one line
    python3 launch/chips.py type v5e:4x4             v5litepod-16, as gcloud and xpk call it
    python3 launch/chips.py runtime v5e:4x4          the software version of a TPU VM
    python3 launch/chips.py flags quick              for programs that run shorter than they compile

A chip is given alone or as a topology; --slices=N adds what several slices need. TPU flags go into
LIBTPU_INIT_ARGS, GPU flags into XLA_FLAGS, both before JAX is imported. None of them changes what
is computed. Only the standard library is used: this runs where nothing is installed yet.

None of these flags was measured with these models: they are those of published training recipes
for the chips (MaxText and Google's TPU recipes; NVIDIA's JAX-Toolbox), each taken over only where
its reason holds here. Compilers learn: try a run without before believing in one.
"""

import argparse
import dataclasses
import importlib.metadata
import math
import sys

# (flag, reason)
OVERLAP = (
    ("--xla_tpu_enable_async_collective_fusion=true",
     "a collective is fused with the product beside it, so that the parameters that FSDP gathers "
     "travel while the chip multiplies"),
    ("--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
     "the same for all-gathers, which is what FSDP does before every layer"),
    ("--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
     "one collective may hide behind several products: those of one layer are often too short"),
    ("--xla_tpu_overlap_compute_collective_tc=true",
     "work of the tensor core is scheduled beside a collective that does not need it"),
    ("--xla_enable_async_all_gather=true",
     "an all-gather is begun as early as its input is there and waited for where it is used"),
)
SLICES = (
    ("--xla_tpu_enable_data_parallel_all_reduce_opt=true",
     "gradients are summed between slices over the data centre's network, which is slow: these "
     "sums run beside the backward pass"),
    ("--xla_tpu_data_parallel_opt_different_sized_ops=true",
     "the same where gradients differ in size, as those of towers do"),
)
GPU = (
    ("--xla_gpu_enable_latency_hiding_scheduler=true",
     "collectives run beside the layers before and after instead of between them; takes memory"),
    ("--xla_gpu_all_gather_combine_threshold_bytes=134217728",
     "what one layer of 1 to 4B gathers travels as one message, not as many small ones"),
    ("--xla_gpu_reduce_scatter_combine_threshold_bytes=134217728",
     "the same for its gradients"),
    ("--xla_gpu_enable_while_loop_double_buffering=true",
     "layers are one loop: unrolling two of them lets the next one's parameters be gathered early"),
)
# What `make test` and `make smoke` run with: a third to a half of the compiler's time.
QUICK = (
    ("--xla_backend_optimization_level=0",
     "programs of tiny models run for milliseconds and compile for seconds: less care is quicker"),
    ("--xla_llvm_disable_expensive_passes=true", "the same of what LLVM does by itself"),
    ("--xla_cpu_parallel_codegen_split_count=1",
     "a program in many parts keeps more cores busy, but with a sixth more work"),
)
QUICK_OLD = (
    ("--xla_cpu_use_fusion_emitters=false", "the older emitters make less code, for less time"),
)
# Of jaxlib, which then has the newer emitters alone, and stops at flags that it does not know.
WITHOUT_OLD = (0, 11)


@dataclasses.dataclass(frozen=True)
class Chip:
    """`prefix`: of a slice's type, whose number counts `counted` of each chip (cores on v4 and
    v5p); `accelerator`: GKE's label; `axes` of a topology; `own`: flags besides the common."""

    prefix: str = ""
    counted: int = 1
    runtime: str = ""
    accelerator: str = ""
    axes: int = 2
    own: tuple[tuple[str, str], ...] = ()


CHIPS = {
    "v4": Chip("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice", 3),
    "v5e": Chip("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 2),
    "v5p": Chip("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", 3),
    "v6e": Chip("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", 2, own=(
        ("--xla_tpu_scoped_vmem_limit_kib=98304",
         "fusions may use 96 MiB of the 128 MiB of fast memory that this generation has, several "
         "times what the compiler takes otherwise: larger tiles, fewer trips to HBM"),)),
    "a100": Chip(), "h100": Chip(), "h200": Chip(),
}
HOST = 4  # chips of a host of a slice of more than one host


@dataclasses.dataclass(frozen=True)
class Slice:
    """A topology such as v5e:4x4."""

    chip: Chip
    topology: str
    chips: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """Raises ValueError saying what is expected."""
        name, _, topology = text.partition(":")
        known = {n: c for n, c in CHIPS.items() if c.prefix}
        sizes = topology.split("x")
        if name not in known or not all(s.isdigit() and int(s) for s in sizes) or (
                len(sizes) != known[name].axes):
            examples = ", ".join(f"{n}:{'x'.join('4' * c.axes)}" for n, c in known.items())
            raise ValueError(f"{text!r} is no topology, which are written {examples}")
        return cls(known[name], topology, math.prod(map(int, sizes)))

    @property
    def type(self) -> str:
        return f"{self.chip.prefix}-{self.chips * self.chip.counted}"

    @property
    def hosts(self) -> int:
        return max(1, self.chips // HOST)


def flags(name: str, slices: int = 1) -> tuple[tuple[str, str], ...]:
    """(flag, reason) pairs of a chip; raises ValueError for an unknown one."""
    if name == "quick":
        return QUICK + (QUICK_OLD if _jaxlib() < WITHOUT_OLD else ())
    if name not in CHIPS:
        raise ValueError(f"no chip {name!r}, there are {', '.join(CHIPS)}")
    chip = CHIPS[name]
    return ((OVERLAP if chip.prefix else GPU) + chip.own
            + (SLICES if chip.prefix and slices > 1 else ()))


def _jaxlib() -> tuple[int, ...]:
    """The version installed for this Python; without one, a later one than any."""
    try:
        return tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    except importlib.metadata.PackageNotFoundError:
        return (sys.maxsize,)


def line(name: str, slices: int = 1) -> str:
    return " ".join(flag for flag, _ in flags(name, slices))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("explain", "flags", "type", "runtime"))
    parser.add_argument("chip", help="v5e, or v5e:4x4")
    parser.add_argument("--slices", type=int, default=1)
    given = parser.parse_args()
    name = given.chip.partition(":")[0]
    try:
        if given.what == "explain":
            print("\n".join(f"{flag}\n    {why}" for flag, why in flags(name, given.slices)))
        elif given.what == "flags":
            print(line(name, given.slices))
        else:
            chosen = Slice.parse(given.chip)
            print(chosen.type if given.what == "type" else chosen.chip.runtime)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
