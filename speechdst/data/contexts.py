"""A dialogue as trees: which turns a state is tracked from, and how they are given.

spoken_history  every turn in the trunk (speech, or the text encoder's reading of it); behind each
                user turn hangs its state. One tree a dialogue (arXiv 2510.09424, full history).
text_history    past turns as text in the trunk; the current user turn and its state in a branch.
single          the order of arXiv 2511.22503: current turn, text history, target. One tree a turn.
asr             one utterance, its transcript: stage 1.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from speechdst.data import speech
from speechdst.data.dialogue import BadInput, Dialogue, Turn
from speechdst.data.tokenizer import Tokenizer
from speechdst.data.tree import (
    Branch,
    DialogueTree,
    RowShape,
    Segment,
    Soft,
    Tokens,
    Utterance,
    length,
    pack,
)
from speechdst.decoding.parse import target

KINDS = ("spoken_history", "text_history", "single", "asr")
FRAMES_PER_SECOND = 100
WHOLE = -1  # key of the tree that holds the answers of a whole dialogue


@dataclasses.dataclass(frozen=True)
class Context:
    """`path`: what fills a user turn's soft positions, "speech" or "words" (the text encoder).

    `agent`: agent turns of a spoken history as "speech" where there is audio, or as "text".
    Answers to user turns shorter than `min_seconds`, longer than `max_seconds` or with fewer
    than `min_tokens` are left out of training (never of evaluation); `history_turns` bounds a
    text history. `spelling`: what a CTC head over the speech writes, "pieces" of the vocabulary as
    the decoder does, or "characters", of which each is met often however few words there are.
    """

    kind: str = "text_history"
    path: str = "speech"
    agent: str = "text"
    min_seconds: float = 0.0
    max_seconds: float = 30.0
    min_tokens: int = 0
    history_turns: int = 100
    spelling: str = "pieces"

    kinds = KINDS  # of this class; another recipe's contexts have their own

    def __post_init__(self):
        for field, allowed in (("kind", self.kinds), ("path", ("speech", "words", "tokens")),
                               ("agent", ("speech", "text")),
                               ("spelling", ("pieces", "characters"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"context.{field} is {getattr(self, field)!r}, "
                                 f"expected one of {allowed}")


@dataclasses.dataclass(frozen=True)
class Hearing:
    """What the speech encoder hears: "log_mel", "waveform", or "encoded" (its own output, made
    beforehand); clips of `least` to `most` samples (None: of any length)."""

    kind: str = "log_mel"
    least: int = speech.WINDOW
    most: int | None = None

    @classmethod
    def of(cls, encoder) -> "Hearing":
        """That of an encoder's config."""
        return cls(encoder.hears, encoder.least, encoder.most)

    @property
    def table(self) -> str:
        """The kind of `data.tree.Table` that its utterances go into."""
        return "speech" if self.kind == "log_mel" else self.kind

    def __contains__(self, samples: int) -> bool:
        return samples >= self.least and (self.most is None or samples <= self.most)


