"""Variants of preference alignment side by side: Tables 1 and 3 of arXiv 2506.21463, and voices.

    python -m benchmarks.alignment --out=runs/alignment
    python -m benchmarks.alignment --quick --out=runs/alignment_quick     # seconds, shows nothing
    python -m benchmarks.alignment --preset=faulty --arms="DPO-LN text" --out=runs/alignment_faulty

One base model, trained from scratch on all streams of simulated two-channel conversations, is
aligned by every variant on the same pairs, with three seeds (which draw the batches and what the
model says), and each listens to held-out conversations:

    base                    before any alignment
    DPO-LN text             the text stream alone, by its number of frames: the paper's choice
    DPO-LN text+audio       rewards of text and own audio added before the sigmoid
    DPO-LN text and audio   a loss of each, added
    DPO-LN text with CE     cross entropy of the chosen reply's audio beside it
    DPO text                not divided by the number of frames
    SimPO text              without a reference
    APO-zero-LN text        as DPO-LN, each side of a pair on its own
    APO-zero text           the same, not divided
    far voices              DPO-LN text, users spoken anew by voices far from their own
    original voices         DPO-LN text, users not spoken anew (this benchmark alone keeps them)

Columns are those of `speechdst/evaluation/live.py` and the share of held-out pairs that a model
prefers as it should. Word errors are those of a recogniser that was trained on the agent's voice
(`benchmarks/agent_asr.py`), or of --asr, any other. Intervals (95 %) are over seeds and
conversations; of changes, those of the same conversation and seed.

What was stopped goes on with the same command: cells that are finished are read from OUT/cells, and
those of the first seed can be listened to:

    python -m speechdst.report --run=runs/alignment/cells/dpo-ln-text-0 \\
        --pairs=runs/alignment/data/pairs --out=report.html

The last line is one JSON object.
"""

import contextlib
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import agent_asr, sweep
from benchmarks.commands import command, stop_with_us
from configs import dpo_ln, preference_data
from speechdst.codec import Codec
from speechdst.command import run
from speechdst.config import build, codec_of, steps_of
from speechdst.data import conversations, preference_pairs, speech
from speechdst.data.dialogue import AudioRef
from speechdst.data.loader import First
from speechdst.decoding import duplex
from speechdst.evaluation import live, preferences
from speechdst.files import read_object, write_text
from speechdst.metrics import bootstrap
from speechdst.preference.recordings import Recordings, conversation_of
from speechdst.preference.settings import Settings, Simulated
from speechdst.prepare_pairs import Pipeline
from speechdst.training import checkpoint
from speechdst.transcribers import Transcriber, transcriber

STAGE = "preference"
PAIRS = {"": "pairs", "far voices": "pairs_far", "original voices": "pairs_original"}
BASE, CHOSEN = "base", "DPO-LN text"
VARIANTS = {  # what differs from the stage of the config
    CHOSEN: {},
    "DPO-LN text+audio": {"objective.streams": "text+audio"},
    "DPO-LN text and audio": {"objective.streams": "text,audio"},
    "DPO-LN text with CE": {"weights.audio": 0.1},
    "DPO text": {"objective.name": "dpo"},
    "SimPO text": {"objective.name": "simpo"},
    "APO-zero-LN text": {"objective.name": "apo_zero_ln"},
    "APO-zero text": {"objective.name": "apo_zero"},
    "far voices": {},
    "original voices": {},
}
MEASURES = {"win_rate": "pairs won, %", "wrong_turns": "wrong turns, %",
            "unanswered": "unanswered, %", "early": "talked into, %",
            "latency": "latency, s", "talked_over": "talked over, %",
            "replay_in_a_row": "replay, words", "replay_in_all": "(in all)", "wer": "WER, %"}
SCALES = live.SCALES | {"win_rate": 100.0}


@dataclasses.dataclass(frozen=True)
class OriginalVoices:
    """Takes the place of stage 2 for simulated logs: users in the voice that they had."""

    settings: Simulated
    name = "resynthesis"
    needs = ("item",)

    def make(self, given):
        item, split = given["item"]["id"], given["item"]["split"]
        conversation, *_ = conversation_of(self.settings, split, int(item))
        return {"id": conversation.id, "split": split,
                "user": preference_pairs.pack(conversation.user)}, []


