"""Small models of several seeds, trained in one program or one after the other: time a step.

    python -m benchmarks.together --seeds=3
    python -m benchmarks.together --quick

The last stage of `configs/cross_corpus.py:simulated` over a few of its dialogues, from a model as
it is drawn: what it learns is of no interest. Both ways take the same batches to the same losses,
in turns of --steps steps, and the best turn of each counts; beside the wall time stands the
processor time, which tells more where others use the machine. The last line is one JSON object.
"""

import contextlib
import io
import json
import tempfile
import time

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks import cross_corpus as arms
from benchmarks import sweep
from configs import cross_corpus
from speechdst import encode, prepare
from speechdst.command import run
from speechdst.config import model_config, tokenizer_of
from speechdst.training import state


def drawn(preset: str, folder: str, dialogues: int) -> sweep.Base:
    """A base that was not trained, over so many dialogues of every training split."""
    c = cross_corpus.get_config(preset)
    c.data_dir = folder
    for spec in c.prepare.values():
        spec.limit = dialogues
    prepare.run(c, processes=0)
    tokenizer = tokenizer_of(c)
    model = model_config(c.model, tokenizer.size)
    params = jax.jit(lambda: state.create(model, 0))()
    for name in sweep.encoded(c):
        encode.store(sweep.Prepared(f"{folder}/{name}"), model, params)
    return sweep.Base(c, tokenizer, model, params)


def measure(base: sweep.Base, seeds: int, steps: int, turns: int) -> dict:
    """{way: {"wall", "processor"}}, seconds a step and model, and the largest difference of the
    losses that both ways end with."""
    a, b = ({(name, "train"): 1.0} for name in cross_corpus.CORPORA)
    stage = arms.stage(base.config, a, a | b)
    stage.steps = steps
    best, losses = {}, {}
    for _ in range(turns + 1):  # the first compiles
        for way in ("together", "one after the other"):
            began = time.perf_counter(), time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                made = [sweep.train(base, stage, some) for some in (
                    [range(seeds)] if way == "together" else [[seed] for seed in range(seeds)])]
            jax.block_until_ready(made)
            spent = np.subtract((time.perf_counter(), time.process_time()), began)
            losses[way] = [end["loss"] for _, ends in made for end in ends]
            if way in best:
                best[way] = np.minimum(best[way], spent)
            else:
                best[way] = np.full(2, np.inf)
    times = {way: dict(zip(("wall", "processor"), (spent / steps / seeds).tolist(), strict=True))
             for way, spent in best.items()}
    return {"seconds": times, "difference": float(np.max(np.abs(np.subtract(*losses.values()))))}


def main(argv):
    del argv
    sweep.start(_QUICK.value)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        base = drawn(("tiny_" if _QUICK.value else "") + "simulated", folder, _DIALOGUES.value)
        found = measure(base, _SEEDS.value, _STEPS.value, _TURNS.value)
    table = Table("seeds", "wall s", "processor s", title="a step of one model",
                  title_justify="left")
    for way, spent in found["seconds"].items():
        table.add_row(way, *(f"{s:.3f}" for s in spent.values()))
    Console().print(table)
    print(json.dumps(found | {"seeds": _SEEDS.value, "steps": _STEPS.value}))


if __name__ == "__main__":
    _SEEDS = flags.DEFINE_integer("seeds", 3, "Models.")
    _STEPS = flags.DEFINE_integer("steps", 10, "Steps of a turn.")
    _TURNS = flags.DEFINE_integer("turns", 3, "Turns that are timed.")
    _DIALOGUES = flags.DEFINE_integer("dialogues", 300, "Dialogues of a split, at most.")
    _QUICK = flags.DEFINE_bool("quick", False, "The tiny preset.")
    run(main)
