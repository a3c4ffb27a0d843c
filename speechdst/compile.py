"""Does a recipe fit a TPU slice, and how fast could it be? Answered without a TPU.

    python -m speechdst.compile --config=configs/joint_dst.py:gemma3_1b@v5e:4x4 --topology=v5e:4x4

Compiles the train step of a stage, as `speechdst.train` runs it, for a named topology on any
machine that has the `libtpu` wheel (pip install "jax[tpu]"). Topologies: GENERATION:
SHAPE, e.g. v5e:4x4, v5p:2x2x4, v6e:8x8, v4:2x2x2, v7x:2x2x1; several slices in front: 2xv5e:4x4.
Nothing is read but the config: batches come from the prepared data where all of them are there,
else from a stand-in (`speechdst/standin.py`).

Prints HBM by kind, FLOPs, collectives and a roofline estimate, and as the last line one JSON
object: `fits`, `hbm_gib` (of a device; `hbm_gib_by_kind`), `flops` (of the step, counted from the
config; `flops_by_tower`; `flops_compiled`: from the program), `collectives`,
`step_seconds_estimate`, `mfu_estimate`, `limit`, `communication_over_compute`, `reason` (why it
does not fit). A program that does not fit is an answer, not an error: the exit code is 0 all the
same; it is 2 where the question itself is wrong (no such topology, a mesh of another size, no
libtpu).
"""

import dataclasses
import importlib.util
import json
import math
import os
import re
import tempfile
import time
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from absl import flags
from jax.experimental import topologies
from ml_collections import ConfigDict, config_flags
from rich.console import Console
from rich.table import Table

from speechdst import flops, hlo, roofline, sharding, standin
from speechdst.command import run
from speechdst.config import axes_of, model_config, tokenizer_of
from speechdst.data.dialogue import BadInput
from speechdst.data.prepared import MANIFEST
from speechdst.objectives.cross_entropy import CHUNK
from speechdst.recipes import recipe_of
from speechdst.training import optimizer, state

NOT_PROVED = (
    "Compiled, never run: that it lowers, how it is partitioned and that it fits are the "
    "compiler's own words. Not proved: numbers, speed, fragmentation of memory, what the runtime "
    "holds besides. Times are lower bounds from data sheets, everything overlapped; collectives as "
    "rings; the FLOPs of Pallas kernels are those of the model.")
_TOPOLOGY = re.compile(r"(?:(\d+)x)?(v\d\w*):(\d+(?:x\d+)+)")
_TOO_MUCH = (  # how libtpu says that a program does not fit
    r"Used ([\d.]+)([MG]) of [\d.]+[MG] \w+\. Exceeded \w+ capacity by [\d.]+[MG]",
    r"memory required for HLO temporaries \(([\d.]+)([MG])\) exceeds available HBM \([\d.]+[MG]\)")
_GIB = 2**30


def devices_of(topology: str) -> tuple[list, flops.Chip]:
    """The devices of a named topology, and what one of them can do; no TPU is needed.

    Raises:
      BadInput: the name means nothing to this project or to libtpu, or libtpu is not installed.
    """
    found = _TOPOLOGY.fullmatch(topology)
    if not found or found[2] not in flops.CHIPS:
        names = [name for name, chip in flops.CHIPS.items() if chip.kind.startswith("TPU")]
        raise BadInput(f"{topology!r} is no topology", field="--topology",
                       mend=f"GENERATION:SHAPE such as v5e:4x4, with one of {', '.join(names)}")
    if importlib.util.find_spec("libtpu") is None:
        raise BadInput("compiling for TPUs needs the libtpu wheel", field="--topology",
                       mend='pip install "jax[tpu]"')
    slices, generation, shape = found.groups()
    # Without these libtpu asks the cloud who it is, complains, and wants to be alone.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost",
                      TPU_ACCELERATOR_TYPE="v5litepod-16", TPU_MIN_LOG_LEVEL="3",
                      TPU_LOG_DIR="disabled", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    jax.config.update("jax_platforms", "cpu")
    options = {"num_slices": int(slices)} if slices else {}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as the runtime has it
    name = f"{'tpu7x' if generation == 'v7x' else generation}:{shape}"
    try:
        made = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"libtpu knows no {name}: {_line(error)}", field="--topology") from error
    return list(made.devices), flops.CHIPS[generation]


