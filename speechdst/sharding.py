"""The mesh and the rules: the only file that names mesh axes.

Axes: `data` (batch rows; it alone crosses slices, as long as it can), `fsdp` (batch rows, and
parameters split over it), `tensor` (heads, MLP columns and the vocabulary). Automatic axis types:
parameters, batch and a few activations are annotated, XLA propagates the rest. Whatever an axis
does not divide stays whole along it.
"""

import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from speechdst.data.dialogue import BadInput

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")

# Parameters: first match wins; the specs are those of one layer, stacked layers get a leading None.
# A kernel is split the same way with and without its LoRA, so that both products agree.
RULES = (
    (r"(^|/)(q|k|v|gate|up|lm_head|ctc_head)/kernel$", ("fsdp", "tensor")),
    (r"(^|/)(o|down)/kernel$", ("tensor", "fsdp")),
    (r"(^|/)(q|k|v|gate|up)/lora_a$", ("fsdp", None)),
    (r"(^|/)(q|k|v|gate|up)/lora_b$", (None, "tensor")),
    (r"(^|/)(o|down)/lora_a$", ("tensor", None)),
    (r"(^|/)(o|down)/lora_b$", (None, "fsdp")),
    (r"(^|/)embedding$", ("tensor", "fsdp")),
    (r"(^|/)(out|project)/kernel$", ("fsdp", None)),
    (r"(^|/)(conv\w*/(\d+/)?kernel|position_conv/direction)$", (None, None, "fsdp")),
    (r"", ()),
)

# Activations, where propagation needs help; models name the kind and know nothing of axes.
ACTIVATIONS = {
    "stream": (ROWS, None, None),  # [rows, positions, width]
    "columns": (ROWS, None, "tensor"),  # [rows, positions, columns of a projection]
    "heads": (ROWS, None, "tensor", None),  # [rows, positions, heads, head width]
    "cache": (None, ROWS, None, "tensor", None),  # [layers, rows, positions, heads, head width]
    "own cache": (None, ROWS, None, None, "tensor", None),  # the same by branch of a row
    # Embeddings while they are read: whole, since XLA's partitioner (of jaxlib 0.12) stops at a
    # lookup in a table that is split while some axes of the mesh are manual, as in `apart`.
    "table": (None, None),  # [vocabulary, width]
    "tables": (None, None, None),  # several of them, [streams, vocabulary, width]
    "whole": (),  # what every host fetches
}


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh over all devices; `data` -1 takes what the other axes leave.

    Devices of several slices (TPUs behind different networks) are arranged so that `data` crosses
    the slices, then `fsdp`, never `tensor`.

    Raises:
      BadInput: the axes do not multiply to the number of devices, or cannot cross the slices.
    """
    devices = jax.devices() if devices is None else devices
    if data == -1:
        data = len(devices) // (fsdp * tensor)
    if data * fsdp * tensor != len(devices):
        raise BadInput(f"mesh data={data} fsdp={fsdp} tensor={tensor} needs "
                       f"{data * fsdp * tensor} devices, there are {len(devices)}", field="mesh",
                       mend="with data=-1 it takes what the other axes leave")
    shape, types = (data, fsdp, tensor), (AxisType.Auto,) * 3
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    if slices > 1:
        return Mesh(across_slices(shape, slices, devices), AXES, axis_types=types)
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # no whole axis of the slice is as long as one of these
        placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(placed, AXES, axis_types=types)


def across_slices(shape: tuple[int, int, int], slices: int, devices) -> np.ndarray:
    """The devices of several slices in `shape`, see `make_mesh`."""
    data, fsdp, tensor = shape
    outer = math.gcd(data, slices)
    if fsdp % (slices // outer):
        raise BadInput(f"data={data} and fsdp={fsdp} cannot be shared by {slices} slices",
                       field="mesh", mend="make data a multiple of the number of slices")
    between = (outer, slices // outer, 1)
    within = (data // outer, fsdp // between[1], tensor)
    return mesh_utils.create_hybrid_device_mesh(
        within, between, devices, allow_split_physical_axes=True)


def mesh_of(params: dict) -> Mesh:
    """The mesh that these parameters lie on."""
    where = next(iter(params.values())).sharding
    if isinstance(where, NamedSharding):
        return where.mesh
    return make_mesh(devices=sorted(where.device_set, key=lambda d: d.id))


def _fitted(axes: tuple, shape: tuple[int, ...], mesh) -> P:
    """`axes` by dimension, without those that do not divide it (of several the first that do),
    those of one device, and those whose devices are on their own here (`apart`)."""
    there = set(mesh.axis_names) - set(mesh.manual_axes)

    def one(names, size):
        kept: tuple[str, ...] = ()
        for name in (names,) if isinstance(names, str) else names or ():
            if name not in there:
                continue
            if size % math.prod(mesh.shape[n] for n in (*kept, name)):
                break
            kept += (name,) if mesh.shape[name] > 1 else ()
        return kept if len(kept) > 1 else kept[0] if kept else None

    return P(*(one(names, size) for names, size in zip(axes, shape, strict=False)))


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The partition of a parameter by its path."""
    axes = next(axes for pattern, axes in RULES if re.search(pattern, path))
    axes = (None,) * (len(shape) - len(axes)) + axes if len(shape) >= len(axes) else ()
    return _fitted(axes, shape, mesh)


def parameters(shapes: dict, mesh: Mesh) -> dict:
    """Shardings of flat parameters: path -> NamedSharding."""
    return {path: NamedSharding(mesh, spec(path, x.shape, mesh)) for path, x in shapes.items()}


