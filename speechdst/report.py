"""One self-contained HTML page about a run: curves, scores, and its dialogues to listen to.

    python -m speechdst.report --run=runs/demo --data=data/demo --split=dev --out=report.html

Read are `RUN/metrics.jsonl` (one JSON object a line: stage, step, numbers) and, per evaluation,
`RUN/evaluation/NAME/scores.json` (one `Scores.to_json()` or a list of them) and
`RUN/evaluation/NAME/predictions.json`, or of conversations that were evaluated turn by turn
`trajectories.jsonl`. The audio comes from the prepared data. The page loads nothing from anywhere
and opens without a network; everything that comes from data is escaped.
"""

import collections
import dataclasses
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import soundfile
from absl import flags
from rapidfuzz.distance import Levenshtein

from speechdst import command, report_charts, report_conversations, report_live
from speechdst.conversation import loop
from speechdst.conversation.scores import counted
from speechdst.data import preference_pairs
from speechdst.data.dialogue import SAMPLE_RATE, Audio, BadInput, Dialogue
from speechdst.data.prepared import Prepared
from speechdst.files import write_text
from speechdst.metrics import jga
from speechdst.metrics.normalize import transcript
from speechdst.metrics.scores import Scores, number
from speechdst.report_audio import opus
from speechdst.report_conversations import evenly

AUDIO_DIALOGUES = 20
MAX_DIALOGUES = 200


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """`scores`: the same predictions in one or more modes; the charts show the first of them."""

    name: str
    scores: list[Scores]
    predictions: dict[str, list[dict[str, Any]]]


