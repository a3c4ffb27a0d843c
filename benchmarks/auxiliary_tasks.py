"""Training on three tasks against training on replies alone, by how much spoken data there is.

    python -m benchmarks.auxiliary_tasks --data_dir=data/auxiliary_demo \\
        --base=runs/auxiliary/asr --out=runs/auxiliary_tasks
    python -m benchmarks.auxiliary_tasks ... --shares=10,100 --seeds=1 --limit=24   # a first look

Both arms go on from one base, the demo recipe's model before its last stage (or any other stage of
a run of that shape), and train that stage for the same number of steps on 5, 10, 25 and 100 % of
the spoken conversations, three seeds each (which draw the conversations and the batches). All of
them are evaluated by the multi-turn loop on the same test split; exact match and F1 are those of
SQuAD. Beside them stand the model as it was drawn, the base itself, and the first multi-task model
of the largest share when it hears silence.

Every cell is a run of `speechdst.train` below OUT and an evaluation in its folder, so that what was
stopped goes on with the same command, and cells of an earlier call are not made again. An arm
compiles one program for all of its cells. Intervals are over dialogues, all seeds together; gains
are of the same dialogues, paired. The last line is one JSON object.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import sweep
from benchmarks.commands import command, stop_with_us
from configs import auxiliary
from speechdst.command import run
from speechdst.config import steps_of
from speechdst.conversation import loop, scores
from speechdst.data.prepared import Prepared
from speechdst.evaluation import conversations

ARMS = {"three tasks": "", "replies alone": auxiliary.SINGLE}
MEASURES = ("action accuracy", "action binary F1", "trajectory F1", "exact match", "F1")
STAGE = "tasks"


class Cells:
    """The runs below `out`, all from `base` over the data in `data_dir`, each of `steps` steps.

    `limit`: test dialogues (0: all). Raises `BadInput` if `out` holds cells of other settings.
    """

    def __init__(self, out: Path, data_dir: str, base: str, preset: str, steps: int, limit: int):
        self.out, self.data_dir, self.base = out, data_dir, Path(base).absolute()
        self.preset, self.steps, self.limit = preset, steps, limit
        split = self.config("three tasks").evaluation
        settings = {"data": Prepared(Path(data_dir) / split.data).fingerprint, "base": base,
                    "preset": preset, "steps": steps, "limit": limit}
        sweep.settle(out, settings)

    def config(self, arm: str) -> ConfigDict:
        """As the command line of `train` below makes it, as far as evaluation sees it."""
        c = auxiliary.get_config(self.preset + ARMS[arm])
        c.data_dir, c.order = self.data_dir, (STAGE,)
        c.evaluation.limit = self.limit
        c.evaluation.conversation.listening = ()
        return c

    def train(self, arm: str, share: float, seed: int) -> Path:
        """A cell's workdir, trained now if it is not."""
        workdir = self.out / f"{arm.replace(' ', '_')}-{share:g}-{seed}"
        if steps_of(workdir / STAGE) == self.steps:
            return workdir
        command("train", [
            f"--config=configs/auxiliary.py:{self.preset}{ARMS[arm]}",
            f"--config.data_dir={self.data_dir}", f"--config.base={self.base}",
            f"--config.order=('{STAGE}',)", f"--config.seed={seed}",
            f"--config.stages.{STAGE}.steps={self.steps}",
            f"--config.stages.{STAGE}.batches.tasks.share={share / 100}",
            f"--config.save_every={self.steps}", f"--workdir={workdir}",
        ], workdir / "train.log", self.out)
        return workdir

    def evaluate(self, workdir: Path, arm: str = "three tasks", what: str = "model"
                 ) -> list[loop.Trajectory]:
        """The trajectories of one of `conversations.ARMS`; made here, where what was compiled for
        one cell serves the next."""
        c = self.config(arm)
        c.evaluation.conversation.arms = (what,)
        with open(workdir / "evaluate.log", "a") as log, contextlib.redirect_stdout(log):
            conversations.evaluate(c, workdir)
        e = c.evaluation
        return loop.read(workdir / "evaluation" / f"{e.data}-{e.split}-{what}")

    def before(self) -> list[loop.Trajectory]:
        """Those of the base."""
        workdir = self.out / "base"
        workdir.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (workdir / STAGE).symlink_to(self.base)
        return self.evaluate(workdir)


