"""Training on three tasks against training on replies alone, by how much spoken data there is.

    python -m benchmarks.auxiliary_tasks --data_dir=data/auxiliary_demo \\
        --base=runs/auxiliary/asr --out=runs/auxiliary_tasks

Both arms go on from one base, the demo recipe's model before its last stage (or any other stage of
a run of that shape), and train that stage for the same number of steps on 5, 10, 25 and 100 % of
the spoken conversations, three seeds each (which draw the conversations and the batches). All of
them are evaluated by the multi-turn loop on the same test split. Beside them stand the base itself
and the largest multi-task model when it hears silence.

Every cell is a run of the ordinary commands below OUT, so that what was stopped goes on with the
same command, and cells of an earlier call are not made again. Intervals are over dialogues, all
seeds together. The last line is one JSON object.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table

from speechdst.command import run
from speechdst.conversation import loop, scores

ARMS = {"three tasks": "", "replies alone": "_single_task"}
MEASURES = ("action accuracy", "action binary F1", "trajectory F1", "exact match", "F1")

_DATA = flags.DEFINE_string("data_dir", "data/auxiliary_demo", "The prepared data.")
_BASE = flags.DEFINE_string("base", "runs/auxiliary/asr", "The stage that all arms go on from.")
_OUT = flags.DEFINE_string("out", "runs/auxiliary_tasks", "Where the cells' runs go.")
_PRESET = flags.DEFINE_string("preset", "demo", "Of configs/auxiliary.py.")
_SHARES = flags.DEFINE_list("shares", ["5", "10", "25", "100"], "Percent of the conversations.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds.")
_STEPS = flags.DEFINE_integer("steps", 250, "Training steps of every cell.")
_LIMIT = flags.DEFINE_integer("limit", 0, "Test dialogues; 0: all.")


def cell(arm: str, share: float, seed: int, arms: tuple[str, ...]) -> Path:
    """Trains and evaluates one cell; returns the folder of its evaluation."""
    workdir = Path(_OUT.value) / f"{arm.replace(' ', '_')}-{share:g}-{seed}"
    common = [f"--config=configs/auxiliary.py:{_PRESET.value}{ARMS[arm]}",
              f"--config.data_dir={_DATA.value}", f"--config.base={_BASE.value}",
              "--config.order=('tasks',)", f"--config.seed={seed}",
              f"--config.stages.tasks.steps={_STEPS.value}",
              f"--config.stages.tasks.batches.tasks.share={share / 100}",
              f"--config.save_every={_STEPS.value}", f"--workdir={workdir}"]
    own = [f"--config.evaluation.limit={_LIMIT.value}",
           f"--config.evaluation.conversation.arms={arms!r}"]
    _command("train", *common)
    _command("evaluate", *common, *own)
    return workdir / "evaluation"


def _command(name: str, *arguments: str) -> None:
    # What one cell compiles, the next finds.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(Path(_OUT.value).absolute() / "compiled"),
             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1"}
    result = subprocess.run([sys.executable, "-m", f"speechdst.{name}", *arguments],
                            env=os.environ | cache, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{name} ended with {result.returncode}:\n{result.stdout}")


def pooled(folders: list[Path]) -> scores.ConversationScores:
    """Scores of one arm over all of its seeds."""
    return scores.score([t for folder in folders for t in loop.read(folder)])


def _folder(evaluation: Path, arm: str) -> Path:
    (found,) = evaluation.glob(f"*-{arm}")
    return found


def main(argv):
    del argv
    console, shares = Console(), [float(s) for s in _SHARES.value]
    found: dict[str, scores.ConversationScores] = {}
    for share in shares:
        for arm in ARMS:
            done = []
            for seed in range(_SEEDS.value):
                most = share == max(shares) and arm == "three tasks" and not seed
                arms = ("model", "untrained", "blind") if most else ("model",)
                done.append(cell(arm, share, seed, arms))
                console.print(f"{arm}, {share:g} %, seed {seed}: done", highlight=False)
                if most:
                    found["the base, before this stage"] = pooled([_folder(done[-1], "untrained")])
                    found["three tasks, hears silence"] = pooled([_folder(done[-1], "blind")])
            found[f"{arm}, {share:g} %"] = pooled([_folder(d, "model") for d in done])
    table = Table(title=f"after {_STEPS.value} steps, % (95 % interval over dialogues)",
                  title_justify="left")
    for column in ("", *MEASURES):
        table.add_column(column, justify="right" if column else "left")
    for name, of in found.items():
        table.add_row(name, *(str(of.rates.get(m, "")) for m in MEASURES))
    console.print(table)
    value = lambda rate: [rate.value, rate.low, rate.high]
    print(json.dumps({"steps": _STEPS.value, "seeds": _SEEDS.value, "cells": {
        name: {m: value(of.rates[m]) for m in MEASURES if m in of.rates}
        for name, of in found.items()}}))


if __name__ == "__main__":
    run(main)
