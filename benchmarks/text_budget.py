"""How much text of a corpus, or how many recorded dialogues, does a tracker for it need?

    python -m benchmarks.text_budget --out=runs/text_budget
    python -m benchmarks.text_budget --quick --out=runs/budget_quick        # seconds, shows nothing
    python -m benchmarks.text_budget --settings=middle-llama-spoken --shares=0,5,100 --out=...

As `benchmarks.cross_corpus` from corpus A to corpus B, arm `joint`: speech of A and 0, 1, 5, 20 and
100 % of the text of B (0: no resource at all), which the seed draws. A setting is the decoder's
size, its family and how the text is worded: as people speak (fillers, restarts, corrections) or as
they write. Every decoder has a base of its own, settings of one decoder share it; all hear with one
speech encoder. Beside them, for every decoder: speech of A and 5, 20 and 100 % of the spoken
dialogues of B with their text.

Through the points of a setting goes a curve of saturation (`metrics.transfer.Curve`); with that of
the spoken dialogues it answers the question, for the accuracy that lies --reach of the way from no
resource to all of the spoken dialogues. Intervals (95 %) are over seeds and dialogues. Charts:
OUT/text_budget.html. What was stopped goes on with the same command. The last line is one JSON
object.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks import cross_corpus as arms
from benchmarks import sweep
from configs import cross_corpus
from speechdst import report_charts
from speechdst.command import run
from speechdst.data.dialogue import BadInput
from speechdst.files import write_text
from speechdst.metrics import transfer

STYLES = ("spoken", "written")
SETTINGS = ("middle-llama-spoken", "middle-llama-written", "small-llama-spoken",
            "large-llama-spoken", "middle-gpt-spoken")
SOURCE, TARGET = "a", "b"
SHARES, RECORDED = (0, 1, 5, 20, 100), (5, 20, 100)


def parts(setting: str) -> tuple[str, str, str]:
    """Size, family and style of a setting; raises `BadInput` for what there is not."""
    named = setting.split("-")
    known = (cross_corpus.SIZES, cross_corpus.FAMILIES, STYLES)
    if len(named) != 3 or any(name not in of for name, of in zip(named, known, strict=True)):
        raise BadInput(f"no setting {setting!r}", field="--settings", mend="SIZE-FAMILY-STYLE of "
                       + ", ".join("/".join(of) for of in known))
    return tuple(named)


def text_arm(config: ConfigDict, style: str, share: float) -> sweep.Arm:
    """Speech of the source, and `share` percent of the target's text in a style."""
    source = {(SOURCE, "train"): 1.0}
    text = {(f"{TARGET}_{style}", "train"): share / 100} if share else {}
    name = f"text-{style}-{share:g}" if share else "nothing"
    return sweep.Arm(name, (arms.stage(config, source, source | text),))


def speech_arm(config: ConfigDict, share: float) -> sweep.Arm:
    """Speech of the source and `share` percent of the target's spoken dialogues."""
    if not share:
        return text_arm(config, STYLES[0], 0)
    both = {(SOURCE, "train"): 1.0, (TARGET, "train"): share / 100}
    return sweep.Arm(f"recorded-{share:g}", (arms.stage(config, both, both),))


def points(cells: dict[str, list[dict]], made: dict[float, sweep.Arm],
           dialogues: int) -> dict[float, np.ndarray]:
    """{number of dialogues: right turns [seeds, dialogues]} of arms by share."""
    return {max(1, round(share / 100 * dialogues)) if share else 0:
            sweep.counted(cells[arm.name], TARGET, "right") for share, arm in sorted(made.items())}


def answer(text: dict[float, np.ndarray], recorded: dict[float, np.ndarray], turns: np.ndarray,
           reach: float) -> dict:
    """The curves of one setting, and what is needed of either for the accuracy that lies `reach`
    of the way from nothing to all that was recorded."""
    low = transfer.percent(recorded[0], turns)[0]
    high = transfer.percent(recorded[max(recorded)], turns)[0]
    accuracy = low + reach * (high - low)
    found = {"accuracy": accuracy}
    for name, rights in (("text", text), ("recorded", recorded)):
        curve, needed = transfer.fitted(rights, turns, accuracy)
        found[name] = {
            "points": {n: transfer.percent(r, turns) for n, r in sorted(rights.items())},
            "curve": curve, "needed": needed,
            "smallest": transfer.smallest(rights, turns), "falls": transfer.falls(rights, turns)}
    return found


def table(result: dict) -> Table:
    made = Table(title="joint goal accuracy on the target corpus, % (95 % interval)",
                 title_justify="left")
    amounts = sorted({n for found in result.values() for n in found["text"]["points"]})
    for column in ("", *(f"{n:,}" for n in amounts), "beats 0 from"):
        made.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for setting, found in result.items():
        for name in ("text", "recorded"):
            points, least = found[name]["points"], found[name]["smallest"]
            made.add_row(f"{setting}, {name}", *(
                sweep.shown(points[n]) if n in points else "" for n in amounts),
                "none" if least is None else f"{least:,}")
    return made