def write(
    path: str | Path,
    *,
    title: str,
    curves: Sequence[dict],
    evaluations: Sequence[Evaluation],
    dialogues: Sequence[Dialogue],
    conversations: Sequence[report_conversations.Conversations] = (),
    live: report_live.Section | None = None,
    audio_dialogues: int = AUDIO_DIALOGUES,
    max_dialogues: int = MAX_DIALOGUES,
) -> None:
    """Writes the page to `path` (aside first, then renamed).

    `curves`: rows `{"stage", "step", name: number}`. `dialogues` are the gold ones with their
    audio; they are gone through once for their ids, and those that are shown are kept. Of those
    that an evaluation predicts at most `max_dialogues` are shown, evenly picked, and of these
    `audio_dialogues`, evenly picked, with audio; the page says how many of how many. The same holds
    for those of `conversations` and of `live`.
    Raises `BadInput` where predictions do not fit the dialogues.
    """
    predicted = {name.removesuffix(".json") for e in evaluations for name in e.predictions}
    place = {d.id.removesuffix(".json"): i for i, d in enumerate(dialogues) if d.user_turns()}
    shown = evenly([name for name in place if name in predicted], max_dialogues)
    known = {name: dialogues[place[name]] for name in shown}
    heard = set(evenly(shown, audio_dialogues))
    clips: list[str] = []

    def clip(audio: Audio) -> int:
        clips.append(data_uri(audio))
        return len(clips) - 1

    clip_of = {
        (name, i): clip(turn.audio)
        for name in shown
        for i, turn in enumerate(known[name].turns)
        if name in heard and isinstance(turn.audio, Audio)
    }
    cards, browsed = [], []
    for evaluation in evaluations:
        answers = {n.removesuffix(".json"): turns for n, turns in evaluation.predictions.items()}
        if own := [
            {"evaluation": len(browsed), "dialogue": name, **card}
            for name in shown
            if name in answers
            for card in _cards(known[name], answers[name], clip_of)
        ]:  # one of other data has nothing on this page to look at
            cards += own
            browsed.append(evaluation.name)

    def stereo(samples) -> int:
        clips.append(opus(samples, SAMPLE_RATE))
        return len(clips) - 1

    live = live or report_live.Section()
    heard_live = report_live.data(live, stereo, max_dialogues, audio_dialogues)
    paths = report_conversations.cards(
        conversations, dialogues, clip, max_dialogues, audio_dialogues
    )
    stages, charts = report_charts.curves(curves)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("speechdst", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["counted"] = counted
    page = environment.get_template("report_template.html").render(
        title=title,
        stages=stages,
        charts=charts,
        times=(times := _times(curves)),
        time_chart=times and report_charts.time_shares({t["stage"]: t["shares"] for t in times}),
        evaluations=[_evaluation(e) for e in evaluations],
        browsed=browsed,
        shown=len(shown),
        heard=sum(
            any((name, i) in clip_of for i in range(len(known[name].turns))) for name in heard
        ),
        known=len(predicted),
        conversations=report_conversations.tables(conversations),
        paths=len({card["dialogue"] for card in paths}),
        live={"tables": report_live.tables(live), "curves": report_live.curves(live),
              "heard": heard_live["names"], "pairs": len(heard_live["pairs"])},
        data={
            "cards": cards,
            "clips": clips,
            "paths": paths,
            "live": heard_live,
            "arms": [f"{c.data}: {c.arm}" for c in conversations],
        },
    )
    write_text(Path(path), page, errors="replace")


def _times(curves: Sequence[dict]) -> list[dict]:
    """Per stage that tells of it: seconds, shares by what they went into, and the means over the
    time in steps of FLOP/s and MFU (None: not known)."""
    result = []
    for stage, by_step in report_charts.by_stage(curves).items():
        rows = [row for row in by_step.values() if row.get("time/step") is not None]
        seconds: collections.Counter[str] = collections.Counter()
        for row in rows:
            seconds.update({name.removeprefix(report_charts.TIME): value
                            for name, value in row.items() if name.startswith(report_charts.TIME)})

        def mean(name, rows=rows):
            known = [row for row in rows if name in row]
            steps = sum(row["time/step"] for row in known)
            return sum(row[name] * row["time/step"] for row in known) / steps if steps else None

        if whole := sum(seconds.values()):
            result.append({"stage": stage, "seconds": whole,
                           "shares": {kind: value / whole for kind, value in seconds.items()},
                           "tflops": mean("model TFLOP/s"), "mfu": mean("mfu")})
    return result


def data_uri(audio: Audio) -> str:
    """The recording as an Ogg Opus data URI (some 30 kbit/s), which browsers play."""
    return opus(*soundfile.read(io.BytesIO(audio.flac), dtype="float32"))


def word_differences(gold: str, own: str) -> tuple[list[list], list[list]]:
    """Runs of words of both texts, `[changed, words]`; compared without case and punctuation. If
    nobody wrote down what was said, nothing is marked."""
    gold_words, own_words = gold.split(), own.split()
    if not gold_words:
        return [], [[False, own]] if own_words else []
    operations = Levenshtein.opcodes(
        [transcript(w) for w in gold_words], [transcript(w) for w in own_words]
    )
    sides: tuple[list[list], list[list]] = ([], [])
    for op in operations:
        runs = gold_words[op.src_start : op.src_end], own_words[op.dest_start : op.dest_end]
        for side, words in zip(sides, runs, strict=True):
            if words:
                side.append([op.tag != "equal", " ".join(words)])
    return sides


def _cards(dialogue: Dialogue, answers: list, clip_of: dict) -> list[dict]:
    """One card per annotated user turn and the turns before it; the last has what follows, too."""

    name = dialogue.id.removesuffix(".json")

    def line(i):
        turn = dialogue.turns[i]
        return {"speaker": turn.speaker, "text": turn.text, "clip": clip_of.get((name, i))}

    references = jga.references([dialogue])[dialogue.id]
    results = jga.outcomes({name: references}, {name: answers})
    cards, begin = [], 0
    for result, reference in zip(results, references, strict=True):
        answer = answers[result.number - 1] if result.number <= len(answers) else None
        answer = answer or {}
        own = answer.get("label")
        heard = word_differences(reference["text"], own) if isinstance(own, str) else None
        cards.append(
            {
                "number": result.number,
                "before": [line(i) for i in range(begin, reference["turn"])],
                "turn": line(reference["turn"]),
                "said": heard[0] if heard else [[False, reference["text"]]],
                "own": heard[1] if heard else None,
                "slots": _slots(result),
                "right": result.correct(),
                "missing": result.missing,
                "unreadable": answer.get("readable", True) is False,
                "answer": answer["text"] if isinstance(answer.get("text"), str) else None,
                "domains": sorted({d for d, _ in result.gold.keys() | result.predicted.keys()}),
                "after": [],
            }
        )
        begin = reference["turn"] + 1
    cards[-1]["after"] = [line(i) for i in range(begin, len(dialogue.turns))]
    return cards


def _slots(result: jga.Outcome) -> list[list]:
    """Rows `[domain, slot, gold or None, predicted or None, mark]`."""

    def mark(key):
        if key not in result.predicted:
            return "missing"
        if key not in result.gold:
            return "extra"
        return "same" if key in result.equal else "wrong"

    keys = sorted(result.gold.keys() | result.predicted.keys())
    return [[*k, result.gold.get(k), result.predicted.get(k), mark(k)] for k in keys]


def _evaluation(evaluation: Evaluation) -> dict:
    main = evaluation.scores[0] if evaluation.scores else None
    return {
        "name": evaluation.name,
        "scores": evaluation.scores,
        "main": main,
        "domains": main
        and report_charts.by_domain({d: s.joint_goal_accuracy for d, s in main.by_domain.items()}),
        "turns": main and report_charts.by_turn(main.by_turn),
        "slots": sorted(main.by_slot.items(), key=lambda item: (-item[1].slots.errors, item[0]))
        if main
        else [],
    }


def read_run(
    run: str | Path,
) -> tuple[list[dict], list[Evaluation], list[report_conversations.Conversations],
           report_live.Section]:
    """The curves, the evaluations of states, those of conversations, and what there is of
    full-duplex models, of a run directory.

    Raises `BadInput` if there is nothing of it, or a file is not what it should be. A last line of
    `metrics.jsonl` that a stopped run left half-written is left out.
    """
    run = Path(run)
    curves = []
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    for i, text in enumerate(lines):
        try:
            row = json.loads(text)
            curves.append({**row, "stage": str(row["stage"]), "step": int(row["step"])})
        except (ValueError, KeyError, TypeError) as error:
            if i + 1 < len(lines):
                raise BadInput(
                    f"no row with stage and step ({error})", file=metrics, record=f"line {i + 1}"
                ) from error
    evaluations, conversations, live = [], [], report_live.Section()
    for folder in sorted((run / "evaluation").glob("*/"), key=_place):
        if (folder / "predictions.json").exists():
            predictions = _json(folder / "predictions.json")
            if not isinstance(predictions, dict):
                raise BadInput("expected {dialogue id: [turns]}", file=folder / "predictions.json")
            file = folder / "scores.json"
            scores = _json(file) if file.exists() else []
            scores = scores if isinstance(scores, list) else [scores]
            made = [Scores.from_json(json.dumps(s), file) for s in scores]
            evaluations.append(Evaluation(folder.name, made, predictions))
        elif (folder / loop.TRAJECTORIES).exists():
            conversations.append(report_conversations.read(folder))
        else:
            live.add(folder)
    if not curves and not evaluations and not conversations and not live:
        raise BadInput(
            "neither metrics.jsonl nor evaluation/*/predictions.json or trajectories.jsonl",
            file=run,
            mend="name the directory that was given to train as --workdir",
        )
    return curves, evaluations, conversations, live


def _place(folder: Path) -> tuple[bool, str]:
    """The model's own evaluations before what they are measured against."""
    scale = ("-text_oracle", "-empty", "-untrained", "-blind", "-always_answers", "-always_asks",
             "-oracle")  # fmt: skip
    return folder.name.endswith(scale), folder.name


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"no JSON ({error})", file=path, mend="evaluate again") from error


