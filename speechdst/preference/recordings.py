"""Stage 1: recordings of conversations, of which the user's sound is not kept.

Its documents hold the agent's channel, the user's words with their times, and of the user's voice
nothing but its pitch and rate. Nothing behind this stage ever sees the user's waveform.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechdst.data import preference_pairs, speech, text_stream
from speechdst.data.corpora import common, simulated, simulated_conversations
from speechdst.data.dialogue import SAMPLE_RATE, AudioRef, BadInput, Word
from speechdst.data.two_channel import Channel
from speechdst.preference import faults
from speechdst.preference.settings import Folder, Simulated
from speechdst.preference.stage import Document

MAIN = "SPEAKER_MAIN"
LOOP = 6  # the same word so often in a row is a recogniser that has lost its way
_FAULTS = {"cut": "interruption", "late": "unresponsiveness", "silent": "unresponsiveness"}


@dataclasses.dataclass(frozen=True)
class Recordings:
    """The first stage; its items are names of recordings."""

    settings: Simulated | Folder
    name = "recordings"
    needs = ("item",)

    def items(self) -> dict[str, list[str]]:
        """Split -> names. Raises `BadInput` if there are none."""
        s = self.settings
        if isinstance(s, Simulated):
            return {split: [str(i) for i in range(n)] for split, n in s.conversations.items()}
        return named(s.root, s.splits, ".wav")

    def contents(self, split: str, item: str) -> str:
        s = self.settings
        if isinstance(s, Simulated):
            return f"{split}/{item}"
        return held(Path(s.root) / split, item, (".wav", ".json"))

    def make(self, given: Mapping[str, Document]) -> tuple[Document, list[BadInput]]:
        item, split = given["item"]["id"], given["item"]["split"]
        if isinstance(self.settings, Simulated):
            return simulated_log(self.settings, split, int(item)), []
        return self._recorded(split, item), []

    def _recorded(self, split: str, item: str) -> Document:
        wav, path = (Path(self.settings.root) / split / f"{item}{e}" for e in (".wav", ".json"))
        agent, user = (speech.load(AudioRef(str(wav), channel=i, channels=2)) for i in (0, 1))
        found = common.load_json(path)
        said = alignments(found, path)
        if not said[1]:
            said = said[0], heard(user, self.settings.transcriber, wav)
        for who, words in zip(("agent", "user"), said, strict=True):
            check(words, len(agent) / SAMPLE_RATE, item, who)
        return document(item, split, Channel(speech.encode(agent), said[0]), user, said[1])


def document(id: str, split: str, agent: Channel, user: np.ndarray,
             words: Sequence[Word]) -> Document:
    """What is kept of a conversation; `user` float32 [samples]."""
    spoken = sum(w.end - w.start for w in words)
    pitch = speech.pitch(user)
    rate = speech.speaking_rate(len(words), spoken)
    return {"id": id, "split": split, "agent": preference_pairs.pack(agent),
            "user": {"words": [[w.text, w.start, w.end] for w in words],
                     "pitch": None if math.isnan(pitch) else pitch,
                     "rate": None if math.isnan(rate) else rate},
            "known": None}


def conversation_of(settings: Simulated, split: str, index: int) -> tuple:
    """One simulated conversation with the faults of its agent, its replies, and what is wrong with
    what they say, by turn."""
    (dialogue,) = simulated.read(split=split, seed=settings.seed, dialogues=1, first=index,
                                 **settings.said)
    said, wrong = faults.spoiled(dialogue, settings.content, faults.schema(), settings.seed)
    return (*simulated_conversations.staged(said, settings.timing, settings.seed), wrong)


def simulated_log(settings: Simulated, split: str, index: int) -> Document:
    """What is kept of a simulated conversation, and under "known" what each reply was to be:
    {"text", "before", "start", "end", "axes": it fails on, "fault"}."""
    conversation, replies, wrong = conversation_of(settings, split, index)
    known = []
    for reply in replies:
        axes = [_FAULTS[reply.fault]] if reply.fault in _FAULTS else []
        right = reply.text
        if reply.turn in wrong:
            right = wrong[reply.turn].right
            axes += [wrong[reply.turn].axis] * (reply.fault != "silent")
        known.append({"text": right, "before": reply.before, "start": reply.start,
                      "end": reply.end, "fault": reply.fault, "axes": axes})
    made = document(conversation.id, split, conversation.agent,
                    speech.decode(conversation.user.audio), conversation.user.words)
    made["user"]["voice"] = conversation.user.audio.voice
    return made | {"known": known}


def named(root: str, splits: Sequence[str], ending: str) -> dict[str, list[str]]:
    """Split -> names of the files in its folder that end so, without the ending. Raises `BadInput`
    if there are none."""
    made = {split: sorted(p.name.removesuffix(ending) for p in (Path(root) / split).glob(
        f"*{ending}")) for split in splits}
    for split, names in made.items():
        if not names:
            raise BadInput(f"there are no files *{ending}", file=Path(root) / split,
                           mend="lay the recordings out as speechdst/preference/settings.py says")
    return made


def held(folder: Path, item: str, endings: Sequence[str]) -> str:
    """What the files of an item hold, by size and time."""
    of = lambda p: (p.stat().st_size, p.stat().st_mtime_ns) if p.exists() else None
    return f"{folder.name}/{item} {[of(folder / (item + e)) for e in endings]}"


def alignments(found: Any, path: Path) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """The words of agent and user in {"alignments": ...} of a file, as `Folder` describes it."""
    said: tuple[list[Word], list[Word]] = ([], [])
    entries = found.get("alignments") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise BadInput("no list of alignments", file=path, field="alignments",
                       mend='write {"alignments": [[word, [start, end], speaker], ...]}')
    for i, entry in enumerate(entries):
        try:
            word, (start, end), speaker = entry
            said[speaker != MAIN].append(Word(str(word), float(start), float(end)))
        except (TypeError, ValueError) as error:
            raise BadInput(f"{entry!r}, expected [word, [start, end], speaker]", file=path,
                           field=f"alignments[{i}]") from error
    return tuple(said[0]), tuple(said[1])


def check(words: Sequence[Word], seconds: float, record: str, who: str) -> None:
    """Raises `BadInput` for words out of order, or those of a recogniser that repeats itself."""
    try:
        text_stream.check(words, seconds)
    except BadInput as bad:
        raise BadInput(bad.problem, record=record, field=f"{who}.{bad.field}",
                       mend=bad.mend) from bad
    run = 1
    for a, b in itertools.pairwise(words):
        run = run + 1 if a.text.lower() == b.text.lower() else 1
        if run == LOOP:
            raise BadInput(f"{b.text!r} {LOOP} times in a row", record=record,
                           field=f"{who}.words", mend="transcribe it again")


def heard(samples: np.ndarray, transcriber: str, file: Path) -> tuple[Word, ...]:
    """The words that a recogniser hears, piece by piece between pauses. It does not say when: the
    words of a piece share its time by their letters."""
    if not transcriber:
        raise BadInput("no words of the user", file=file, field="alignments",
                       mend="add them, or name a transcriber")
    from speechdst import api  # JAX, only where it is needed

    listen = _transcriber(transcriber)
    made: list[Word] = []
    for start, end in api.spans(samples):
        made += spread(listen(samples[start:end], file.name), start / SAMPLE_RATE,
                       end / SAMPLE_RATE)
    if not made:
        raise BadInput("the transcriber hears no word of the user", file=file)
    return tuple(made)


@functools.cache
def _transcriber(name: str):
    """Loaded once in each process."""
    from speechdst import transcribers

    return transcribers.transcriber(name)


def spread(text: str, start: float, end: float) -> Iterator[Word]:
    """The words of a text from one second to another, each as long as it has letters."""
    words = text.split()
    ends = np.cumsum([0, *(len(w) + 1 for w in words)])
    times = start + (end - start) * ends / max(ends[-1], 1)
    for word, a, b in zip(words, times, times[1:], strict=False):
        yield Word(word, float(a), float(b))
