"""Spoken commands with intent and slots, and the grammar that they were said from.

The layout of the public speech-to-intent benchmark: `labels.jsonl` ({"id", "audio", "intent",
"slots": {name: value}} a line) beside `audio/`, and the grammar of the commands as the one other
.yaml file (`context: expressions: {intent: [expression, ...]}, slots: {type: [value, ...]}`). In
an expression `[a, b]` is one of a and b, `$type:name` a value of a slot, all else is said as it
stands. Of the recordings the states are known, not the words.

Each command is a dialogue of one user turn; the intent, in lower case, is the domain. Recordings
begin and end in long silence, which is cut off by energy (`speech.spoken_span`). The split of a
recording is fixed by the hash of its id alone: of `TENTHS`, the last fifth is `test`.

Split `grammar` are commands drawn from the grammar, to be written or spoken by a synthesiser.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from speechdst.data import speech
from speechdst.data.corpora import common
from speechdst.data.dialogue import SAMPLE_RATE, AudioRef, BadInput, Dialogue, State, Turn
from speechdst.data.grammar import Grammar, spoken

TENTHS = ("train",) * 7 + ("dev",) + ("test",) * 2
SPLITS = ("train", "dev", "test", "grammar")

def fold(id: str) -> str:
    """The split of a recording, by the SHA-256 of its id."""
    return TENTHS[int(common.by_hash(id), 16) % len(TENTHS)]


def schema(root: Path) -> dict[str, list[str]]:
    """Intent -> the slots of its expressions."""
    return {intent: sorted({p for parts in lines for p in parts if isinstance(p, str)})
            for intent, lines in Grammar.read(root).expressions.items()}


def wordings(root: Path) -> Callable[[State], list[str]]:
    """What the grammar lets one say for a state of one domain; none, if it has nothing for it."""
    grammar = Grammar.read(root)

    def said(state: State) -> list[str]:
        (intent, slots), = state.items()
        return grammar.wordings(intent, slots)

    return said


def read(root: Path, split: str, *, orders: int = 1000, seed: int = 0, transcripts: str = ""
         ) -> Iterator[Dialogue | BadInput]:  # fmt: skip
    """Yields the recordings of `split`; lines that cannot be used as `BadInput` with file:line.

    Args:
      root: the folder of `labels.jsonl`.
      orders: of `grammar`, how many commands; the first ones do not depend on how many.
      seed: of `grammar`.
      transcripts: a file of what was said, {"id", "text"} a line, as `speechdst.transcribe`
        writes it; empty: turns have no text. Recordings that are not in it are left out.
    """
    common.known_split("speech_to_intent", split, SPLITS)
    grammar = Grammar.read(root)
    if split == "grammar":
        for index in range(orders):
            rng = random.Random(f"speech_to_intent/{seed}/{index}")
            intent, slots, text = grammar.draw(rng)
            turn = Turn("user", text, state={intent: slots})
            yield Dialogue(f"grammar-{seed}-{index:05d}", "speech_to_intent", split, (turn,))
        return
    texts = _texts(Path(transcripts)) if transcripts else None
    for where, raw in common.json_lines(root / "labels.jsonl"):
        try:
            if isinstance(raw, BadInput):
                raise raw
            id = common.want(raw, "id", str, file=where)
            if fold(id) != split:
                continue
            if texts is not None and id not in texts:
                raise BadInput("there is no transcript", file=where, record=id)
            state = _state(raw, grammar, where, id)
            audio = common.want(raw, "audio", str, file=where, id=id)
            path = str(common.inside(root, audio, file=where, id=id))
            start, end = speech.spoken_span(speech.load(AudioRef(path)))
            ref = AudioRef(path, start / SAMPLE_RATE, end / SAMPLE_RATE)
            text = "" if texts is None else texts[id]
            yield Dialogue(id, "speech_to_intent", split, (Turn("user", text, (), ref, state),))
        except BadInput as error:
            yield error


def _state(raw: dict, grammar: Grammar, where: str, id: str) -> State:
    intent = common.want(raw, "intent", str, file=where, id=id).lower()
    given = common.want(raw, "slots", dict, file=where, id=id)
    if intent not in grammar.expressions:
        raise BadInput(f"unknown intent {intent!r}", file=where, record=id, field="intent",
                       mend=f"the grammar has {sorted(grammar.expressions)}")
    slots = {}
    for name, value in given.items():
        slots[name.lower()] = spoken(value)
        if slots[name.lower()] not in grammar.values.get(name.lower(), ()):
            raise BadInput(f"{value!r} is no value of the grammar", file=where, record=id,
                           field=f"slots.{name}")
    return {intent: slots}


def _texts(path: Path) -> dict[str, str]:
    texts = {}
    for where, raw in common.json_lines(path):
        if isinstance(raw, BadInput):
            raise raw
        id = common.want(raw, "id", str, file=where)
        texts[id] = common.want(raw, "text", str, file=where, id=id)
    return texts
