"""Spoken stories with questions for the tests of conversations."""

import dataclasses
import functools

from speechdst.data import speech, tts
from speechdst.data.corpora import simulated_stories
from speechdst.data.dialogue import BadInput, Dialogue

VOICES = {"user": tts.Voice("en-us+f2", 170, 60), "agent": tts.Voice("en-us+m3", 160, 40),
          "narrator": tts.Voice("en-us+m1", 180, 50)}


@functools.cache
def stories(count: int = 6) -> tuple[Dialogue, ...]:
    """Simulated stories, half of them ambiguous, every turn spoken by espeak-ng."""
    return tuple(map(spoken, simulated_stories.read(split="dev", dialogues=count, seed=1)))


def spoken(dialogue: Dialogue, voices=VOICES) -> Dialogue:
    turns = [dataclasses.replace(t, audio=speech.encode(tts.espeak(t.text, voices[t.speaker]),
                                                        voices[t.speaker].label))
             for t in dialogue.turns]
    return dataclasses.replace(dialogue, turns=tuple(speech.placed(turns)))


def picky(text: str, voice: tts.Voice):
    """A synthesiser that is asked for words."""
    if not any(c.isalpha() for c in text):
        raise BadInput("no word in it")
    return tts.espeak(text, voice)