class OriginalPipeline(Pipeline):
    def _resynthesis(self) -> str:
        recordings = Recordings(self.settings.recordings)
        return self._stage(OriginalVoices(self.settings.recordings), items=recordings.items(),
                           contents=recordings.contents)


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs below `out`, of a `preset` of configs/dpo_ln.py, in `steps` of alignment; `limit`:
    held-out conversations and records of pairs (0: all)."""

    out: Path
    preset: str
    steps: int
    limit: int

    def config(self) -> ConfigDict:
        c = dpo_ln.get_config(self.preset)
        c.data_dir = str(self.out / "data")
        c.evaluation.limit = self.limit
        stage = c.stages[STAGE]
        if self.steps:
            stage.steps = self.steps
            stage.optimizer.warmup = round(0.16 * self.steps)
        stage.points, c.save_every = (), stage.steps
        return c

    def variant(self, arm: str) -> ConfigDict:
        c = self.config()
        c.update_from_flattened_dict(
            {f"stages.{STAGE}.{name}": value for name, value in VARIANTS.get(arm, {}).items()})
        (spec,) = c.stages[STAGE].batches.values()
        spec.sources = (dict(spec.sources[0], data=PAIRS.get(arm, PAIRS[""])),)
        return c

    def options(self, arm: str, **more) -> list[str]:
        """What makes `config()` and `variant(arm)` of the preset on a command line."""
        c = self.variant(arm)
        stage, name = c.stages[STAGE], f"config.stages.{STAGE}"
        (batch, spec), = stage.batches.items()
        values = {"config.data_dir": c.data_dir, f"{name}.steps": stage.steps,
                  f"{name}.optimizer.warmup": stage.optimizer.warmup, f"{name}.points": (),
                  "config.save_every": c.save_every, f"{name}.batches.{batch}.sources": spec.sources
                  } | {f"{name}.{n}": v for n, v in VARIANTS.get(arm, {}).items()} | more
        return [f"--config=configs/dpo_ln.py:{self.preset}",
                *(f"--{name}={value}" for name, value in values.items())]

    def prepare(self, voices: Sequence[str], say) -> None:
        """Pairs of each kind of voices, then conversations, codec, tokenizer and frames."""
        data, log = self.out / "data", self.out / "log.txt"
        data.mkdir(parents=True, exist_ok=True)
        for arm in voices:
            out = data / PAIRS[arm]
            if (out / "manifest.json").exists():
                continue
            began = time.monotonic()
            settings = preference_data.get_config(self.preset)
            settings.out, settings.work = str(out), f"{out}_work"
            if arm == "far voices":
                settings.resynthesis.choice = "far"
            if arm:  # only what depends on the user's voice is made anew
                shutil.copytree(f"{data / PAIRS['']}_work", settings.work, dirs_exist_ok=True)
            made = OriginalPipeline if arm == "original voices" else Pipeline
            pipeline = made(build(Settings, settings.to_dict(), "config"))
            with open(log, "a") as file, contextlib.redirect_stdout(file):
                for name in pipeline.stages:
                    print(pipeline.run(name), flush=True)
            say(f"{out}: {time.monotonic() - began:.0f} s")
        for arm in voices:
            if not (frames := self.out / "data" / f"{PAIRS[arm]}.done").exists():
                command("prepare", self.options(arm), log, self.out)
                write_text(frames, "")

    def train(self, arm: str, seed: int) -> Path:
        """A cell's workdir, trained now if it is not."""
        workdir = self.cell(arm, seed)
        if steps_of(workdir / STAGE) != self.config().stages[STAGE].steps:
            command("train", [*self.options(arm, **{
                "config.order": (STAGE,), "config.base": (self.out / "base/base").absolute(),
                "config.seed": seed}), f"--workdir={workdir}"], workdir / "train.log", self.out)
        return workdir

    def base(self) -> None:
        if steps_of(self.out / "base/base") != self.config().stages["base"].steps:
            command("train", [*self.options("", **{"config.order": ("base",)}),
                              f"--workdir={self.out / 'base'}"], self.out / "log.txt", self.out)

    def cell(self, arm: str, seed: int) -> Path:
        name = arm.lower().replace(" ", "-")
        return self.out / "cells" / f"{name}-{seed}"

    @functools.cached_property
    def heard(self) -> tuple[list, Codec]:
        """Held-out conversations and the codec."""
        c, e = self.config(), self.config().evaluation
        return (list(First(conversations.read(Path(c.data_dir) / e.data, e.split), e.limit)),
                codec_of(c))

    def evaluate(self, arm: str, seed: int) -> dict[str, list]:
        """{measure: [part, whole] of every conversation, of `win_rate` of every pair}."""
        workdir, c = self.cell(arm, seed), self.variant(arm)
        path = workdir / "counts.json"
        if path.exists():
            return read_object(path)
        c.seed = seed
        if arm == BASE:
            c.order, root = ("base",), self.out / "base"
        else:
            c.order, c.base = (STAGE,), str((self.out / "base/base").absolute())
            root = self.train(arm, seed)
        stage = c.order[0]
        *_, (step, (tokenizer, model, params)) = checkpoint.kept(c, root, stage)
        taken, codec = self.heard
        e = c.evaluation
        agent = duplex.make(params, model, tokenizer, codec, c.text_overflow, rows=e.rows,
                            **e.decoding.to_dict())
        options = dataclasses.replace(build(live.Options, e.live.to_dict(), "live"), seed=seed)
        observed, _ = live.hold(agent, taken, workdir / "evaluation", f"{e.data}/{e.split}", stage,
                                step, options)
        counts = {name: [o.counts[name] for o in observed] for name in live.SCALES
                  if name in observed[0].counts}
        if arm != BASE:
            with open(workdir / "evaluate.log", "a") as log, contextlib.redirect_stdout(log):
                preferences.evaluate(c, workdir, stage)
            (source,) = e.pairs
            folder = workdir / "evaluation" / f"{source['data']}-{source['split']}-pairs"
            lines = (folder / preferences.PAIRS).read_text("utf-8").splitlines()
            counts["win_rate"] = [[json.loads(line)["win_rate"], 1.0] for line in lines]
        write_text(path, json.dumps(counts) + "\n")
        return counts

    def listener(self, asr: str, quick: bool) -> tuple[str, Transcriber]:
        """Who writes down what models say, by name; `asr` "": one that learnt their voice."""
        name = asr or str(agent_asr.made(self.out / "data", self.heard[1], self.out / "asr", quick))
        return name, transcriber(name)

    def word_errors(self, arm: str, seed: int, listener: tuple[str, Transcriber]) -> list:
        """[errors, words] of every conversation of a cell that was evaluated."""
        name, asr = listener
        path = self.cell(arm, seed) / "wer.json"
        if path.exists() and (found := read_object(path))["asr"] == name:
            return found["counts"]
        (spoken,) = self.cell(arm, seed).glob(f"evaluation/*/{live.CONVERSATIONS}")
        counts = []
        for o in live.read(spoken.parent):
            voice = speech.load(AudioRef(str(spoken.parent / live.AUDIO / o.audio), channel=0))
            counts.append(live.errors(o.words, asr(voice, o.audio)))
        write_text(path, json.dumps({"asr": name, "counts": counts}) + "\n")
        return counts


