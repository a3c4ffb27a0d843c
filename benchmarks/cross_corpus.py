"""Does unpaired text of a corpus stand in for its speech? The arms of joint training, both ways.

    python -m benchmarks.cross_corpus --out=runs/cross_corpus
    python -m benchmarks.cross_corpus --quick --out=runs/cross_quick      # seconds, shows nothing
    python -m benchmarks.cross_corpus --corpora=german --out=runs/cross_german
    python -m benchmarks.cross_corpus --corpora=sgd --raw=data/raw --out=runs/cross_sgd
    python -m benchmarks.cross_corpus --corpora=restaurant-hotel --raw=data/raw \\
        --out=runs/cross_domain

From A to B means: spoken dialogues of A, and of B only text (arXiv 2511.22503). All arms go on from
one base that has met neither (`configs/cross_corpus.py`), for as many steps, and are scored on the
speech of held-out dialogues of both corpora, by unheard voices:

    source_only             speech of A (and its transcripts, as in all arms)
    text_only               text of B, no speech
    joint                   speech of A, text of B through the text encoder
    joint_no_text_encoder   the same, text embedded by the LLM directly
    joint_separate_stages   text of B first, then speech of A, half of the steps each
    target_speech           speech of B: source_only of the other direction
    oracle                  joint, with the text of the held-out dialogues as well

`gap_closed` is (joint - source_only) / (target_speech - source_only), of joint goal accuracy and
of slot F1, which tells more where hardly a whole state is right. Intervals (95 %) are over
seeds and dialogues; seeds draw the batches and what is masked, the base is the same for all. Beside
each arm: how it tracks its own source corpus, its word error rate, and how alike it makes speech
and text of one turn (retrieval of the text at 1, cosine, that of other turns).

What was stopped goes on with the same command: the base from its checkpoints, arms that are
finished are read from `OUT/cells`. Choose settings with --split=dev, never on the test split. The
last line is one JSON object.
"""

import json
import time
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks import sweep
from configs import cross_corpus
from speechdst.command import run
from speechdst.metrics import transfer

ARMS = ("source_only", "text_only", "joint", "joint_no_text_encoder", "joint_separate_stages",
        "target_speech", "oracle")
GAP = ("source_only", "joint", "target_speech")
DIRECTIONS = (("a", "b"), ("b", "a"))
HEARD = 0.25  # how often text is read that is heard as well, against text that is not


def stage(config: ConfigDict, speech: dict, text: dict, path: str = "words") -> ConfigDict:
    """The last stage over shares of data, {(set, split): share}.

    Everything that any arm reads is named in each, with a share of 0 where it is not read: rows
    then have one shape, and arms one program.
    """
    made = config.stages.joint.copy_and_resolve_references()
    texts = [name for name in config.prepare if name.split("_")[0] in cross_corpus.CORPORA]
    known = {"speech": [(name, "train") for name in cross_corpus.CORPORA],
             "text": [(name, "train") for name in texts]
             + [(name, config.evaluation.split) for name in cross_corpus.CORPORA]}
    for batch, shares in (("speech", speech), ("text", text)):
        if not any(shares.values()):
            del made.batches[batch]
            continue
        if unknown := set(shares) - set(known[batch]):
            raise ValueError(f"no {batch} of {sorted(unknown)}")
        heard = speech if batch == "text" else {}
        made.batches[batch].sources = tuple(
            dict(data=data, split=split, weight=HEARD if (data, split) in heard else 1.0,
                 share=float(shares.get((data, split), 0.0))) for data, split in known[batch])
    if "text" in made.batches:
        made.batches.text.context.path = path
    losses = {b.loss for b in made.batches.values()}
    made.weights = {name: weight for name, weight in made.weights.items() if name in losses}
    return made