def batches_of(c: ConfigDict, stage: ConfigDict, size: int, model) -> tuple[dict, str]:
    """One batch of each kind (numpy), and where they are from."""
    sources = {s["data"] for b in stage.batches.values() for s in b.sources}
    encoded = stage.get("encoded", False)
    if encoded:  # what the encoder would make of the recordings
        stage = stage.copy_and_resolve_references()
        stage.encoded = False
    recipe = recipe_of(c)
    with tempfile.TemporaryDirectory() as folder:
        if all((Path(c.data_dir) / name / MANIFEST).exists() for name in sources):
            tokenizer, origin = tokenizer_of(c), "the prepared data"
            loaders = recipe.loaders(c, stage, tokenizer, model, {})
        else:
            origin = "a stand-in for the data"
            loaders = recipe.stand_in(c, stage, standin.StandInTokenizer(size), model, Path(folder))
        batches = {name: next(iter(loader)) for name, loader in loaders.items()}
    if encoded:
        read = lambda table: _encoded(table, model) if table.spoken else table
        batches = {name: dataclasses.replace(b, tables=tuple(map(read, b.tables)))
                   for name, b in batches.items()}
    return batches, origin


def _encoded(table, model):
    """A table of speech as `prepare --features` leaves it, its vectors all zero."""
    speech = table.waveform if table.waveform is not None else table.features
    shape = (*speech.shape[:2], model.encoder.length(speech.shape[2]), model.encoder.width)
    lengths = np.vectorize(model.encoder.length, otypes=[np.int32])(table.lengths)
    return dataclasses.replace(table, lengths=lengths, waveform=None, features=None,
                               encoded=np.zeros(shape, ml_dtypes.bfloat16))


def lower(c: ConfigDict, stage: ConfigDict, model, mesh, batches: dict):
    """The train step over shapes alone, lowered for the mesh: (lowered, abstract arguments)."""
    graph, shapes = state.abstract(model)
    dtypes = state.stored(shapes, stage.trainable, model.dtype)
    params = {path: jax.ShapeDtypeStruct(x.shape, dtypes[path]) for path, x in shapes.items()}
    tx = optimizer.make(stage.optimizer, stage.steps)
    begin = jax.eval_shape(lambda p: state.start(p, stage.trainable, tx, c.seed), params)
    shardings = state.shardings(begin, mesh)
    laid = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    begin = jax.tree.map(laid, begin, shardings)
    batches = jax.tree.map(lambda x: laid(x, sharding.rows(mesh, len(x))), batches)
    step = recipe_of(c).make_step(graph, stage, donate_argnums=0, out_shardings=(shardings, None))
    platform = mesh.devices.flat[0].platform
    with jax.set_mesh(mesh):
        return step.trace(begin, batches).lower(lowering_platforms=(platform,)), (begin, batches)


