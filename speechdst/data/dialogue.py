"""The record: the one schema that every corpus is read into and every recipe reads.

A `Dialogue` is a list of `Turn`s; a user turn may carry the dialogue state that holds after it.
Audio is either an `AudioRef` (where a corpus keeps it, as its reader found it) or an `Audio`
(16 kHz mono, as preparation stores it). Records are stored as msgpack maps: no pickle.
"""

import dataclasses
from pathlib import Path

import msgpack
import numpy as np

SAMPLE_RATE = 16_000  # Hz, of every stored recording
SPEAKERS = ("user", "agent")

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

    flac: bytes
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
    features: np.ndarray | None = None
    start: float | None = None


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A dialogue. `id` is unique within `corpus`; `split` is the corpus's own."""

    id: str
    corpus: str
    split: str
    turns: tuple[Turn, ...]

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
                          "turns": [turn(t) for t in dialogue.turns]})


def from_bytes(data: bytes, source: str | Path = "") -> Dialogue:
    """Inverse of `to_bytes`; a truncated or foreign record raises `BadInput` naming `source`."""
    try:
        raw = msgpack.unpackb(data)
        return Dialogue(
            raw["id"], raw["corpus"], raw["split"], tuple(_turn(t) for t in raw["turns"])
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