def arms(config: ConfigDict, source: str, target: str) -> dict[str, sweep.Arm]:
    """The arms from `source` to `target`, by name. Arms that are the same in both directions have
    the same name as cells."""
    a, b = {(source, "train"): 1.0}, {(target, "train"): 1.0}
    held = {(target, config.evaluation.split): 1.0}
    way, of = f"{source}{target}", lambda *stages: tuple(stages)
    make = lambda *args, **kw: stage(config, *args, **kw)
    return {
        "source_only": sweep.Arm(f"speech-{source}", of(make(a, a))),
        "text_only": sweep.Arm(f"text-{target}", of(make({}, b))),
        "joint": sweep.Arm(f"joint-{way}", of(make(a, a | b))),
        "joint_no_text_encoder": sweep.Arm(
            f"joint_no_text_encoder-{way}", of(make(a, a | b, path="tokens")), "tokens"),
        "joint_separate_stages": sweep.Arm(
            f"joint_separate_stages-{way}", of(make({}, b), make(a, a))),
        "target_speech": sweep.Arm(f"speech-{target}", of(make(b, b))),
        "oracle": sweep.Arm(f"oracle-{way}", of(make(a, a | b | held))),
    }


def measure(base: sweep.Base, out: Path, seeds: int, names=ARMS, say=print,
            processes: int = 0) -> dict:
    """Trains and scores the arms in both directions: {"A to B": {arm: figures, "gap_closed": ...}}.
    """
    result = {}
    made = {way: arms(base.config, *way) for way in DIRECTIONS}
    once = {of[name].name: of[name] for of in made.values() for name in names}
    scored = sweep.cells(base, [*once.values()], seeds, cross_corpus.CORPORA,
                         base.config.evaluation.split, out, say, processes)
    for source, target in DIRECTIONS:
        found = {name: scored[made[source, target][name].name] for name in names}
        rows = {name: figures(cells, source, target) for name, cells in found.items()}
        if set(GAP) <= set(names):
            for key, rate in (("gap_closed", joint_goal), ("gap_closed_slot_f1", slot_f1)):
                rows[key] = transfer.gap_closed(*(rate(found[name], target) for name in GAP))
            least, turns = joint_goal(found["source_only"], target)
            rows["gain_over_source_only"] = {
                name: transfer.gain(joint_goal(found[name], target)[0], least, turns)
                for name in names if name != "source_only"}
        result[f"{source} to {target}"] = rows
    return result


def joint_goal(cells: list[dict], data: str) -> transfer.Rate:
    return sweep.counted(cells, data, "right"), sweep.counted(cells, data, "turns")[0]


def slot_f1(cells: list[dict], data: str) -> transfer.Rate:
    return sweep.counted(cells, data, "matched"), sweep.counted(cells, data, "named")


def figures(cells: list[dict], source: str, target: str) -> dict:
    """What the table shows of an arm: joint goal accuracy and slot F1 on the target corpus, the
    former on the `source`'s, too, with intervals; means over seeds of the rest."""
    mean = lambda values: float(np.mean(values))
    return {
        "joint_goal": transfer.percent(*joint_goal(cells, target)),
        "slot_f1": transfer.percent(*slot_f1(cells, target)),
        "source": transfer.percent(*joint_goal(cells, source)),
        "wer": mean([c[target]["wer"] if c[target]["wer"] is not None else np.nan for c in cells]),
        **{key: mean([c[target]["alignment"][key] for c in cells])
           for key in ("retrieval_at_1", "same", "other")},
        "train_seconds": mean([c["train_seconds"] for c in cells])}


def table(way: str, rows: dict) -> Table:
    made = Table(title=f"speech of {way.replace(' to ', ', text of ')}: joint goal accuracy, % "
                 "(95 % interval over seeds and dialogues)", title_justify="left")
    for column in ("", "target", "its slot F1", "own source", "WER", "retrieved",
                   "cosine (others)"):
        made.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for name in ARMS:
        if row := rows.get(name):
            made.add_row(name, sweep.shown(row["joint_goal"]), sweep.shown(row["slot_f1"]),
                         sweep.shown(row["source"]),
                         f"{row['wer']:.1f}", f"{100 * row['retrieval_at_1']:.0f} %",
                         f"{row['same']:.2f} ({row['other']:.2f})")
    return made


def settings(base: sweep.Base) -> dict:
    """What cells depend on besides their own name."""
    prepared = {name: sweep.Prepared(Path(base.config.data_dir) / name).fingerprint
                for name in cross_corpus.CORPORA}
    return {"config": base.config.name, "split": base.config.evaluation.split, "data": prepared,
            "counted": [*sweep.COUNTED], "stage": json.loads(base.config.stages.joint.to_json())}


