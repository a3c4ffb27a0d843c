"""The mesh and the rules: the only file that names mesh axes.

Axes: `data` (batch rows), `fsdp` (batch rows, and parameters split over it), `tensor` (heads and
MLP columns). Automatic axis types: parameters and batch are annotated, XLA propagates the rest.
"""

import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")

# First match wins; the specs are those of one layer, stacked layers get a leading None.
RULES = (
    (r"(^|/)(q|k|v|gate|up)/kernel$", ("fsdp", "tensor")),
    (r"(^|/)(o|down)/kernel$", ("tensor", "fsdp")),
    (r"(^|/)(q|k|v|gate|up)/lora_b$", (None, "tensor")),
    (r"(^|/)(o|down)/lora_a$", ("tensor", None)),
    (r"(^|/)embedding$", ("tensor", "fsdp")),
    (r"(^|/)(lm_head|out|project|ctc_head)/kernel$", ("fsdp", None)),
    (r"(^|/)(conv\w*/(\d+/)?kernel|position_conv/direction)$", (None, None, "fsdp")),
    (r"", ()),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh over all devices; `data` -1 takes what the other axes leave."""
    devices = jax.devices() if devices is None else devices
    if data == -1:
        data = len(devices) // (fsdp * tensor)
    if data * fsdp * tensor != len(devices):
        raise ValueError(f"mesh data={data} fsdp={fsdp} tensor={tensor} needs "
                         f"{data * fsdp * tensor} devices, there are {len(devices)}")
    return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3,
                         devices=devices)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The partition of a parameter by its path; an axis that does not divide it is dropped."""
    axes = next(axes for pattern, axes in RULES if re.search(pattern, path))
    axes = (None,) * (len(shape) - len(axes)) + axes if len(shape) >= len(axes) else ()
    return P(*(a if a is None or size % mesh.shape[a] == 0 else None
               for a, size in zip(axes, shape, strict=False)))


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


def rows(mesh: Mesh) -> NamedSharding:
    """Batch arrays: their leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def put(batch, mesh: Mesh):
    """This host's rows of a batch as global arrays."""
    sharding = rows(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
