"""A full-duplex model is asked the questions of a public set, aloud, and its replies are judged.

As with Moshi (arXiv 2410.00037, section 5.5) the recording of a question is the user's channel, the
agent opens the conversation with one of a few greetings, and when the question is over EPAD is
forced, which makes the model reply. The paper does not say who speaks its "incipits", nor what they
are: these are ours. Accuracy is over all questions; `replay` is the replay length of arXiv
2506.21463, in words.
"""

import dataclasses
import itertools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from speechdst.chat import ChatError, ChatUnavailable
from speechdst.conversation.judges import Judge, by_rule
from speechdst.data import speech, tts
from speechdst.data.dialogue import AudioRef, BadInput
from speechdst.data.question_sets import Request
from speechdst.decoding.duplex import Duplex, Said
from speechdst.files import write_text
from speechdst.metrics.duplex import LIMIT, replay_length
from speechdst.metrics.scores import Rate
from speechdst.transcribers import Transcriber

GREETINGS = ("hello how can i help you", "hi what can i do for you", "hey how are you")
WORD, PAUSE = 4, 6  # frames of a greeting's word, and of silence behind it
REPLIES, SCORES = "replies.jsonl", "scores.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """`seconds`: how long a reply may be. `greet`: the agent speaks first. `voices`: so many speak
    what is not recorded. `recorded`: so many conversations are kept in sound."""

    seconds: float = 12.0
    greet: bool = True
    synthesizer: str = "espeak"
    voices: int = 16
    recorded: int = 20
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Replied:
    """`said`: what the text stream says; `text`: what was judged, which with an ASR is what it
    heard. `right` None: it could not be judged, for the reason of `failure`. `replay`: in a row,
    in all."""

    request: Request
    said: str
    text: str
    right: bool | None
    replay: tuple[int, int]
    failure: str = ""
    audio: str = ""


def ask(model: Duplex, requests: Sequence[Request], folder: Path, options: Options = Options(),
        judge: Judge = by_rule, transcriber: Transcriber | None = None) -> list[Replied | BadInput]:
    """Asks all of them and writes what comes back to `folder`; a request that cannot be spoken
    gives a `BadInput`.

    Raises:
      ChatUnavailable: the judge cannot be asked any more.
    """
    made: list[Replied | BadInput] = []
    numbered = iter(enumerate(requests))
    while some := list(itertools.islice(numbered, model.rows)):
        asked = [_spoken(r, options) for _, r in some]
        good = [(i, r, samples) for (i, r), samples in zip(some, asked, strict=True)
                if isinstance(samples, np.ndarray)]
        replies = iter(_replies(model, good, folder, options, judge, transcriber))
        made += [x if isinstance(x, BadInput) else next(replies) for x in asked]
    write_text(folder / REPLIES, "".join(json.dumps(
        dataclasses.asdict(r) if isinstance(r, Replied) else {"failure": str(r)},
        ensure_ascii=False) + "\n" for r in made))
    return made


def _replies(model: Duplex, good, folder: Path, options: Options, judge: Judge,
             transcriber: Transcriber | None) -> Iterable[Replied]:
    rate, conversations = model.stream.frame_rate, []
    for i, request, samples in good:
        drawn = random.Random(f"{options.seed}/{request.id}/{i}").choice(GREETINGS)
        greeting = {}
        if options.greet:
            words = [(1 + WORD * k, model.tokenizer.words(w)) for k, w in enumerate(drawn.split())]
            opening = model.stream.place(words, 1 + WORD * len(words) + PAUSE)
            greeting = dict(enumerate(opening.tolist()))
        codes = model.codec.encode(samples)
        asks = len(greeting) + codes.shape[1]  # the frame in which it is made to reply
        quiet = lambda n: np.tile(model.silence[:, None], (1, n))
        heard = np.concatenate([quiet(len(greeting)), codes, quiet(round(options.seconds * rate))],
                               1)
        conversations.append((asks, heard, greeting | {asks: model.stream.epad}))
    said_all = model.hear([h for _, h, _ in conversations], [f for *_, f in conversations],
                          options.seed)
    for (i, request, samples), (asks, *_), said in zip(good, conversations, said_all, strict=True):
        reply = Said(said.tokens[asks:], said.codes[:, asks:])
        text, audio, failure, right = " ".join(w.text for w in model.words(reply)), "", "", None
        said_text = text
        if i < options.recorded or transcriber is not None:
            whole = model.waveform(said)
            each = round(model.codec.sample_rate / rate)
            if i < options.recorded:
                audio = f"{i:05d}.flac"
                start = (asks - -(-len(samples) // each)) * each
                speech.write_stereo(folder / "audio" / audio, whole,
                                    np.concatenate([np.zeros(start, np.float32), samples]))
            if transcriber is not None:
                text = transcriber(whole[asks * each :], f"{i:05d}.flac")
        try:
            right = judge(request, text)
        except ChatUnavailable:
            raise
        except ChatError as error:
            failure = error.kind
        yield Replied(request, said_text, text, right, replay_length(
            model.begins(reply.tokens), reply.tokens == model.stream.pad, LIMIT), failure, audio)


def _spoken(request: Request, options: Options) -> np.ndarray | BadInput:
    """float32 [samples]: the recording of a request, or one that is made."""
    try:
        if request.audio:
            return speech.load(AudioRef(request.audio))
        rng = random.Random(f"{options.seed}/{request.id}")
        voice = rng.choice(tts.voices(options.seed, options.voices, held_out=True))
        (samples,) = tts.synthesize_all([(request.text, voice)], None, options.synthesizer)
        return samples if isinstance(samples, BadInput) else samples.astype(np.float32) / 32768
    except BadInput as bad:
        return bad


def score(replied: Iterable[Replied | BadInput]) -> dict[str, Rate]:
    """`accuracy` in percent, also by group ("accuracy, unsafe"), and the replay lengths in words;
    intervals over requests. Requests that failed are in none."""
    done = [r for r in replied if isinstance(r, Replied) and r.right is not None]
    parts: dict[str, list[Replied]] = {"accuracy": done}
    for r in done:
        if r.request.group:
            parts.setdefault(f"accuracy, {r.request.group}", []).append(r)
    made = {name: Rate.of([bool(r.right) for r in of], [1] * len(of))
            for name, of in sorted(parts.items())}
    for k, name in enumerate(("replay_in_a_row", "replay_in_all")):
        made[name] = Rate.of([r.replay[k] for r in done], [1] * len(done), scale=1.0)
    return made