def _define_flags() -> None:
    """Only when run as a command: other commands import `write` and have flags of their own."""
    flags.DEFINE_string("run", None, "The run's directory.", required=True)
    flags.DEFINE_string("data", None, "Prepared data that was evaluated; none: no dialogues.")
    flags.DEFINE_string("pairs", None, "Prepared preference pairs to listen to.")
    flags.DEFINE_string("split", "test", "The split of either.")
    flags.DEFINE_string("out", "report.html", "The page to write.")
    flags.DEFINE_integer("audio_dialogues", AUDIO_DIALOGUES, "Dialogues with audio.", 0)
    flags.DEFINE_integer("max_dialogues", MAX_DIALOGUES, "Dialogues on the page.", 0)


def main(argv):
    del argv
    given = flags.FLAGS
    curves, evaluations, conversations, live = read_run(given.run)
    dialogues = Prepared(Path(given.data)).dialogues(given.split) if given.data else ()
    if given.pairs:
        live.pairs = preference_pairs.read(given.pairs, given.split)
    write(
        given.out,
        title=Path(given.run).resolve().name,
        curves=curves,
        evaluations=evaluations,
        dialogues=dialogues,
        conversations=conversations,
        live=live,
        audio_dialogues=given.audio_dialogues,
        max_dialogues=given.max_dialogues,
    )
    print(f"{given.out}: {os.path.getsize(given.out) / 1e6:.1f} MB")


if __name__ == "__main__":
    _define_flags()
    command.run(main)
