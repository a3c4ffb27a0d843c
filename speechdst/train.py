"""Train a recipe: the whole loop, read from top to bottom.

    python -m speechdst.train --config=configs/joint_dst.py:demo --workdir=runs/demo

Runs the stages of `config.order` one after the other, each from the parameters of the one before.
A run that was stopped, however it was stopped, goes on from its last checkpoint when the same
command is given again: parameters, optimizer, random state and data position come back bitwise,
on any number of devices and hosts (`speechdst/distributed.py` says how many hosts are one run).
"""

import json
import math
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from rich.console import Console

from speechdst import distributed, memory, sharding
from speechdst.command import run
from speechdst.config import axes_of, keep, model_config, steps_of, tokenizer_of
from speechdst.data import loader
from speechdst.data.contexts import FRAMES_PER_SECOND
from speechdst.files import alone
from speechdst.flops import step_flops
from speechdst.recipes import recipe_of
from speechdst.training import accounting, optimizer, state
from speechdst.training.checkpoint import Checkpointer, initial, load_params, points
from speechdst.training.counts import counts
from speechdst.training.metrics import Metrics, Progress, check_finite
from speechdst.training.preemption import Preemption
from speechdst.training.profile import Profile

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, e.g. "
                                          "configs/joint_dst.py:demo.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and config go.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only count the parameters, by tower and stage.")
_STOP_AFTER = flags.DEFINE_integer(
    "stop_after", 0, "Stop cleanly after this many steps of a stage, as a preemption would.")
_PROFILE = flags.DEFINE_string(
    "profile", "", "START:STOP traces these steps of each stage, into WORKDIR/profile.")


def train_stage(name: str, workdir: Path, config, tokenizer, params, preemption, clock) -> dict:
    """Trains one stage from `params` and returns the parameters it ends with; None if it was
    asked to stop before its end."""
    c = _CONFIG.value
    stage, model = c.stages[name], model_config(c.model, tokenizer.size)
    profile = Profile(_PROFILE.value, workdir / "profile" / name)
    print(f"stage {name}: {stage.steps} steps", flush=True)
    recipe = recipe_of(c)
    loaders = recipe.loaders(c, stage, tokenizer, model, params)
    distributed.agree("data", {key: value.fingerprint for key, value in loaders.items()},
                      "give every host the same prepared data")
    mesh = sharding.mesh_of(params)
    rows = {key: value.rows for key, value in loaders.items()}
    shares = {key: sharding.share(mesh, n) for key, n in rows.items()}
    for key, n in rows.items():
        if (times := sharding.repeats(mesh, n)) > 1:
            print(f"  {key}: {n} row(s) do not divide by the mesh, each is computed {times} times")
    graph, _ = state.abstract(model)
    tx = optimizer.make(stage.optimizer, stage.steps)
    current = state.placed(params, stage.trainable, tx, c.seed, mesh)

    step_fn = recipe.make_step(graph, stage, donate_argnums=0,
                               out_shardings=(state.shardings(current, mesh), None))
    if hasattr(recipe, "refer"):
        step_fn, current, loaders = recipe.refer(c, workdir / name, tokenizer, loaders, step_fn,
                                                 current)
    iterators = {key: value.batches(shares[key]) for key, value in loaders.items()}

    checkpoints = Checkpointer(workdir / name, {
        "config": c.name, "stage": name, "tokenizer": tokenizer.fingerprint,
        "model": json.loads(c.model.to_json())}, points=(kept := points(stage)))
    if (at := checkpoints.latest()) is not None:
        with clock.span("checkpoint"):
            current = checkpoints.restore(current, iterators)
        print(f"  goes on from step {at}")
    start = int(current.step)
    metrics, progress = Metrics(workdir, name, start), Progress(name, stage.steps, start)

    step, since, seen, recent = start, time.monotonic(), {}, []
    while step < stage.steps:
        profile.before(step)
        with clock.span("input"):
            host = {key: next(it) for key, it in iterators.items()}
        for key, batch in host.items():
            # Rows that several hosts hold are counted in parts.
            part = rows[key] / len(shares[key]) / jax.process_count()
            flops = sum(step_flops(model, stage, {key: batch}).values())
            for what, value in (loader.count(batch) | {"flops": flops}).items():
                seen[what] = seen.get(what, 0) + part * value
        batches = {key: sharding.put(batch, mesh, rows[key]) for key, batch in host.items()}
        with jax.set_mesh(mesh):
            if hasattr(step_fn, "lower"):  # not compiled yet
                with clock.span("compile"):
                    step_fn = step_fn.lower(current, batches).compile()
                distributed.meet("compiled")
            current, values = clock.step(step_fn, current, batches)
        recent.append({key: value for key, value in values.items() if not value.ndim})
        step += 1
        stop = preemption.requested() or (_STOP_AFTER.value and step - start >= _STOP_AFTER.value)
        profile.after(step, values, last=step == stage.steps or stop)
        if step % c.log_every == 0 or step == stage.steps or stop:
            fetched = jax.device_get(recent)
            logged = {key: float(np.mean([v[key] for v in fetched])) for key in fetched[0]}
            check_finite(logged, step)
            seconds, seen = time.monotonic() - since, distributed.total(seen)
            rates = {"dialogues/s": seen["trees"] / seconds,
                     "audio h/s": seen["frames"] / FRAMES_PER_SECOND / 3600 / seconds}
            metrics.write(step, logged | rates | accounting.rates(clock.take(), seen["flops"]))
            shown = {k: logged[k] for k in ("loss", *stage.weights, "lr") if k in logged}
            progress.show(step, shown | rates, final=step == stage.steps)
            since, seen, recent = time.monotonic(), {}, []
        if step % c.save_every == 0 or step in kept or step == stage.steps or stop:
            with clock.span("checkpoint"):
                checkpoints.save(step, current, iterators, wait=step == stage.steps or stop)
        if stop and step < stage.steps:
            break
    metrics.close()
    with clock.span("checkpoint"):
        checkpoints.close()
    if step < stage.steps:
        print(f"  stopped at step {step}; the same command goes on from there")
        return None
    return current.trainable | current.frozen


