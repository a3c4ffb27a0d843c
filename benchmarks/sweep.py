"""What benchmarks that train many small models share: cells that are made once, and their training.

A cell is one trained and scored model, over a base that none of them changes. On CPUs as many
processes as there are cores make a cell each: a model this small does not fill two cores. Elsewhere
cells whose program is the same, those of several seeds, are trained together in one (`jax.vmap`
over parameters, optimizer and batches).
"""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from benchmarks.commands import command, side_by_side, stop_with_us
from launch import chips
from speechdst import memory
from speechdst.config import model_config, steps_of, tokenizer_of
from speechdst.data import workers
from speechdst.data.dialogue import BadInput
from speechdst.data.prepared import Prepared
from speechdst.data.tokenizer import Tokenizer
from speechdst.decoding.track import Tracker
from speechdst.evaluation import alignment, states
from speechdst.files import read_object, write_text
from speechdst.metrics import jga
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.recipes import joint_dst
from speechdst.training import optimizer, state
from speechdst.training.checkpoint import load_params


def settle(out: Path, settings: dict) -> None:
    """Keeps what the cells below `out` are made with; raises `BadInput` if there are others."""
    path = out / "settings.json"
    if path.exists() and (before := read_object(path)) != settings:
        other = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
        raise BadInput(f"there are cells made with another {', '.join(other)}", file=path,
                       mend="the same flags go on, another --out begins anew")
    write_text(path, json.dumps(settings) + "\n")


def start(quick: bool) -> None:
    """Starts the devices, and lets SIGTERM reach the commands that are started. `quick`: for
    programs that run shorter than they compile."""
    stop_with_us()
    if quick:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {chips.line('quick')}"
    memory.start_devices()


def encoded(config: ConfigDict) -> list[str]:
    """The sets of which a stage reads the speech as the frozen encoder left it, sorted."""
    return sorted({s["data"] for stage in config.stages.values() if stage.get("encoded")
                   for b in stage.batches.values() if b.context.path == "speech"
                   for s in b.sources})


