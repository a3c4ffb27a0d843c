"""The record: the one schema that every corpus is read into and every recipe reads.

A `Dialogue` is a list of `Turn`s; a user turn may carry the dialogue state that holds after it.
A conversation about something that is read out or given beforehand has `Passage`s, and the
`Question`s that are asked about them; the turns of a passage come first, spoken by a narrator.
Audio is either an `AudioRef` (where a corpus keeps it, as its reader found it) or an `Audio`
(16 kHz mono, as preparation stores it). Records are stored as msgpack maps: no pickle.
"""

import dataclasses
from pathlib import Path

import msgpack
import numpy as np

SAMPLE_RATE = 16_000  # Hz, of every stored recording
SPEAKERS = ("user", "agent", "narrator")

State = dict[str, dict[str, str]]
"""Dialogue state: domain -> slot -> value, all lower case, cumulative; no empty values."""


class BadInput(ValueError):
    """Input that cannot be used: one line naming file, record and field, and how to mend it.

    Readers *yield* a `BadInput` for a record that is to be quarantined and *raise* one when the
    corpus as a whole cannot be read.
    """

    def __init__(self, problem: str, *, file="", record: str = "", field: str = "", mend: str = ""):
        self.problem, self.file, self.record = problem, str(file), str(record)
        self.field, self.mend = field, mend
        where = ", ".join(
            f"{name} {value}"
            for name, value in (("file", self.file), ("record", record), ("field", field))
            if value
        )
        super().__init__(f"{where}: {problem}" * bool(where) + problem * (not where)
                         + (f" ({mend})" if mend else ""))


@dataclasses.dataclass(frozen=True)
class Word:
    """A spoken word; start and end in seconds from the start of its turn's audio."""

    text: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class AudioRef:
    """Where a corpus keeps a turn's audio.

    `start`, `end` in seconds (`end` None: to the end of the file); `channel` of a multi-channel
    file (None: the file must be mono); `key` names the group inside an HDF5 file.
    """

    path: str
    start: float = 0.0
    end: float | None = None
    channel: int | None = None
    channels: int | None = None  # how many the file must have, where the layout fixes it
    key: str = ""
    voice: str = ""  # the speaker or TTS voice, where the corpus names it


@dataclasses.dataclass(frozen=True)
class Audio:
    """A stored recording: FLAC bytes, 16 kHz, mono, 16 bit; `voice` is the speaker or TTS voice."""

    flac: bytes = dataclasses.field(repr=False)
    samples: int
    voice: str = ""

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of one speaker.

    `state` is the cumulative state after this turn (user turns only; None: not annotated, {}:
    annotated as empty). `features` float16 [frames, channels] are computed once by preparation;
    what they are stands in the manifest. `start` is the turn's place in the recording, in seconds.
    """

    speaker: str
    text: str
    words: tuple[Word, ...] = ()
    audio: AudioRef | Audio | None = None
    state: State | None = None
    features: np.ndarray | None = dataclasses.field(default=None, repr=False)
    start: float | None = None


@dataclasses.dataclass(frozen=True)
class Passage:
    """What questions are asked about: its `text`, and the turns that say it, `first` to `last`
    (exclusive; a narrator's, one a sentence). Recordings of another wording (a recogniser's text,
    say) leave their turns' text empty."""

    text: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """One right answer; `span`: the characters [start, end) of the passage that it is, or that it
    rests on (None: not annotated)."""

    text: str
    span: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Reading:
    """One way to mean an ambiguous question: what the user says to make it clear, and the answers
    that are then right."""

    reply: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Clarification:
    """What to ask back when a question is ambiguous, one or several wordings, and the readings;
    `meant`: the number of the reading that this user has in mind."""

    questions: tuple[str, ...]
    readings: tuple[Reading, ...]
    meant: int = 0


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a passage.

    `id` is unique within its dialogue. `turn`: the user turn that asks it, of which `text` is the
    wording; None: it is only written. `passage`: a number in `Dialogue.passages`. `answers`: any
    of them is right (none: it has no answer there). `ambiguous`: None, not annotated; True: the
    right reply is to ask back, and `clarification` says what.
    """

    id: str
    text: str
    answers: tuple[Answer, ...]
    turn: int | None = None
    passage: int = 0
    ambiguous: bool | None = None
    clarification: Clarification | None = None


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A dialogue. `id` is unique within `corpus`; `split` is the corpus's own. `groups`: what
    scores are broken down by, e.g. {"dialect": "usa"}."""

    id: str
    corpus: str
    split: str
    turns: tuple[Turn, ...]
    passages: tuple[Passage, ...] = ()
    questions: tuple[Question, ...] = ()
    groups: dict[str, str] = dataclasses.field(default_factory=dict)

    def user_turns(self) -> list[tuple[int, Turn]]:
        """The user turns that carry a state, each with its index in `turns`."""
        return [(i, t) for i, t in enumerate(self.turns)
                if t.speaker == "user" and t.state is not None]