class TreeBuilder:
    """Dialogues to trees. `soft_length(kind, size)`: soft positions of an utterance."""

    def __init__(self, context: Context, tokenizer: Tokenizer,
                 soft_length: Callable[[str, int], int], hearing: Hearing | None = None,
                 features: bool = True):
        self.context, self.tokenizer, self.soft_length = context, tokenizer, soft_length
        self.hearing = hearing or Hearing()
        self.features = features  # False: only their sizes matter (planning)

    def sizes_only(self) -> "TreeBuilder":
        """The same builder for planning: no features are computed."""
        made = copy.copy(self)
        made.features = False
        return made

    @property
    def table(self) -> str:
        """The kind of `data.tree.Table` that its utterances go into."""
        return "words" if self.context.path == "words" else self.hearing.table

    def length(self, tree: DialogueTree) -> int:
        return length(tree)

    def pack(self, trees: Sequence[DialogueTree], shape: RowShape) -> dict:
        return pack(trees, shape)

    def utterance(self, turn: Turn) -> Utterance:
        if self.context.path != "speech":
            return Utterance(words=np.array(self.tokenizer.words(turn.text), np.int32))
        spell = (self.tokenizer.characters if self.context.spelling == "characters"
                 else self.tokenizer.words)
        transcript = np.array(spell(turn.text), np.int32)
        if turn.audio is not None and turn.audio.samples not in self.hearing:
            h = self.hearing
            raise BadInput(f"{turn.audio.seconds:.2f} s of speech of the turn {turn.text!r}, the "
                           f"encoder hears clips of {h.least} samples"
                           + (" or more" if h.most is None else f" to {h.most} samples"),
                           field="turns.audio", mend="cut the turn, or leave it out")
        if self.hearing.kind == "waveform":
            if turn.audio is None:
                raise BadInput(f"there is no recording of the turn {turn.text!r}",
                               field="turns.audio", mend="the encoder hears waveforms: prepare "
                               "the corpus with keep_audio")
            return Utterance(audio=turn.audio, transcript=transcript)
        if self.hearing.kind == "encoded":
            if turn.features is None:
                raise BadInput(f"the speech of the turn {turn.text!r} was not encoded",
                               field="turns.features", mend="prepare it with --features")
            return Utterance(encoded=turn.features, transcript=transcript)
        features = turn.features
        if features is None and turn.audio is not None:
            features = (speech.log_mel(speech.decode(turn.audio)) if self.features else
                        np.zeros((turn.audio.samples * FRAMES_PER_SECOND // 16_000, 1)))
        if features is None:
            raise BadInput(f"there is no speech of the turn {turn.text!r}", field="turns.audio",
                           mend="prepare the corpus with its audio, or use a text path")
        return Utterance(features=features, transcript=transcript)

    def usable(self, turn: Turn) -> bool:
        """Whether this user turn's answer is trained on: it is there and within the limits."""
        c = self.context
        if c.path != "speech":
            return bool(turn.text)
        kind = self.hearing.kind
        if (turn.features is None if kind == "encoded" else turn.audio is None and (
                kind == "waveform" or turn.features is None)):
            return False
        if turn.audio is not None and turn.audio.samples not in self.hearing:
            return False
        frames = len(turn.features) if kind != "encoded" and turn.features is not None else (
            turn.audio.seconds * FRAMES_PER_SECOND)
        seconds = frames / FRAMES_PER_SECOND
        return c.min_seconds <= seconds <= c.max_seconds and (
            not c.min_tokens or len(self.tokenizer.words(turn.text)) >= c.min_tokens)

    def line(self, speaker: str, text: str) -> Tokens:
        """One turn of a text history."""
        return Tokens(self.tokenizer.encode(f"{speaker.upper()}: {text}\n"))

    def answer(self, turn: Turn) -> tuple[Tokens, Tokens]:
        text = turn.text if self.context.kind == "asr" else target(turn.text, turn.state)
        ids = (self.tokenizer.words if self.context.kind == "asr" else self.tokenizer.encode)(text)
        return Tokens([self.tokenizer.bos]), Tokens([*ids, self.tokenizer.eos], loss=True)

    def said(self, utterances: list[Utterance], turn: Turn) -> Segment:
        """A user turn, as the path gives it; what fills soft positions joins `utterances`."""
        u = self.utterance(turn)
        if self.context.path == "tokens":
            return Tokens(u.words)
        utterances.append(u)
        return Soft(len(utterances) - 1, self.soft_length(u.kind, u.size))

    def trees(self, dialogue: Dialogue) -> list[DialogueTree]:
        """The training trees of a dialogue; those without an answer are left out."""
        return [self.tree(dialogue, key) for key in self.keys(dialogue)]

    def keys(self, dialogue: Dialogue) -> list[int]:
        """What `tree` knows the training trees of a dialogue by: the turn that is answered, or
        `WHOLE` for a tree of many answers."""
        turns, kind = dialogue.turns, self.context.kind
        if kind == "asr":
            return [i for i, t in enumerate(turns) if t.text and self.usable(t) and (
                t.speaker == "user" or self.context.agent == "speech")]
        answered = [i for i, t in enumerate(turns) if t.state is not None and self.usable(t)]
        if kind == "single":
            return answered
        # What reads a history that is cut reads no prefix of a common trunk: a tree each.
        bound = self.context.history_turns if kind == "text_history" else len(turns)
        apart = [i for i in answered if i > bound]
        return [WHOLE] * (len(apart) < len(answered)) + apart

    def tree(self, dialogue: Dialogue, key: int) -> DialogueTree:
        """The training tree of this key; no other tree of the dialogue is built."""
        turns, kind = dialogue.turns, self.context.kind
        if key == WHOLE:
            return getattr(self, kind)(turns)
        utterances: list[Utterance] = []
        said, answer = self.said(utterances, turns[key]), self.answer(turns[key])
        past = () if kind == "asr" else self.history(turns[:key])
        trunk = past if kind == "text_history" else (said, *past)
        answer = (said, *answer) if kind == "text_history" else answer
        return DialogueTree(tuple(trunk), (Branch(len(trunk), answer),), tuple(utterances))

    def spoken_trunk(self, turns: Sequence[Turn], spoken: Callable[[Turn], bool],
                     heard: Callable[[Turn], bool]):
        """Trunk, utterances, and the number of segments up to the end of each turn. What is not
        `spoken` stands there as text; of what is, only what is `heard` takes positions."""
        trunk: list[Segment] = []
        utterances, ends = [], []
        for turn in turns:
            if spoken(turn):
                trunk.append(Tokens(self.tokenizer.encode(f"{turn.speaker.upper()}:")))
                if heard(turn):
                    trunk.append(self.said(utterances, turn))
                trunk.append(Tokens(self.tokenizer.encode("\n")))
            else:
                trunk.append(self.line(turn.speaker, turn.text))
            ends.append(len(trunk))
        return trunk, utterances, ends

    def has_speech(self, turn: Turn) -> bool:
        return self.context.path == "speech" and (
            turn.audio is not None or turn.features is not None)

    def in_speech(self, turn: Turn) -> bool:
        """Whether a spoken history has this turn as speech."""
        return turn.speaker == "user" or (
            self.context.agent == "speech" and self.has_speech(turn))

    def spoken_history(self, turns: Sequence[Turn]) -> DialogueTree:
        answered = [turn.state is not None and self.usable(turn) for turn in turns]
        # What follows the last answer is never read.
        turns = turns[:len(turns) - answered[::-1].index(True)]
        trunk, utterances, ends = self.spoken_trunk(turns, self.in_speech, self.usable)
        branches = [Branch(end, self.answer(turn))
                    for turn, end, ok in zip(turns, ends, answered, strict=False) if ok]
        return DialogueTree(tuple(trunk), tuple(branches), tuple(utterances))

    def text_history(self, turns: Sequence[Turn]) -> DialogueTree:
        """The tree of all answers whose history is not cut."""
        trunk: list[Segment] = [Tokens([self.tokenizer.bos])]
        branches, utterances = [], []
        for turn in turns[:self.context.history_turns + 1]:
            if turn.state is not None and self.usable(turn):
                branches.append(Branch(len(trunk), (self.said(utterances, turn),
                                                    *self.answer(turn))))
            trunk.append(self.line(turn.speaker, turn.text))
        # What follows the last answer is never read.
        return DialogueTree(tuple(trunk[:branches[-1].after]), tuple(branches), tuple(utterances))

    def history(self, turns: Sequence[Turn]) -> list[Tokens]:
        kept = turns[max(len(turns) - self.context.history_turns, 0) :]
        lines = [self.line(t.speaker, t.text) for t in kept]
        return [Tokens([self.tokenizer.bos]), *lines]

    def prompt(self, turns: Sequence[Turn]) -> DialogueTree:
        """What is read before the answers are decoded, as a trunk.

        For `spoken_history` all turns, with an empty branch behind every user turn; otherwise the
        turns up to the current user turn (the last), whose answer is to be decoded.
        """
        bos = (Tokens([self.tokenizer.bos]), Tokens([self.tokenizer.eos]))
        if self.context.kind == "spoken_history":
            trunk, utterances, ends = self.spoken_trunk(turns, self.in_speech, lambda turn: True)
            branches = [Branch(end, bos) for turn, end in zip(turns, ends, strict=True)
                        if turn.speaker == "user"]
            return DialogueTree(tuple(trunk), tuple(branches), tuple(utterances))
        utterances: list[Utterance] = []
        current = self.said(utterances, turns[-1])
        past = self.history(turns[:-1])
        order = {"single": (current, *past), "text_history": (*past, current),
                 "asr": (current,)}
        trunk = order[self.context.kind]
        return DialogueTree(trunk, (Branch(len(trunk), bos),), tuple(utterances))