def told(setting: str, found: dict) -> str:
    """The answer in a sentence."""
    amount = lambda x: "more than any" if np.isinf(x) else f"{x:,.0f}"
    said = [f"{amount(found[name]['needed'][0])} [{amount(found[name]['needed'][1])}, "
            f"{amount(found[name]['needed'][2])}] {what}" for name, what in
            (("text", "dialogues of text"), ("recorded", "recorded ones"))]
    falls = ", ".join(f"{less:,} to {more:,}" for less, more in found["text"]["falls"])
    return (f"{setting}: {found['accuracy']:.1f} % takes {said[0]}, or {said[1]}"
            + (f"; more text did worse from {falls}" if falls else ""))


def charts(result: dict) -> dict[str, str]:
    """Title -> SVG: settings that differ in one thing, in one chart."""
    first = next(iter(result))
    series = {f"{first}: {what}": (found["points"], found["curve"]) for what, found in
              (("text", result[first]["text"]), ("recorded", result[first]["recorded"]))}
    groups = {"Text against recorded dialogues": series}
    for title, place in (("Size of the decoder", 0), ("Family of the decoder", 1),
                         ("Style of the text", 2)):
        rest = lambda s, place=place: s.split("-")[:place] + s.split("-")[place + 1 :]
        same = [s for s in result if rest(s) == rest(first)]
        if len(same) > 1:
            groups[title] = {s.split("-")[place]: (result[s]["text"]["points"],
                                                   result[s]["text"]["curve"]) for s in same}
    return {title: report_charts.amounts(of, "dialogues of the target corpus")
            for title, of in groups.items()}


def measure(bases: Mapping[Path, sweep.Base], settings: Sequence[str], shares: Sequence[float],
            recorded: Sequence[float], seeds: int, reach: float, out: Path, say=print,
            processes: int = 0) -> dict:
    """{setting: `answer`}. `bases`: by folder, OUT/SIZE-FAMILY."""
    result = {}
    for setting in settings:
        size, family, style = parts(setting)
        base = bases[folder := out / f"{size}-{family}"]
        dialogues = len(sweep.Prepared(Path(base.config.data_dir) / TARGET).dialogues("train"))
        text = {s: text_arm(base.config, style, s) for s in {0, *shares}}
        heard = {s: speech_arm(base.config, s) for s in {0, *recorded}}
        once = {arm.name: arm for arm in (*text.values(), *heard.values())}
        cells = sweep.cells(base, [*once.values()], seeds, (TARGET,), base.config.evaluation.split,
                            folder, say, processes)
        turns = sweep.counted(next(iter(cells.values())), TARGET, "turns")[0]
        result[setting] = answer(points(cells, text, dialogues), points(cells, heard, dialogues),
                                 turns, reach)
    return result


def main(argv):
    del argv
    began, out, console = time.monotonic(), Path(_OUT.value), Console(width=120)
    sweep.start(_QUICK.value)
    seeds = _SEEDS.value or (1 if _QUICK.value else 3)
    say = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)

    def named(size: str, family: str) -> tuple[str, ConfigDict]:
        preset = f"{'tiny_' if _QUICK.value else ''}simulated+{size}+{family}"
        c = cross_corpus.get_config(preset)
        c.data_dir, c.evaluation.split = str(out / "data"), _SPLIT.value
        c.stages.joint.steps = _STEPS.value or c.stages.joint.steps
        return f"configs/cross_corpus.py:{preset}", c

    settings = _SETTINGS.value if not _QUICK.value else _SETTINGS.value[:1]
    decoders = dict.fromkeys(parts(setting)[:2] for setting in settings)
    bases = sweep.bases({out / "-".join(of): named(*of) for of in decoders},
                        named(*parts(SETTINGS[0])[:2]), out, say)
    for folder, base in bases.items():
        sweep.settle(folder, arms.settings(base))
    number = lambda values: [float(v) for v in values]
    result = measure(bases, settings, number(_SHARES.value), number(_RECORDED.value), seeds,
                     _REACH.value, out, say, _PROCESSES.value)
    console.print(table(result))
    for setting, found in result.items():
        say(told(setting, found))
    write_text(out / "text_budget.html", report_charts.page("Text budget", charts(result), [
        told(setting, found) for setting, found in result.items()]))
    print(sweep.plain({"settings": result, "seeds": seeds, "reach": _REACH.value,
                      "split": _SPLIT.value, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    _OUT = flags.DEFINE_string("out", "runs/text_budget", "Where bases, cells and charts go.")
    _SETTINGS = flags.DEFINE_list("settings", list(SETTINGS), "SIZE-FAMILY-STYLE each.")
    _SHARES = flags.DEFINE_list("shares", [str(s) for s in SHARES], "Percent of the text.")
    _RECORDED = flags.DEFINE_list("recorded", [str(s) for s in RECORDED],
                                  "Percent of the spoken dialogues.")
    _SEEDS = flags.DEFINE_integer("seeds", 0, "How many seeds; 0: three (--quick: one).")
    _STEPS = flags.DEFINE_integer("steps", 0, "Steps of every cell; 0: the config's.")
    _REACH = flags.DEFINE_float("reach", 0.5, "The accuracy asked for, as a part of the way.")
    _SPLIT = flags.DEFINE_enum("split", cross_corpus.HELD_OUT, [
        cross_corpus.CHOOSING, cross_corpus.HELD_OUT], "What is scored.")
    _PROCESSES = flags.DEFINE_integer("processes", 0, "As of benchmarks.cross_corpus.")
    _QUICK = flags.DEFINE_bool("quick", False, "The tiny preset, one setting.")
    run(main)