def chunks_taken(batches: dict, mesh) -> float:
    """The share of the chunks of logits that are computed: a device skips those in which none of
    its rows has a target."""
    taken, there = 0, 0
    for batch in batches.values():
        rows, positions = batch.tokens.shape
        own = sharding.rows(mesh, rows).shard_shape((rows,))[0]
        targets = (batch.loss_weight > 0).sum(1).reshape(-1, own).max(1)
        taken += int((-(-targets // CHUNK)).sum())
        there += len(targets) * -(-positions // CHUNK)
    return taken / there


def held(tree) -> float:
    """GiB of one device that arrays of these shapes and shardings take."""
    sizes = [x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
             for x in jax.tree.leaves(tree)]
    return sum(sizes) / _GIB


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def reason(error: Exception) -> tuple[str, float | None]:
    """Why a program does not compile, in one line, and the GiB that it would have taken."""
    text = " ".join(str(error).split())
    for pattern in _TOO_MUCH:
        if used := re.search(pattern, text):
            return used[0], float(used[1]) / (1 if used[2] == "G" else 1024)
    return text[:300], None


def study(c: ConfigDict, stage_name: str, topology: str, effort: float = 0.0) -> dict:
    """Compiles a stage for a topology; returns what the module's text says, and the parts that the
    tables show. `effort`: that of the compiler, -1 to 1."""
    devices, chip = devices_of(topology)
    stage = c.stages[stage_name]
    mesh = sharding.make_mesh(**axes_of(c, stage), devices=devices)
    size = c.model.decoder.vocabulary or c.tokenizer.size or tokenizer_of(c).size
    model = model_config(c.model, size)
    batches, origin = batches_of(c, stage, size, model)
    towers = flops.step_flops(model, stage, batches)
    began = time.monotonic()
    lowered, (begin, laid) = lower(c, stage, model, mesh, batches)
    hbm = {"parameters": held((begin.trainable, begin.frozen)), "optimizer": held(begin.optimizer),
           "batch": held(laid)}
    result = dict(
        config=c.name, stage=stage_name, topology=topology, devices=len(devices),
        mesh=dict(mesh.shape), rows={name: len(b.tokens) for name, b in batches.items()},
        batches_from=origin, effort=effort, hbm_gib_by_kind=hbm, hbm_limit_gib=chip.hbm / _GIB,
        flops=sum(towers.values()), flops_by_tower=towers, not_proved=NOT_PROVED)
    try:
        compiled = lowered.compile(_options(effort))
    except jax.errors.JaxRuntimeError as error:
        why, gib = reason(error)
        return result | dict.fromkeys(_MEASURED) | dict(
            fits=False, reason=why, hbm_gib=gib, compile_seconds=time.monotonic() - began)
    program = hlo.analyze(compiled.as_text(), chunks_taken(batches, mesh))
    memory = compiled.memory_analysis()
    # The sum of temporaries is more than ever lives at once: a program that the compiler placed
    # may exceed the memory by it. The peak is what it places, arguments included.
    hbm["activations and temporaries"] = (
        memory.peak_memory_in_bytes - memory.argument_size_in_bytes) / _GIB
    hbm["program"] = memory.generated_code_size_in_bytes / _GIB
    total = memory.peak_memory_in_bytes / _GIB + hbm["program"]
    return result | dict(fits=True, reason="", hbm_gib=total,
                         compile_seconds=time.monotonic() - began) | _measured(
        program, result["flops"], chip, roofline.places(mesh.devices.flat))


def _options(effort: float) -> dict | None:
    """Of the compiler; later versions of JAX than 0.10 have levels instead."""
    if not effort:
        return None
    if hasattr(jax.config, "jax_exec_time_optimization_effort"):
        return {"exec_time_optimization_effort": effort}
    return {"optimization_level": "O1" if effort < 0 else "O3"}


_MEASURED = ("flops_compiled", "bytes", "collectives", "unknown_loops", "kernels",
             "step_seconds_estimate", "mfu_estimate", "limit", "communication_over_compute",
             "seconds")


def _measured(program: hlo.Program, model_flops: float, chip: flops.Chip, at: list) -> dict:
    """What only a compiled program tells, `_MEASURED`."""
    e = roofline.estimate(program, model_flops, chip, at)
    collectives = [dict(kind=k.kind, bytes=k.bytes, group=len(k.group), times=k.times,
                        seconds=k.times * sum(roofline.collective_seconds(k, chip, at)))
                   for k in program.collectives]
    values = (program.flops * len(at), program.bytes * len(at),
              sorted(collectives, key=lambda k: -k["seconds"]), program.unknown_loops,
              program.kernels, e.seconds, e.mfu, e.limit, e.communication,
              dict(compute=e.compute, memory=e.memory, links=e.links, network=e.network))
    return dict(zip(_MEASURED, values, strict=True))


def show(result: dict, console: Console) -> None:
    """The tables of a study."""
    r = result
    mesh = " ".join(f"{k}={v}" for k, v in r["mesh"].items())
    console.print(f"{r['config']}, stage {r['stage']}, on {r['topology']} ({r['devices']} devices, "
                  f"mesh {mesh}); rows {r['rows']} of {r['batches_from']}", soft_wrap=True)
    table = Table("HBM of a device", "GiB", title_justify="left")
    for kind, value in r["hbm_gib_by_kind"].items():
        table.add_row(kind, f"{value:.3g}")
    table.add_row("all", "unknown" if r["hbm_gib"] is None else f"{r['hbm_gib']:.2f}")
    table.add_row("there is", f"{r['hbm_limit_gib']:.2f}")
    console.print(table)
    table = Table("FLOPs of a step", "TFLOP")
    for tower, value in r["flops_by_tower"].items():
        table.add_row(tower, f"{value / 1e12:.4g}")
    table.add_row("model (from the config)", f"{r['flops'] / 1e12:.4g}")
    if r["fits"]:
        table.add_row("compiled, kernels excepted", f"{r['flops_compiled'] / 1e12:.4g}")
    console.print(table)
    if not r["fits"]:
        console.print(f"does NOT fit: {r['reason']}", soft_wrap=True, markup=False)
        console.print(NOT_PROVED, soft_wrap=True, markup=False)
        return
    table = Table("collective", "MiB", "group", "times", "ms", title="the most expensive of "
                  f"{len(r['collectives'])} collectives", title_justify="left")
    for k in r["collectives"][:12]:
        table.add_row(k["kind"], f"{k['bytes'] / 2**20:.3g}", str(k["group"]),
                      f"{k['times']:g}", f"{1e3 * k['seconds']:.3g}")
    console.print(table)
    table = Table("estimate of a step", "ms")
    for kind, value in r["seconds"].items():
        table.add_row(kind, f"{1e3 * value:.3g}")
    console.print(table)
    console.print(
        f"fits with {r['hbm_limit_gib'] - r['hbm_gib']:.2f} GiB to spare; at least "
        f"{1e3 * r['step_seconds_estimate']:.3g} ms a step, limited by {r['limit']}; MFU at most "
        f"{r['mfu_estimate']:.0%}; communication / compute "
        f"{r['communication_over_compute']:.3f}", soft_wrap=True)
    if r["unknown_loops"]:
        console.print(f"{r['unknown_loops']} loops whose length depends on data are counted once")
    console.print(NOT_PROVED, soft_wrap=True, markup=False)


def main(argv):
    del argv
    c = _CONFIG.value
    stage = _STAGE.value or c.order[-1]
    if stage not in c.stages:
        raise BadInput(f"no stage {stage!r}", field="--stage", mend=f"one of {', '.join(c.order)}")
    result = study(c, stage, _TOPOLOGY_FLAG.value, _EFFORT.value)
    show(result, Console(width=110))
    print(json.dumps(result))


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "The recipe, e.g. configs/joint_dst.py:gemma3_1b.", lock_config=True)
    _TOPOLOGY_FLAG = flags.DEFINE_string("topology", None, "E.g. v5e:4x4, or 2xv5e:4x4.")
    _STAGE = flags.DEFINE_string("stage", "", "Which of `config.order`; the last if empty.")
    _EFFORT = flags.DEFINE_float(
        "effort", 0.0, "Of the compiler: -1 is several times faster and makes a worse program, "
        "which mostly needs more memory; 0 is what training gets.", -1.0, 1.0)
    flags.mark_flags_as_required(["config", "topology"])
    run(main)
