"""Stage 2: what the user said, in a synthetic voice, every word at the time of the transcript.

The synthesiser speaks phrases; each word of one is then stretched (phase vocoder) to the time that
it has in the transcript, and put there. The documents of this stage come from words alone.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from speechdst.data import augment, preference_pairs, shard, speech, tts
from speechdst.data.augment import Augment
from speechdst.data.dialogue import SAMPLE_RATE, BadInput, Word
from speechdst.data.two_channel import Channel
from speechdst.preference.settings import Resynthesis
from speechdst.preference.stage import Document

Timed = Callable[[str, tts.Voice], tuple[np.ndarray, tuple[Word, ...]]]
"""(text, voice) -> int16 [samples] at 16 kHz, and when each word (what stands between spaces) is
said in them."""

PHRASE = 0.3  # seconds of silence that end a phrase
SLOWEST, FASTEST = 0.4, 2.5  # of what was spoken
STILL = 0.03  # a word that is off by less is not stretched
FADE = round(0.004 * SAMPLE_RATE)  # samples, where words are cut apart
SAMPLE = "please find me a table for two in the north of town"


def timed(name: str) -> Timed:
    """The synthesiser of this name: "espeak" or "module:function"; else raises `BadInput`."""
    return tts.espeak_timed if name == "espeak" else tts.synthesizer(name)


@dataclasses.dataclass(frozen=True)
class Respoken:
    settings: Resynthesis
    name = "resynthesis"
    needs = ("recordings",)

    def make(self, given: Mapping[str, Document]) -> tuple[Document, list[BadInput]]:
        log = given["recordings"]
        user = log["user"]
        voice = choose(self.settings, log["id"], log["split"], user["pitch"], user.get("voice", ""))
        words = [Word(*w) for w in user["words"]]
        samples, unsaid = spoken(words, log["agent"]["audio"]["samples"],
                                 timed(self.settings.synthesizer), voice)
        if self.settings.augment:
            rng = np.random.default_rng(shard.number(log["id"], "resynthesis"))
            samples = Augment(dict(self.settings.augment))(samples, rng)
        said = tuple(w for i, w in enumerate(words) if i not in unsaid)
        channel = Channel(speech.encode(samples, voice.label), said)
        return {"id": log["id"], "split": log["split"],
                "user": preference_pairs.pack(channel)}, [
            BadInput(f"the synthesiser does not say {words[i].text!r}", record=log["id"],
                     field=f"user.words[{i}]") for i in unsaid]


def choose(settings: Resynthesis, id: str, split: str, pitch: float | None,
           own: str) -> tts.Voice:
    """The voice that a user gets: never the `own` one, should that be synthetic as well."""
    known = tuple(tts.voices(0, settings.voices, held_out=split in settings.held_out))
    voices = [v for v in known if v.name != own.split("/")[0]]
    if settings.choice == "any" or pitch is None:
        return voices[shard.number(id, "voice") % len(voices)]
    pitches = dict(zip(known, _pitches(known, settings.synthesizer), strict=True))
    # A voice without a pitch, such as a whisper, is far from everybody.
    away = lambda v: abs(math.log(pitches[v] / pitch)) if pitches[v] > 0 else math.inf
    return (min if settings.choice == "near" else max)(voices, key=away)


@functools.cache
def _pitches(voices: tuple[tts.Voice, ...], synthesizer: str) -> list[float]:
    """Hz of each."""
    say = timed(synthesizer)
    return [speech.pitch(say(SAMPLE, v)[0].astype(np.float32) / 32768) for v in voices]


def spoken(words: Sequence[Word], length: int, say: Timed,
           voice: tts.Voice) -> tuple[np.ndarray, list[int]]:
    """float32 [length] with the words at their times, and the numbers of words that have no
    sound."""
    whole, unsaid = np.zeros(length, np.float32), []
    for phrase in _phrases(words):
        pieces = _pieces([words[i].text for i in phrase], say, voice)
        for i, piece in zip(phrase, pieces, strict=True):
            if piece is None:
                unsaid.append(i)
                continue
            start, end = words[i].start, words[i].end
            if i + 1 < len(words) and start < words[i + 1].start:  # which then begins
                end = min(end, words[i + 1].start)
            at = round(start * SAMPLE_RATE)
            part = fitted(piece, max(round(end * SAMPLE_RATE) - at, 1))
            room = whole[at : at + len(part)]
            room += part[: len(room)]
    return np.clip(whole, -1, 1), unsaid


def _phrases(words: Sequence[Word]) -> list[list[int]]:
    made: list[list[int]] = []
    for i, word in enumerate(words):
        if i and word.start - words[i - 1].end < PHRASE:
            made[-1].append(i)
        else:
            made.append([i])
    return made


def _pieces(texts: Sequence[str], say: Timed, voice: tts.Voice) -> list[np.ndarray | None]:
    """The sound of each text, spoken as one phrase; None: there is nothing to say."""
    sizes = [len(t.split()) if re.search(r"\w", t) else 0 for t in texts]
    phrase = " ".join(t for t, n in zip(texts, sizes, strict=True) if n)
    if not phrase:
        return [None] * len(texts)
    try:
        samples, words = say(phrase, voice)
    except BadInput:
        return [None] * len(texts)
    samples = samples.astype(np.float32) / 32768
    made, first = [], 0
    for size in sizes:
        own = words[first : first + size]
        first += size
        made.append(samples[round(own[0].start * SAMPLE_RATE) : round(own[-1].end * SAMPLE_RATE)]
                    if own else None)
    return [m if m is not None and len(m) else None for m in made]


def fitted(samples: np.ndarray, length: int) -> np.ndarray:
    """float32 [length]: the sound at its pitch, slower or faster; what would have to be more than
    2.5 times so is cut off, or followed by silence."""
    rate = min(max(len(samples) / length, SLOWEST), FASTEST)
    if abs(rate - 1) > STILL:
        samples = augment.tempo(samples, rate, window=512)
    made = np.zeros(length, np.float32)
    made[: len(samples)] = samples[:length]
    fade = min(FADE, length // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    made[:fade] *= ramp
    made[length - fade :] *= ramp[::-1]
    return made