def measure(cells: Cells, shares: Sequence[float], seeds: int, say=print) -> dict:
    """Trains and evaluates every cell. Returns {"rows": {name: scores}, "gains": {share: ...}}."""
    found: dict[str, list[loop.Trajectory]] = {}
    began = time.monotonic()
    for share, (arm, seed) in itertools.product(
            sorted(shares), itertools.product(ARMS, range(seeds))):
        workdir = cells.train(arm, share, seed)
        found.setdefault(f"{arm}, {share:g} %", []).extend(cells.evaluate(workdir, arm))
        if share == max(shares) and arm == "three tasks" and not seed:
            found["three tasks, hears silence"] = cells.evaluate(workdir, what="blind")
            found["as drawn"] = cells.evaluate(workdir, what="untrained")
        say(f"{arm}, {share:g} %, seed {seed}: done after {time.monotonic() - began:.0f} s")
    found["the base, before this stage"] = cells.before()
    gains = {f"{share:g} %": scores.gains(*(found[f"{arm}, {share:g} %"] for arm in ARMS))
             for share in sorted(shares)}
    return {"rows": {name: scores.score(of).rates for name, of in found.items()}, "gains": gains}


def table(title: str, rows: dict[str, dict]) -> Table:
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", *MEASURES):
        made.add_column(column, justify="right" if column else "left", no_wrap=True)
    short = lambda r: f"{r.value:.1f}" + ("" if r.low is None else f" [{r.low:.1f}, {r.high:.1f}]")
    for name, rates in rows.items():
        made.add_row(name, *(short(rates[m]) if m in rates else "" for m in MEASURES))
    return made


def plain(rows: dict[str, dict]) -> dict:
    return {name: {m: [r.value, r.low, r.high] for m, r in rates.items() if m in MEASURES}
            for name, rates in rows.items()}


def main(argv):
    del argv
    stop_with_us()
    cells = Cells(Path(_OUT.value), _DATA.value, _BASE.value, _PRESET.value, _STEPS.value,
                  _LIMIT.value)
    console = Console(width=130)  # the tables are as wide, terminal or not
    result = measure(cells, [float(s) for s in _SHARES.value], _SEEDS.value,
                     lambda line: console.print(line, highlight=False))
    console.print(table(f"after {_STEPS.value} steps, {_SEEDS.value} seeds, % (95 % interval over "
                        "dialogues)", result["rows"]))
    console.print(table("gain of three tasks over replies alone, points", result["gains"]))
    print(json.dumps({"steps": _STEPS.value, "seeds": _SEEDS.value,
                      "cells": plain(result["rows"]), "gains": plain(result["gains"])}))


if __name__ == "__main__":
    _DATA = flags.DEFINE_string("data_dir", "data/auxiliary_demo", "The prepared data.")
    _BASE = flags.DEFINE_string("base", "runs/auxiliary/asr", "The stage all arms go on from.")
    _OUT = flags.DEFINE_string("out", "runs/auxiliary_tasks", "Where the cells' runs go.")
    _PRESET = flags.DEFINE_string("preset", "demo", "Of configs/auxiliary.py.")
    _SHARES = flags.DEFINE_list("shares", ["5", "10", "25", "100"], "Percent of conversations.")
    _SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds.")
    _STEPS = flags.DEFINE_integer("steps", 100, "Training steps of every cell.")
    _LIMIT = flags.DEFINE_integer("limit", 0, "Test dialogues; 0: all.")
    run(main)
