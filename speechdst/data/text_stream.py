"""The text stream of a multi-stream model: words at the frames where they are spoken, and back.

Source: Défossez et al. 2024 (Moshi, arXiv 2410.00037), section 3.4.4 ("inner monologue"). Every
frame has one token: a word's tokens from the frame on in which the word starts, EPAD in the frame
before it if that is free, PAD elsewhere. A word in the first frame is announced there and starts
one frame later.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from speechdst.data.dialogue import BadInput, Word
from speechdst.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextStream:
    """`frame_rate` in Hz; `pad`, `epad`: ids that no text has.

    `overflow`: what happens to tokens of a word that are left when the next one starts: "shift":
    they keep their places and the next word waits, so that no token is lost; "cut": they are lost
    and every word starts in its own frame.
    """

    frame_rate: float
    pad: int
    epad: int
    overflow: str = "shift"

    def __post_init__(self):
        if self.overflow not in ("shift", "cut"):
            raise ValueError(f"overflow {self.overflow!r}, expected 'shift' or 'cut'")
        if self.pad == self.epad:
            raise ValueError(f"pad and epad are both {self.pad}")

    def frame(self, seconds: float) -> int:
        """The frame in which a time lies. Times are often written as rounded multiples of a
        frame, so what is less than a thousandth of one before a frame lies in it."""
        return int(np.floor(seconds * self.frame_rate + 1e-3))

    def build(self, words: Sequence[Word], tokenizer: Tokenizer, frames: int) -> np.ndarray:
        """int32 [frames] of words with their times from the first frame on. What has no frame left
        at the end is lost.

        Raises:
          BadInput: words out of order or outside the frames, an end before its start, no text, or
            text that needs the tokens PAD or EPAD.
        """
        check(words, frames / self.frame_rate)
        ids = [tokenizer.words(w.text) for w in words]
        for i, (word, own) in enumerate(zip(words, ids, strict=True)):
            if bad := {self.pad, self.epad} & set(own):
                raise BadInput(f"{word.text!r} has the token {min(bad)}, which stands for padding",
                               field=f"words[{i}]", mend="choose ids for pad and epad that no "
                               "text has")
        return self.place([(self.frame(w.start), own)
                           for w, own in zip(words, ids, strict=True)], frames)

    def place(self, words: Iterable[tuple[int, Sequence[int]]], frames: int) -> np.ndarray:
        """int32 [frames] of (frame in which it starts, its tokens) by word, in order."""
        stream = np.full(frames, self.pad, np.int32)
        free = 1  # the first frame that a token may take; frame 0 is only ever EPAD's
        for start, ids in words:
            if self.overflow == "cut":
                at = max(start, 1)
                stream[at:] = self.pad
            else:
                at = max(start, free)
            ids = ids[: max(frames - at, 0)]
            if len(ids) and stream[at - 1] == self.pad:
                stream[at - 1] = self.epad
            stream[at : at + len(ids)] = ids
            free = at + len(ids)
        return stream

    def words(self, stream: Sequence[int], tokenizer: Tokenizer) -> list[Word]:
        """The inverse: words with the times at which their first token's frame starts and their
        last one's ends. A word ends before padding, and before a token that begins a word."""
        found: list[tuple[int, list[int]]] = []
        inside = False
        for at, token in enumerate(np.asarray(stream).tolist()):
            if token < 0 or token in (self.pad, self.epad):
                inside = False
                continue
            if not inside or tokenizer.begins_word(token):
                found.append((at, []))
            found[-1][1].append(token)
            inside = True
        texts = [(at, len(ids), tokenizer.decode(ids).strip()) for at, ids in found]
        return [Word(text, at / self.frame_rate, (at + n) / self.frame_rate)
                for at, n, text in texts if text]


def check(words: Sequence[Word], seconds: float) -> None:
    """Raises `BadInput` if a word is empty, ends before it starts, starts before the one before
    it, or starts outside the recording."""
    before = 0.0
    for i, word in enumerate(words):
        expected = ""
        if not word.text.strip():
            expected = "some text"
        elif not before <= word.start < seconds:
            expected = f"a start from {before:.2f} s, where the word before it starts, to " \
                       f"{seconds:.2f} s"
        elif word.end < word.start:
            expected = "an end behind its start"
        if expected:
            raise BadInput(f"{word.text!r} from {word.start} to {word.end} s, expected {expected}",
                           field=f"words[{i}]", mend="sort the words by time, in seconds")
        before = word.start