def sizes(base: sweep.Base) -> dict:
    """Dialogues of every set and split, the domains of the two corpora, and the parameters of the
    model."""
    sets = {name: sweep.Prepared(Path(base.config.data_dir) / name) for name in base.config.prepare}
    return {"dialogues": {name: {split: len(p.dialogues(split)) for split in p.splits}
                          for name, p in sets.items()},
            "domains": {name: sorted(sets[name].ontology()) for name in cross_corpus.CORPORA},
            "parameters": int(sum(x.size for x in base.params.values()))}


def main(argv):
    del argv
    began, out, console = time.monotonic(), Path(_OUT.value), Console(width=120)
    sweep.start(_QUICK.value)
    preset = ("tiny_" if _QUICK.value else "") + _CORPORA.value + (
        f"@{_RAW.value}" if _RAW.value else "")
    c = cross_corpus.get_config(preset)
    c.data_dir = _DATA.value or str(out / "data")
    c.evaluation.split = _SPLIT.value
    c.stages.joint.steps = _STEPS.value or c.stages.joint.steps
    c.stages.joint.weights.text = _TEXT_WEIGHT.value
    seeds = _SEEDS.value or (1 if _QUICK.value else 3)
    say = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
    named = f"configs/cross_corpus.py:{preset}", c
    base = sweep.bases({out: named}, named, out, say)[out]
    sweep.settle(out, settings(base))
    say(f"base after {time.monotonic() - began:.0f} s")
    size = sizes(base)
    for name, domains in size["domains"].items():
        say(f"{name}: {', '.join(domains)}; dialogues {size['dialogues'][name]}")
    result = measure(base, out, seeds, _ARMS.value, say, _PROCESSES.value)
    for way, rows in result.items():
        console.print(table(way, rows))
        if "gap_closed" in rows:
            say(f"gap closed by joint training: {sweep.shown(rows['gap_closed'], 2)}, of slot F1 "
                f"{sweep.shown(rows['gap_closed_slot_f1'], 2)}\n")
    seconds = time.monotonic() - began
    say(f"{seeds} seed(s), {c.stages.joint.steps} steps, {seconds:.0f} s of this call")
    first = next(iter(result.values()))
    print(sweep.plain({name: first[name]["joint_goal"] for name in _ARMS.value} | {
        "gap_closed": first.get("gap_closed"),
        "gap_closed_slot_f1": first.get("gap_closed_slot_f1"), "directions": result, "seeds": seeds,
        "steps": c.stages.joint.steps, "sizes": size, "seconds": seconds,
        "corpora": _CORPORA.value, "split": _SPLIT.value}))


if __name__ == "__main__":
    _OUT = flags.DEFINE_string("out", "runs/cross_corpus", "Where base, cells and logs go.")
    _CORPORA = flags.DEFINE_string("corpora", "simulated", "Preset of configs/cross_corpus.py: "
                                   "simulated, german, sgd, or domains as restaurant-hotel.")
    _RAW = flags.DEFINE_string("raw", "", "The folder with `sgd` and `multiwoz` as released.")
    _DATA = flags.DEFINE_string("data_dir", "", "The prepared data; OUT/data if empty.")
    _SEEDS = flags.DEFINE_integer("seeds", 0, "How many seeds; 0: three (--quick: one).")
    _STEPS = flags.DEFINE_integer("steps", 0, "Steps of every arm; 0: the config's.")
    _TEXT_WEIGHT = flags.DEFINE_float("text_weight", 1.0, "Of the text's loss.")
    _SPLIT = flags.DEFINE_enum("split", cross_corpus.HELD_OUT, [
        cross_corpus.CHOOSING, cross_corpus.HELD_OUT], "What is scored.")
    _ARMS = flags.DEFINE_list("arms", list(ARMS), "Which arms.")
    _QUICK = flags.DEFINE_bool("quick", False, "The tiny preset.")
    _PROCESSES = flags.DEFINE_integer("processes", 0, "That make a cell at a time; 1: this one, "
                                      "with the seeds of an arm in one program; 0: on CPUs one for "
                                      "each core, up to 8, elsewhere 1.")
    run(main)