def like_parameters(tree, mesh: Mesh):
    """Shardings of an optimizer state: its moments lie as the parameters they belong to."""

    def one(path, x):
        # Moments are dicts of flat parameters, so the last key of their path is a parameter's.
        keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        return NamedSharding(mesh, spec(keys[-1], x.shape, mesh) if keys else P())

    return jax.tree_util.tree_map_with_path(one, tree)


def rows(mesh: Mesh, count: int) -> NamedSharding:
    """Batch arrays of `count` rows: their leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, _fitted((ROWS,), (count,), mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def ways(mesh: Mesh) -> int:
    """How many parts a batch is split into, if they divide its rows."""
    return math.prod(mesh.shape[a] for a in ROWS)


def repeats(mesh: Mesh, count: int) -> int:
    """How many times each of `count` rows is computed, since an axis does not divide them."""
    return ways(mesh) * rows(mesh, count).shard_shape((count,))[0] // count


@functools.cache
def share(mesh: Mesh, count: int) -> tuple[int, ...]:
    """Which of `count` rows of a batch the devices of this host hold."""
    places = rows(mesh, count).addressable_devices_indices_map((count,)).values()
    return tuple(sorted({row for (where,) in places for row in range(count)[where]}))


def put(batch, mesh: Mesh, count: int | None = None):
    """A batch (numpy) over the mesh: of `count` rows this host's `share`, None: the whole batch."""

    def one(x):
        total = len(x) if count is None else count
        own = range(total) if count is None else share(mesh, total)
        return jax.make_array_from_callback(
            (total, *x.shape[1:]), rows(mesh, total),
            lambda at: x[np.searchsorted(own, np.arange(total)[at[0]])])

    if jax.process_count() == 1:  # all rows are its own: one transfer for the whole batch
        return jax.device_put(batch, jax.tree.map(lambda x: rows(mesh, len(x)), batch))
    return jax.tree.map(one, batch)


def constrain(x, kind: str):
    """x laid out as this kind of activation lies on the mesh of `jax.set_mesh`; without one, x."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(
        x, NamedSharding(mesh, _fitted(ACTIVATIONS[kind], x.shape, mesh)))


def apart(function: Callable, rows, whole):
    """`function(rows, whole)`, computed along `data` by every device for its own rows: scalars,
    which are added up at the end, and arrays with the rows' leading axis.

    So gradients of `whole` are added up once, in its own precision, after the backward pass. Left
    to itself XLA does so for every use of every layer, in the precision that it is computed in.

    Args:
      function: no row depends on another; what it draws it draws for all rows, and takes
        `own_rows` of it.
      rows: pytree of arrays whose leading axes are rows; whole: pytree of what all rows need.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else mesh.shape["data"]
    if parts == 1 or any(len(x) % parts for x in jax.tree.leaves(rows)):
        return function(rows, whole)
    each = lambda rows, whole: jax.tree.map(lambda x: jnp.asarray(x)[None], function(rows, whole))
    found = jax.shard_map(each, in_specs=(P("data"), P()), out_specs=P("data"),
                          axis_names={"data"}, check_vma=False)(rows, whole)
    return jax.tree.map(lambda x: x.sum(0) if x.ndim == 1 else x.reshape(-1, *x.shape[2:]), found)


def own_rows(function: Callable, count: int):
    """Of the array `function(rows)` what belongs to the `count` rows at hand: that of all rows
    within `apart`, elsewhere all of it."""
    mesh = jax.sharding.get_abstract_mesh()
    if "data" not in mesh.manual_axes:
        return function(count)
    whole = function(count * mesh.shape["data"])
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index("data") * count, count)


def by_rows(function: Callable, rows, whole):
    """`function(rows, whole)`, computed by every device for its own rows without a word to others.

    Loops over chunks that depend on the data would otherwise wait for all devices in every turn.

    Args:
      function: its results have the rows' leading axis and no row depends on another.
      rows: pytree of arrays with the same leading axis; whole: pytree of what all rows need.
    """
    mesh, count = jax.sharding.get_abstract_mesh(), len(jax.tree.leaves(rows)[0])
    if mesh.empty or mesh.size == 1:
        return function(rows, whole)
    split = _fitted((ROWS,), (count,), mesh)
    if split[0] is None:
        return function(rows, whole)
    names = {split[0]} if isinstance(split[0], str) else set(split[0])
    return jax.shard_map(function, in_specs=(split, P()), out_specs=split, axis_names=names,
                         check_vma=False)(rows, whole)


def platform() -> str:
    """What a program that is traced now will run on ("cpu", "tpu", "cuda"): the devices of the mesh
    in context, else JAX's default."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    name = device.platform if device else jax.default_backend()
    return "cuda" if name == "gpu" else name


def copies(heads: int, groups: int) -> int:
    """How often `groups` key heads, which `heads` query heads share, are to be repeated for every
    device of `tensor` to have its own (1: they need not, or it would not help)."""
    mesh = jax.sharding.get_abstract_mesh()
    tensor = 1 if mesh.empty else mesh.shape["tensor"]
    times = tensor // math.gcd(tensor, groups)
    return times if (heads // groups) % times == 0 else 1


def by_rows_and_heads(function: Callable, heads, rows):
    """`function(heads, rows)`, computed by every device for its own rows and heads: what XLA cannot
    split, as kernels and loops over rows.

    Args:
      function: its results have the axes of `heads`, and no row or head depends on another.
      heads: arrays [rows, heads, ...]; rows: pytree of arrays [rows, ...].
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(heads, rows)
    split = _fitted((ROWS, "tensor"), heads[0].shape[:2], mesh)
    names = set(mesh.axis_names) - set(mesh.manual_axes)
    return jax.shard_map(function, in_specs=(split, P(split[0])), out_specs=split,
                         axis_names=names, check_vma=False)(heads, rows)