def rates(cells: Sequence[Mapping], before: Sequence[Mapping] = ()) -> dict[str, tuple]:
    """{measure: (value, low, high)} over the cells of an arm, one a seed; less those of `before`,
    if there are any."""
    made = {}
    for name, scale in SCALES.items():
        sides = [np.array([cell[name] for cell in side], np.float64)
                 for side in (cells, before) if side and all(name in cell for cell in side)]
        if len(sides) < 1 + bool(before):
            continue
        counts = np.concatenate([side.transpose(2, 0, 1) for side in sides])
        with np.errstate(divide="ignore", invalid="ignore"):
            made[name] = (float(_ratio(counts.sum((1, 2)), scale)), *bootstrap.bounds(
                _ratio(bootstrap.crossed(counts), scale)))
    return made


def _ratio(sums: np.ndarray, scale: float) -> np.ndarray:
    """Of sums [parts and wholes, ...]; of two sides their difference."""
    ratios = scale * sums[::2] / sums[1::2]
    return ratios[0] - ratios[1] if len(ratios) > 1 else ratios[0]


def measure(runs: Runs, arms: Sequence[str], seeds: int, asr: str = "", quick: bool = False,
            say=print) -> dict:
    """Trains and evaluates every cell; {"arms": {arm: rates}, "changes": {arm: rates less those of
    the base}, "recorded_wer": of the agent of the recordings, through the codec}."""
    runs.prepare([arm for arm in PAIRS if not arm or arm in arms], say)
    began = time.monotonic()
    runs.base()
    say(f"the base is there after {time.monotonic() - began:.0f} s")
    cells = {}
    for arm in (BASE, *arms):
        cells[arm] = [runs.evaluate(arm, seed) for seed in range(seeds)]
        say(f"{arm}: done after {time.monotonic() - began:.0f} s")
    listener = runs.listener(asr, quick)
    for arm, of in cells.items():
        for seed, cell in enumerate(of):
            cell["wer"] = runs.word_errors(arm, seed, listener)
    taken, codec = runs.heard
    recorded = [{"wer": [live.errors(c.agent.words, listener[1](
        codec.decode(codec.encode(speech.decode(c.agent.audio))), c.id)) for c in taken]}]
    say(f"word errors: done after {time.monotonic() - began:.0f} s")
    return {"arms": {arm: rates(of) for arm, of in cells.items()},
            "changes": {arm: rates(cells[arm], cells[BASE]) for arm in arms},
            "recorded_wer": rates(recorded)["wer"]}