def main(argv):
    del argv
    c, workdir = _CONFIG.value, Path(_WORKDIR.value)
    if _DRY_RUN.value:
        Console().print(counts(c))
        return
    distributed.start()
    memory.start_devices()
    clock, preemption = accounting.Clock(), Preemption()
    distributed.agree("config", c.to_json(), "give every host the same command and code")
    if distributed.first():
        alone(workdir)
        keep(workdir / "config.json", c)
    distributed.written(workdir / "config.json")
    tokenizer = tokenizer_of(c)
    model = model_config(c.model, tokenizer.size)
    _, shapes = state.abstract(model)
    count = sum(math.prod(x.shape) for x in shapes.values())
    print(f"{c.name}: {count / 1e6:.2f} M parameters, vocabulary {tokenizer.size}; "
          f"{jax.device_count()} {jax.default_backend()} device(s), {jax.process_count()} host(s)")
    # All of them now: what does not fit the devices ends the run before its first step.
    meshes = {name: sharding.make_mesh(**axes_of(c, c.stages[name])) for name in c.order}
    params = None
    for i, name in enumerate(c.order):
        stage = c.stages[name]
        if steps_of(workdir / name) >= stage.steps:
            continue  # finished before
        dtypes = state.stored(shapes, stage.trainable, model.dtype)
        template = {path: jax.ShapeDtypeStruct(shapes[path].shape, dtypes[path], sharding=s)
                    for path, s in sharding.parameters(shapes, meshes[name]).items()}
        if params is not None and sharding.mesh_of(params) == meshes[name]:
            params = {path: x.astype(dtypes[path]) for path, x in params.items()}
        elif i:
            params = None  # on another mesh: what the last stage stored is read onto this one
            params = load_params(workdir / c.order[i - 1], template)
        else:
            params = initial(c, model, tokenizer, template)
        params = train_stage(name, workdir, model, tokenizer, params, preemption, clock)
        if params is None:
            break
    else:
        print(f"trained: {workdir / c.order[-1]}")
    print(f"time: {clock.summary()}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    run(main)
