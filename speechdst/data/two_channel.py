"""Conversations in two channels, as multi-stream models hear and speak them.

A channel is one speaker's audio with the words that are said in it, from the conversation's first
sample on, so that both may speak at once. Where it is known who ought to speak (simulations), a
conversation says for every frame what the right action of the agent is.
"""

import dataclasses
import enum
from collections.abc import Iterator

import numpy as np

from speechdst.codec import Codec
from speechdst.data import speech
from speechdst.data.dialogue import Audio, BadInput, Word
from speechdst.data.frames import FrameTree
from speechdst.data.text_stream import TextStream
from speechdst.data.tokenizer import Tokenizer


class Action(enum.IntEnum):
    """What is right for the agent in a frame."""

    LISTEN = 0
    EITHER = 1
    SPEAK = 2


@dataclasses.dataclass(frozen=True)
class Channel:
    """`audio` of one speaker; `words` with their times in it, in order."""

    audio: Audio
    words: tuple[Word, ...]


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Channels of the same length; `right` int8 [frames] of `Action` at 12.5 frames a second, None
    where it is not known."""

    id: str
    split: str
    agent: Channel
    user: Channel
    right: np.ndarray | None = None

    @property
    def seconds(self) -> float:
        return self.agent.audio.seconds


def frames(conversation: Conversation, codec: Codec, stream: TextStream,
           tokenizer: Tokenizer) -> np.ndarray:
    """int32 [frames, 1 + 2Q], not delayed: the agent's words, its codes, the user's codes.

    Raises:
      BadInput: channels of different lengths, or words that do not fit (`TextStream.build`).
    """
    agent, user = conversation.agent.audio, conversation.user.audio
    if agent.samples != user.samples:
        raise BadInput(f"the agent's channel has {agent.samples} samples, the user's "
                       f"{user.samples}", record=conversation.id, field="audio")
    codes = [codec.encode(speech.decode(audio)) for audio in (agent, user)]
    try:
        text = stream.build(conversation.agent.words, tokenizer, codes[0].shape[1])
    except BadInput as bad:
        raise BadInput(bad.problem, record=conversation.id, field=bad.field,
                       mend=bad.mend) from bad
    return np.concatenate([text[None], *codes]).T


def pieces(whole: np.ndarray, most: int) -> Iterator[FrameTree]:
    """Trees of at most `most` frames, one behind the other, every frame to be predicted."""
    for at in range(0, len(whole), most):
        yield FrameTree(whole[at : at + most], loss=True)


def speaks(words: tuple[Word, ...], frames: int, frame_rate: float) -> np.ndarray:
    """bool [frames]: whether a word is being said in the middle of the frame."""
    middle = (np.arange(frames) + 0.5) / frame_rate
    found = np.zeros(frames, bool)
    for word in words:
        found |= (middle >= word.start) & (middle < word.end)
    return found


def mistakes(right: np.ndarray, said: np.ndarray) -> dict[str, tuple[int, int]]:
    """How often an agent does what is wrong, as (frames, of how many): "talks_over": speaks where
    it should listen; "silent": is silent where it should speak. `said` bool [frames]."""
    listen, speak = right == Action.LISTEN, right == Action.SPEAK
    return {"talks_over": (int((listen & said).sum()), int(listen.sum())),
            "silent": (int((speak & ~said).sum()), int(speak.sum()))}