@dataclasses.dataclass(frozen=True)
class Base:
    """The model that cells go on from, with what is needed to train and ask it."""

    config: ConfigDict
    tokenizer: Tokenizer
    model: DialogueLMConfig
    params: state.Params

    @classmethod
    def loaded(cls, config: ConfigDict, out: Path) -> "Base":
        """One that `bases` made in `out`; raises `BadInput` if it is not there."""
        jax.config.update("jax_compilation_cache_dir", str(out.absolute() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        tokenizer = tokenizer_of(config)
        model = model_config(config.model, tokenizer.size)
        shapes = state.abstract(model)[1]
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return cls(config, tokenizer, model, load_params(out / "base" / config.order[-1], {
            path: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=device)
            for path, x in shapes.items()}))

    def dialogues(self, data: str, split: str) -> list:
        source = Prepared(Path(self.config.data_dir) / data).dialogues(split)
        limit = self.config.evaluation.limit
        return [d for d in source[: limit or None] if d.user_turns()]


HEARING = "asr"  # the stage of a base that trains its speech encoder


def bases(of: Mapping[Path, tuple[str, ConfigDict]], hearing: tuple[str, ConfigDict], shared: Path,
          say: Callable = print) -> dict[Path, Base]:
    """Prepares the data and trains the bases that are not there yet; what was done in part is not
    done again.

    The stages of a config's `order` but the last start from nothing and train side by side; the
    last goes on from all of them.

    Args:
      of: folder of a base -> what `--config` names, and that config. All have the same data, in
        the same place, and the same speech encoder.
      hearing: the same of the run that trains this encoder, once, whichever bases are asked for.
      shared: the folder of what they share.
    """
    marks = {folder: folder / "base" / "done.txt" for folder in of}
    todo = {folder: named for folder, named in of.items()
            if not marks[folder].exists() or marks[folder].read_text() != named[0]}
    if todo:
        source, c = hearing
        options = [f"--config={source}", f"--config.data_dir={c.data_dir}"]
        command("prepare", options, shared / "log.txt", shared)
        part = functools.partial(_part, shared=shared, say=say)
        others = {folder: [stage for stage in c.order[:-1] if stage != HEARING]
                  for folder, (_, c) in todo.items()}
        side_by_side([functools.partial(part, shared, HEARING, source, c)] + [
            functools.partial(part, folder, stage, *todo[folder])
            for folder, stages in others.items() for stage in stages])
        command("prepare", ["--features", *options, f"--config.order={(HEARING,)!r}",
                            f"--workdir={shared / HEARING}", f"--only={','.join(encoded(c))}"],
                shared / "log.txt", shared)
        side_by_side([functools.partial(
            part, folder, todo[folder][1].order[-1], *todo[folder], name="base",
            after=(*(folder / stage / stage for stage in stages), shared / HEARING / HEARING))
            for folder, stages in others.items()])
        for folder, (source, _) in todo.items():
            write_text(marks[folder], source)
    return {folder: Base.loaded(c, folder) for folder, (_, c) in of.items()}


def _part(folder: Path, stage: str, source: str, config: ConfigDict, *, shared: Path, say: Callable,
          name: str = "", after: Sequence[Path] = ()) -> None:
    """Trains one stage in FOLDER/`name` (its own if empty), from nothing or `after` others; raises
    `BadInput` if it is stopped before its end."""
    began, workdir = time.monotonic(), folder / (name or stage)
    if steps_of(workdir / stage) < config.stages[stage].steps:
        command("train", [
            f"--config={source}", f"--config.data_dir={config.data_dir}", f"--workdir={workdir}",
            f"--config.order={(stage,)!r}", f"--config.base={tuple(map(str, after))!r}"],
            workdir / "log.txt", shared)
        # A train that is asked to leave saves, and has not failed.
        if (at := steps_of(workdir / stage)) < config.stages[stage].steps:
            raise BadInput(f"stage {stage} was stopped at step {at}", file=workdir / "log.txt",
                           mend="the same command goes on from there")
        say(f"{workdir / stage}: {time.monotonic() - began:.0f} s")


def train(base: Base, stage: ConfigDict, seeds: Sequence[int], now: state.TrainState | None = None,
          steps: int = 0) -> tuple[state.TrainState, list[dict]]:
    """Trains a stage for every seed, which draws the batches and what is masked, in one program.

    Args:
      now: a state to go on from, as this returns it; None: the base's parameters.
      steps: how many of the stage's; 0: all.
    Returns: the state, with a leading axis of seeds in all but what is frozen, and for each seed
      its metrics at the end.
    """
    if now is None:
        now = _started(base, stage, seeds)
    streams = []
    for seed in seeds:
        c = base.config.copy_and_resolve_references()
        c.seed = seed
        loaders = joint_dst.loaders(c, stage, base.tokenizer, base.model, base.params)
        streams.append({name: iter(loader) for name, loader in loaders.items()})
    step, values = _step(stage.to_json(sort_keys=True), base.model), {}
    steps = steps or stage.steps
    for _ in range(steps):
        host = [{name: next(it) for name, it in stream.items()} for stream in streams]
        now, values = step(now, jax.tree.map(lambda *x: np.stack(x), *host))
    values = {k: np.asarray(v) for k, v in values.items() if v.ndim == 1}
    ends = [{k: float(v[i]) for k, v in values.items()} for i in range(len(seeds))]
    if not all(np.isfinite(end["loss"]) for end in ends):
        raise FloatingPointError(f"the loss is not finite after {steps} steps: {ends}")
    return now, ends


def _started(base: Base, stage: ConfigDict, seeds: Sequence[int]) -> state.TrainState:
    trainable, frozen = state.split(base.params, stage.trainable)
    trainable = {p: jnp.stack([x] * len(seeds)) for p, x in trainable.items()}
    tx = optimizer.make(stage.optimizer, stage.steps)
    keys = jnp.stack([jax.random.key_data(jax.random.key(seed)) for seed in seeds])
    # All of it placed, as a step returns it: else the second step is compiled anew.
    return jax.device_put(state.TrainState(
        jnp.zeros(len(seeds), jnp.int32), trainable, frozen, jax.vmap(tx.init)(trainable), keys),
        jax.devices()[0])


def _step(stage: str, model: DialogueLMConfig) -> Callable:
    """The train step of a stage (as JSON) over several models; what a stage's sources are makes no
    difference to its program."""
    stage = ConfigDict(json.loads(stage))
    for spec in stage.batches.values():
        spec.sources, spec.positions, spec.rows = (), 0, 0
    return _compiled(stage.to_json(sort_keys=True), model)


@functools.cache
def _compiled(stage: str, model: DialogueLMConfig) -> Callable:
    stage = ConfigDict(json.loads(stage))
    graph, _ = state.abstract(model)
    axes = state.TrainState(0, 0, None, 0, 0)  # what is frozen is one for all
    return jax.jit(jax.vmap(joint_dst.make_step(graph, stage), in_axes=(axes, 0),
                            out_axes=(axes, 0)))


COUNTED = ("right", "turns", "matched", "named")  # by dialogue, of a scored split


def score(base: Base, params: state.Params, data: str, split: str, path: str) -> dict:
    """How a model tracks a split: by dialogue the `right` of all `turns` (exact joint goal) and
    twice the slots `matched` of those `named` in either state (slot F1); the word error rate, and
    how alike it makes speech and text of a turn (`path`: the text's)."""
    e, dialogues = base.config.evaluation, base.dialogues(data, split)
    tracker = Tracker(params, base.model, base.tokenizer, states.context_of(e.context), e.beam,
                      e.max_new, e.rows)
    gold = jga.references(dialogues)
    predicted = states.predictions(tracker, dialogues)
    sums = {dialogue: dict.fromkeys(COUNTED, 0) for dialogue in gold}
    for outcome in jga.outcomes(gold, predicted):
        of = sums[outcome.dialogue]
        of["right"] += outcome.correct()
        of["turns"] += 1
        of["matched"] += 2 * len(outcome.matched)
        of["named"] += len(outcome.gold) + len(outcome.predicted)
    whole = jga.score(gold, predicted, resamples=2)
    return {name: [of[name] for of in sums.values()] for name in COUNTED} | {
        "wer": whole.word_errors and whole.word_errors["rate"],
        "alignment": alignment.of_dialogues(params, base.model, base.tokenizer, dialogues, path)}


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is trained: stages that are alike but in what they read, one after the other, each as
    long, under one schedule of as many steps as one alone has. `path`: how text is read ("words":
    by the text encoder, "tokens": by the LLM)."""

    name: str
    stages: tuple[ConfigDict, ...]
    path: str = "words"


def cells(base: Base, arms: Sequence[Arm], seeds: int, data: Sequence[str], split: str, out: Path,
          say: Callable = print, processes: int = 0) -> dict[str, list[dict]]:
    """The cells of arms by name, one a seed: {data: `score`} with `train_seconds` of processor
    time; made now if they are not there.

    `processes`: that make a cell at a time; 1: this one, with all seeds of an arm in one program;
    0: on CPUs one for each core, up to 8, elsewhere 1.
    """
    # Seed by seed, so that what is stopped leaves all arms of the first.
    todo = [(arm, seed) for seed in range(seeds) for arm in arms
            if not _cell(out, arm, seed).exists()]
    if not processes:
        processes = min(8, workers.cores()) if jax.default_backend() == "cpu" else 1
    if (processes := min(processes, len(todo))) > 1:
        _apart(base, todo, data, split, out, say, processes)
    else:
        for arm in arms:
            if missing := [seed for other, seed in todo if other == arm]:
                say(_make(base, arm, missing, data, split, out))
    return {arm.name: [read_object(_cell(out, arm, seed)) for seed in range(seeds)] for arm in arms}


def _cell(out: Path, arm: Arm, seed: int) -> Path:
    return out / "cells" / f"{arm.name}-{seed}.json"


def _make(base: Base, arm: Arm, seeds: Sequence[int], data: Sequence[str], split: str,
          out: Path) -> str:
    """Makes the cells of an arm in this process, and says what it took."""
    began, worked, now = time.monotonic(), time.process_time(), None
    with open(out / "cells.log", "a") as log, contextlib.redirect_stdout(log):
        print(f"{arm.name}, seeds {[*seeds]}", flush=True)
        for stage in arm.stages:
            now, ends = train(base, stage, seeds, now, max(1, stage.steps // len(arm.stages)))
        jax.block_until_ready(now)
    trained = time.process_time() - worked
    for i, seed in enumerate(seeds):
        own = base.params | {p: x[i] for p, x in now.trainable.items()}
        found = {name: score(base, own, name, split, arm.path) for name in data}
        write_text(_cell(out, arm, seed), json.dumps(found | {
            "end": ends[i], "train_seconds": trained / len(seeds)}) + "\n")
    return (f"{arm.name}, seeds {[*seeds]}: {time.monotonic() - began:.0f} s "
            f"(training took {trained:.0f} s of processor time)")


def _apart(base: Base, todo: Sequence[tuple[Arm, int]], data: Sequence[str], split: str, out: Path,
           say: Callable, processes: int) -> None:
    """Makes cells in processes of their own, each on one core."""
    cores = multiprocessing.get_context("spawn").SimpleQueue()
    for i in range(processes):
        cores.put(i)
    with workers.pool(processes, _begin, base.config, out, cores) as pool:
        futures = [pool.submit(_one, arm, seed, data, split, out) for arm, seed in todo]
        try:
            for n, future in enumerate(as_completed(futures)):
                say(f"[{n + 1} of {len(todo)}] {future.result()}")
        finally:
            pool.shutdown(cancel_futures=True)


_worker: Base | None = None  # what a process of `_apart` goes on from


def _begin(config: ConfigDict, out: Path, cores) -> None:
    global _worker
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):  # XLA then has one thread, and nobody waits for others
        own = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {own[core % len(own)]})
    logging.set_verbosity(logging.ERROR)  # as `run` does: Orbax tells of what it does not need
    memory.keep()
    memory.start_devices()
    _worker = Base.loaded(config, out)


def _one(arm: Arm, seed: int, data: Sequence[str], split: str, out: Path) -> str:
    return _make(_worker, arm, [seed], data, split, out)


def plain(result: dict) -> str:
    """One line of JSON, in which what is no number (nan, inf) is null."""
    text = json.dumps(result, default=dataclasses.asdict)
    return json.dumps(json.loads(text, parse_constant=lambda name: None))


def shown(rate: tuple, digits: int = 1) -> str:
    """(value, low, high) as a cell of a table; "-" if there is no value (None, nan)."""
    value, low, high = rate
    if value is None or np.isnan(value):
        return "-"
    span = "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{span}"


def counted(found: Sequence[dict], data: str, name: str) -> np.ndarray:
    """One of `COUNTED` of the cells of an arm, int [seeds, dialogues]."""
    return np.array([cell[data][name] for cell in found])