def validate(dialogue: Dialogue, schema: dict[str, list[str]] | None = None) -> None:
    """Raises `BadInput` if the record breaks its own rules or names domains outside `schema`."""

    def bad(problem, field, mend=""):
        raise BadInput(problem, record=f"{dialogue.corpus}/{dialogue.id}", field=field, mend=mend)

    if not dialogue.id:
        bad("the id is empty", "id")
    if not dialogue.turns:
        bad("the dialogue has no turns", "turns")
    for i, turn in enumerate(dialogue.turns):
        at = f"turns[{i}]"
        if turn.speaker not in SPEAKERS:
            bad(f"unknown speaker {turn.speaker!r}, expected one of {SPEAKERS}", f"{at}.speaker")
        if not turn.text.strip() and turn.audio is None:
            bad("the turn has neither text nor audio", at)
        if turn.state is not None and turn.speaker != "user":
            bad("only user turns carry a state", f"{at}.state")
        for domain, slots in (turn.state or {}).items():
            if schema is not None and domain not in schema:
                bad(f"unknown domain {domain!r}, the schema has {sorted(schema)}", f"{at}.state",
                    "add the domain to the schema or drop it from the state")
            for slot, value in slots.items():
                if not isinstance(value, str) or not value:
                    bad(f"value of {domain}-{slot} is {value!r}, expected a non-empty string",
                        f"{at}.state")
                if schema is not None and slot not in schema[domain]:
                    bad(f"unknown slot {domain}-{slot}, the schema has {sorted(schema[domain])}",
                        f"{at}.state", "add the slot to the schema or drop it from the state")
        end = None
        if isinstance(turn.audio, Audio):
            end = turn.audio.seconds
        for j, word in enumerate(turn.words):
            if word.start < -1e-3 or word.end < word.start - 1e-3 or (
                end is not None and word.end > end + 0.25
            ):
                bad(f"word {word.text!r} runs from {word.start:.2f} s to {word.end:.2f} s"
                    + (f", outside the audio of {end:.2f} s" if end is not None else ""),
                    f"{at}.words[{j}]", "times are seconds from the start of the turn's audio")
    _validate_questions(dialogue, bad)