def table(title: str, rows: Mapping[str, Mapping]) -> Table:
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    there = [m for m in MEASURES if any(m in of for of in rows.values())]
    for column in ("", *(MEASURES[m] for m in there)):
        made.add_column(column, justify="right" if column else "left", no_wrap=True)
    for arm, of in rows.items():
        made.add_row(arm, *(sweep.shown(of[m], 2 if m == "latency" else 1) if m in of else ""
                            for m in there))
    return made


def main(argv):
    del argv
    stop_with_us()
    quick = _QUICK.value
    runs = Runs(Path(_OUT.value), "tiny" if quick else _PRESET.value, 2 if quick else _STEPS.value,
                2 if quick else _LIMIT.value)
    sweep.settle(runs.out, {"preset": runs.preset, "steps": runs.steps, "limit": runs.limit})
    console = Console(width=210)  # the tables are as wide, terminal or not
    seeds = 1 if quick else _SEEDS.value
    result = measure(runs, _ARMS.value or list(VARIANTS), seeds, _ASR.value, quick,
                     lambda line: console.print(line, highlight=False))
    steps = runs.config().stages[STAGE].steps
    console.print(table(f"after {steps} steps, {seeds} seeds (95 % interval over seeds and "
                        "conversations)", result["arms"]))
    console.print(table("change from the base", result["changes"]))
    recorded = sweep.shown(result["recorded_wer"])
    console.print(f"WER of the recorded agent, through the codec: {recorded}")
    print(sweep.plain({"steps": steps, "seeds": seeds} | result))


if __name__ == "__main__":
    _OUT = flags.DEFINE_string("out", "runs/alignment", "Where data, runs and cells go.")
    _PRESET = flags.DEFINE_string("preset", "demo", "Of configs/dpo_ln.py and preference_data.py.")
    _ARMS = flags.DEFINE_list("arms", [], "Of the variants above; empty: all.")
    _SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds.")
    _STEPS = flags.DEFINE_integer("steps", 0, "Steps of every alignment; 0: as the preset says.")
    _LIMIT = flags.DEFINE_integer("limit", 0, "Held-out conversations; 0: all.")
    _ASR = flags.DEFINE_string(
        "asr", "", "Who hears word errors, see speechdst/transcribers.py; empty: one trained now.")
    _QUICK = flags.DEFINE_boolean("quick", False, "Everything at the size of the test.")
    run(main)
