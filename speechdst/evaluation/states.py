"""The evaluation of a dialogue state tracker: decode a split, score it, write both.

Prints joint goal accuracy with intervals beside two reference points: a tracker that always says
"empty", and, of data with transcripts, the text oracle: the same model with the gold transcripts
given to its text path. With a grammar (`evaluation.grammar`) also what the decoder makes of it.
Writes WORKDIR/evaluation/DATA-SPLIT-{speech,decoder,text_oracle,empty}/{predictions,scores}.json;
predictions are in the field scorer's format. With `context.kind` asr, which is stage 1, the
transcripts are scored instead, those of the decoder and of the CTC head: word error rate, in
WORKDIR/evaluation/DATA-SPLIT-{asr,ctc}.
"""

import dataclasses
import json
import time
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from speechdst import distributed, sharding
from speechdst.config import context_of, grammar_of
from speechdst.data.dialogue import BadInput, Turn
from speechdst.data.loader import First
from speechdst.data.prepared import Prepared
from speechdst.decoding.ctc import Speller, has_head
from speechdst.decoding.track import Tracker
from speechdst.files import write_text
from speechdst.metrics import jga, ontology, scores
from speechdst.metrics.wer import word_errors
from speechdst.training.checkpoint import load_run

ARMS = {"speech": "from speech", "decoder": "decoder alone", "text_oracle": "text oracle"}


def heard(turn: Turn) -> bool:
    return turn.speaker != "user" or turn.features is not None or turn.audio is not None


def predictions(tracker: Tracker, dialogues) -> dict:
    """{dialogue id: [{active_domains, state, label, text, readable}, one per user turn]}, for the
    user turns that are annotated."""
    made: dict = {d.id: {} for d in dialogues}
    for index, turn, prediction, text in tracker.track(dialogues):
        made[dialogues[index].id][turn] = {
            "active_domains": prediction.domains, "state": prediction.slots,
            "label": prediction.label, "text": text, "readable": prediction.readable}
    return {d.id: [made[d.id][i] for i, _ in d.user_turns()] for d in dialogues}


def write(folder: Path, predicted: dict, scored: list[scores.Scores]) -> None:
    if not distributed.first():
        return
    write_text(folder / "predictions.json", json.dumps(predicted, indent=1) + "\n")
    write_text(folder / "scores.json", json.dumps([json.loads(s.to_json()) for s in scored]) + "\n")


def summary(rows: dict[str, scores.Scores]) -> Table:
    table = Table(title="joint goal accuracy, % (95 % interval over dialogues)",
                  title_justify="left")
    for column in ("", "JGA", "slot F1", "slot error rate", "WER"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, s in rows.items():
        wer = (s.word_errors or {}).get("rate")
        table.add_row(name, str(s.joint_goal_accuracy), scores.number(s.slots.f1),
                      scores.number(s.slots.error_rate), scores.number(wer))
    return table


def evaluate_transcripts(c: ConfigDict, workdir: Path, tracker: Tracker | Speller, dialogues,
                         name: str = "asr") -> None:
    """Word error rate of the user turns that have a transcript, with its interval over dialogues;
    `name`: of the arm. Raises `BadInput` if none has one."""
    e = c.evaluation
    heard: list[list[tuple[str, str]]] = [[] for _ in dialogues]
    for d, turn, prediction, _ in tracker.track(dialogues):
        if said := dialogues[d].turns[turn].text:
            heard[d].append((said, prediction.label))
    counted = [word_errors(pairs) for pairs in heard if pairs]
    whole = word_errors(pair for pairs in heard for pair in pairs)
    if whole.rate is None:
        raise BadInput("no turn has a transcript", file=Path(c.data_dir) / e.data, field="split",
                       mend="evaluate a split that is transcribed")
    rate = scores.Rate.of([w.substitutions + w.deletions + w.insertions for w in counted],
                          [w.words for w in counted])
    results = workdir / "evaluation" / f"{e.data}-{e.split}-{name}"
    if distributed.first():
        lines = [{"id": d.id, "said": said, "heard": label} for d, pairs in zip(
            dialogues, heard, strict=True) for said, label in pairs]
        write_text(results / "transcripts.jsonl", "".join(json.dumps(x) + "\n" for x in lines))
        found = dataclasses.asdict(whole) | {"rate": whole.rate,
                                             "interval": [rate.low, rate.high]}
        write_text(results / "word_errors.json", json.dumps(found) + "\n")
    distributed.written(results)
    print(f"{name}: word error rate, %: {rate} over {whole.words} words of "
          f"{whole.utterances} turns; transcripts: {results}")


def evaluate(c: ConfigDict, workdir: Path, stage: str = "", oracle: bool = True) -> None:
    """Evaluates the run in `workdir` after `stage` (empty: the last); `oracle`: also the text
    oracle. Dialogues without a state are left out and counted. Raises `BadInput` if none has one.
    """
    tokenizer, model, params = load_run(c, workdir, stage, sharding.make_mesh(**c.mesh))
    e = c.evaluation
    data = Prepared(Path(c.data_dir) / e.data)
    taken = list(First(data.dialogues(e.split), e.limit))
    if e.context.kind == "asr":
        evaluate_transcripts(c, workdir, Tracker(params, model, tokenizer, context_of(e.context),
                                                 e.beam, e.max_new, e.rows), taken)
        if has_head(model):
            evaluate_transcripts(c, workdir, Speller(params, model, tokenizer), taken, "ctc")
        return
    dialogues = [d for d in taken if d.user_turns()]
    if e.context.path == "speech":
        dialogues = [d for d in dialogues if all(heard(t) for t in d.turns)]
    if len(dialogues) < len(taken):
        print(f"{len(taken) - len(dialogues)} dialogues without a state, or with a user turn "
              "without speech, are left out")
    if not dialogues:
        raise BadInput("no dialogue has a state to score against", file=Path(c.data_dir) / e.data,
                       field="split", mend="evaluate a split that is annotated")
    tracker = Tracker(params, model, tokenizer, context_of(e.context), e.beam, e.max_new, e.rows,
                      grammar=grammar_of(c))
    gold = jga.references(dialogues)
    values = ontology.from_values(data.ontology(None), "all splits of the prepared data")
    arms = {"speech": tracker}
    if tracker.grammar is not None:
        arms["decoder"] = dataclasses.replace(tracker, grammar=None)
    if oracle and all(t.text for d in dialogues for _, t in d.user_turns()):
        read = dataclasses.replace(tracker.context, path="words")
        arms["text_oracle"] = dataclasses.replace(tracker, context=read, gold_history=True,
                                                  grammar=None)
    shown, console, results = {}, Console(), workdir / "evaluation"
    for name, arm in arms.items():
        began = time.monotonic()
        predicted = predictions(arm, dialogues)
        scored = [jga.score(gold, predicted, mode, ontology=None if mode == "exact" else values,
                            schema=data.schema) for mode in ("exact", "fuzzy", "field")]
        write(results / f"{e.data}-{e.split}-{name}", predicted, scored)
        shown[ARMS[name]] = scored[0]
        print(f"{name}: {len(dialogues)} dialogues in {time.monotonic() - began:.0f} s", flush=True)
        for table in scores.table(*scored, title=name) if name == "speech" else ():
            console.print(table)
    empty = jga.always_empty(gold)
    shown["always empty"] = jga.score(gold, empty)
    write(results / f"{e.data}-{e.split}-empty", empty, [shown["always empty"]])
    distributed.written(results)
    console.print(summary(shown))
    print(f"predictions and scores: {results}")