def _validate_questions(dialogue: Dialogue, bad) -> None:
    turns = len(dialogue.turns)
    for i, passage in enumerate(dialogue.passages):
        if not passage.text.strip():
            bad("the passage has no text", f"passages[{i}].text")
        if not 0 <= passage.first <= passage.last <= turns:
            bad(f"turns {passage.first} to {passage.last} of {turns}", f"passages[{i}]",
                "a passage names the turns that say it")
    seen: set[str] = set()
    for i, question in enumerate(dialogue.questions):
        at = f"questions[{i}]"
        if not question.id or question.id in seen:
            bad(f"the question id {question.id!r} is empty or appears twice", f"{at}.id")
        seen.add(question.id)
        if not 0 <= question.passage < len(dialogue.passages):
            bad(f"passage {question.passage} of {len(dialogue.passages)}", f"{at}.passage")
        if question.turn is None and not question.text.strip():
            bad("the question is neither written nor spoken", at)
        if question.turn is not None and not (
                0 <= question.turn < turns and dialogue.turns[question.turn].speaker == "user"):
            bad(f"turn {question.turn} is no user turn", f"{at}.turn")
        size = len(dialogue.passages[question.passage].text)
        for j, answer in enumerate(question.answers):
            if not answer.text.strip():
                bad("the answer is empty", f"{at}.answers[{j}].text")
            if answer.span and not 0 <= answer.span[0] < answer.span[1] <= size:
                bad(f"the answer's span {list(answer.span)} is outside its passage of {size} "
                    "characters", f"{at}.answers[{j}].span")
        ask = question.clarification
        if question.ambiguous and ask is None:
            bad("an ambiguous question without a clarification", f"{at}.clarification")
        if ask is not None and not question.ambiguous:
            bad("a clarification of a question that is not ambiguous", f"{at}.clarification")
        if ask is not None and not (
                ask.questions and all(q.strip() for q in ask.questions) and ask.readings
                and all(r.reply.strip() and r.answers and all(a.strip() for a in r.answers)
                        for r in ask.readings)):
            bad("a clarification needs a question, and for each reading the user's reply and an "
                "answer", f"{at}.clarification")
        if ask is not None and not 0 <= ask.meant < len(ask.readings):
            bad(f"reading {ask.meant} of {len(ask.readings)}", f"{at}.clarification.meant")


def to_bytes(dialogue: Dialogue) -> bytes:
    """The stored form of a prepared dialogue (its audio must be `Audio` or None)."""

    def audio(a):
        if a is None:
            return None
        if not isinstance(a, Audio):
            raise TypeError(f"{dialogue.id}: audio has not been read yet ({a})")
        return dataclasses.asdict(a)

    def turn(t: Turn):
        return {
            "speaker": t.speaker, "text": t.text, "state": t.state, "start": t.start,
            "words": [[w.text, w.start, w.end] for w in t.words],
            "audio": audio(t.audio),
            "features": None if t.features is None else
            {"shape": list(t.features.shape), "float16": t.features.astype("<f2").tobytes()},
        }

    return msgpack.packb({"id": dialogue.id, "corpus": dialogue.corpus, "split": dialogue.split,
                          "turns": [turn(t) for t in dialogue.turns]} | about(dialogue))


def from_bytes(data: bytes, source: str | Path = "") -> Dialogue:
    """Inverse of `to_bytes`; a truncated or foreign record raises `BadInput` naming `source`."""
    try:
        raw = msgpack.unpackb(data)
        return Dialogue(
            raw["id"], raw["corpus"], raw["split"], tuple(_turn(t) for t in raw["turns"]),
            **from_about(raw),
        )
    except (ValueError, KeyError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise BadInput(f"not a dialogue record, or cut off ({type(error).__name__}: {error})",
                       file=source, mend="prepare the data again") from error


def _turn(t: dict) -> Turn:
    features = t["features"]
    if features is not None:
        features = np.frombuffer(features["float16"], "<f2").reshape(features["shape"])
    return Turn(t["speaker"], t["text"], tuple(Word(*w) for w in t["words"]),
                None if t["audio"] is None else Audio(**t["audio"]),
                t["state"], features, t["start"])


def about(dialogue: Dialogue) -> dict:
    """Passages, questions and groups as plain values. What a dialogue does not have takes no room,
    so that records without them are what they always were."""
    values = {"passages": [dataclasses.asdict(p) for p in dialogue.passages],
              "questions": [dataclasses.asdict(q) for q in dialogue.questions],
              "groups": dialogue.groups}
    return {field: value for field, value in values.items() if value}


def from_about(values: dict) -> dict:
    """The fields of `Dialogue` that `about` gave; other keys are passed over."""
    return {"passages": tuple(Passage(**p) for p in values.get("passages", ())),
            "questions": tuple(_question(q) for q in values.get("questions", ())),
            "groups": values.get("groups", {})}


def _question(q: dict) -> Question:
    answers = tuple(Answer(a["text"], a["span"] and tuple(a["span"])) for a in q["answers"])
    ask = q["clarification"]
    if ask is not None:
        ask = Clarification(tuple(ask["questions"]), tuple(
            Reading(r["reply"], tuple(r["answers"])) for r in ask["readings"]), ask["meant"])
    return Question(**(q | {"answers": answers, "clarification": ask}))
