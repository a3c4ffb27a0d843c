"""The evaluation of a full-duplex model: it hears the user's channel of held-out conversations,
frame by frame, and what it says and when is held against what would have been right.

The loop is open: users say what they said in the recording, whatever the model does. Beside the
model stands the agent of the recording itself, which sets the scale.

    wrong_turns      turns of the user that are not answered, or talked into before they are over, %
    unanswered       silent failures: turns without a word in `window` seconds, %
    early            turns that it begins to reply to before they are over, %
    latency          from the user's end to the first word, mean, s
    talked_over      of the user's speech, by the text stream (voiced_over: by its sound), %
    talks_over       of all frames in which it should listen, %
    silent           of all frames in which it should speak (as the recorded agent does), %
    replay_in_a_row  words of a reply before 20 padding frames in a row; replay_in_all: in all
    padding          share of PAD in the text stream, %
    wer              words of the text stream against what an ASR hears in its sound, %
"""

import dataclasses
import json
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from speechdst import distributed
from speechdst.config import build, codec_of
from speechdst.data import conversations, speech, two_channel
from speechdst.data.dialogue import BadInput, Word
from speechdst.data.loader import First
from speechdst.data.two_channel import Conversation
from speechdst.decoding.duplex import Duplex, Said
from speechdst.decoding.duplex import make as duplex_of
from speechdst.evaluation import stopping
from speechdst.files import write_text
from speechdst.metrics import duplex
from speechdst.metrics.scores import Rate
from speechdst.metrics.wer import word_errors
from speechdst.training import checkpoint
from speechdst.transcribers import Transcriber, transcriber

SCALES = dict(wrong_turns=100.0, unanswered=100.0, early=100.0, latency=1.0, talked_over=100.0,
              voiced_over=100.0, talks_over=100.0, silent=100.0, replay_in_a_row=1.0,
              replay_in_all=1.0, padding=100.0, wer=100.0)
LABELS = dict(
    wrong_turns="turns taken wrongly, %", unanswered="turns not answered, %",
    early="turns talked into, %", latency="reply latency, s",
    talked_over="user's speech talked over, %", voiced_over="the same by its sound, %",
    talks_over="speaks where it should listen, %", silent="silent where it should speak, %",
    replay_in_a_row="replay length, words (in a row)",
    replay_in_all="replay length, words (in all)", padding="padding, %",
    wer="text against ASR, WER %")
HIGHER = ("win_rate", "margin")  # of held-out pairs (`preferences`): more is better
VOICE_DB = -45.0  # of full scale; a frame above it has a voice
CONVERSATIONS, AUDIO, SCORES = "conversations.jsonl", "audio", "live.json"
MODEL, RECORDED = "model", "recorded agent"


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.evaluation.live`. `window` in seconds: later is no answer. `joined`: a shorter gap
    between words is speech. `replay_limit`: padding frames that end a reply. `asr`: see
    `speechdst/transcribers.py`; "": no word error rate. `seed`: of the model's choices. `goal`:
    the score that the best checkpoint has least of, or most of `HIGHER`, within
    `stopping.BOUNDS`."""

    window: float = 3.0
    joined: float = 0.5
    replay_limit: int = duplex.LIMIT
    asr: str = ""
    seed: int = 0
    goal: str = "wrong_turns"

    def __post_init__(self):
        if self.goal not in (*SCALES, *HIGHER):
            raise ValueError(f"live.goal is {self.goal!r}, expected one of "
                             f"{', '.join((*SCALES, *HIGHER))}")


@dataclasses.dataclass(frozen=True)
class Observed:
    """One conversation: what was said and how it is counted. `counts`: name -> (part, whole), of
    `SCALES`; `heard`: by the ASR, None without one; `audio`: file of the stereo recording, the
    agent on the left."""

    id: str
    seconds: float
    frame_rate: float
    words: tuple[Word, ...]
    user: tuple[Word, ...]
    replies: tuple[duplex.Reply, ...]
    counts: dict[str, tuple[float, float]]
    heard: str | None = None
    audio: str = ""


def observe(conversation: Conversation, said: Said, voice: np.ndarray, model: Duplex,
            options: Options = Options(), audio: str = "") -> Observed:
    """Args: `said` and its sound `voice`, float32 [samples]; `model`: whose tokens and codes they
    are.

    Raises:
      BadInput: it is not known what would have been right in the conversation.
    """
    right, rate = conversation.right, model.stream.frame_rate
    if right is None:
        raise BadInput("it is not known when the agent should speak", record=conversation.id,
                       field="right", mend="evaluate simulated conversations")
    frames = min(len(right), len(said.tokens))
    right, tokens = right[:frames], said.tokens[:frames]
    words = tuple(model.words(said))
    talks = duplex.spans(words, options.joined)
    speaks = two_channel.speaks([Word("", a, b) for a, b in talks], frames, rate)
    user = two_channel.speaks(conversation.user.words, frames, rate)
    padding = tokens == model.stream.pad
    replies = duplex.replies(right, speaks, model.begins(tokens), padding, user,
                             round(options.window * rate), options.replay_limit)
    wrong = two_channel.mistakes(right, speaks)
    answered = [r.latency for r in replies if r.latency is not None]
    lengths = [r.words for r in replies if r.words is not None]
    counts = {
        "wrong_turns": (sum(r.early or r.words is None for r in replies), len(replies)),
        "unanswered": (sum(r.words is None for r in replies), len(replies)),
        "early": (sum(r.early for r in replies), len(replies)),
        "latency": (sum(answered) / rate, len(answered)),
        "talked_over": duplex.talked_over(right, speaks, user),
        "voiced_over": duplex.talked_over(right, voiced(voice, frames), user),
        "talks_over": wrong["talks_over"], "silent": wrong["silent"],
        "replay_in_a_row": (sum(a for a, _ in lengths), len(lengths)),
        "replay_in_all": (sum(b for _, b in lengths), len(lengths)),
        "padding": (int(padding.sum()), frames)}
    return Observed(conversation.id, conversation.seconds, rate, words, conversation.user.words,
                    tuple(replies), counts, audio=audio)


def transcribed(observed: Observed, heard: str) -> Observed:
    """With what an ASR hears in its sound."""
    return dataclasses.replace(observed, heard=heard, counts=observed.counts | {
        "wer": errors(observed.words, heard)})


def errors(words: Sequence[Word], heard: str) -> tuple[int, int]:
    """Word errors of what was heard, and how many words were said."""
    w = word_errors([(" ".join(x.text for x in words), heard)])
    return w.substitutions + w.deletions + w.insertions, w.words


def voiced(samples: np.ndarray, frames: int) -> np.ndarray:
    """bool [frames]: whether a frame of float32 [samples] is louder than `VOICE_DB`."""
    each = max(len(samples) // max(frames, 1), 1)
    whole = np.zeros(frames * each, np.float32)
    whole[: len(samples)] = samples[: len(whole)]
    power = (whole.reshape(frames, each) ** 2).mean(1)
    return power > 10 ** (VOICE_DB / 10)


def recorded(conversation: Conversation, model: Duplex) -> Said:
    """What the agent of the recording said, as if it were a model."""
    whole = two_channel.frames(conversation, model.codec, model.stream, model.tokenizer)
    return Said(whole[:, 0], whole[:, 1 : 1 + model.codec.codebooks].T)


def score(observed: Sequence[Observed]) -> dict[str, Rate]:
    """By name of `SCALES`, those that were counted, with intervals over conversations."""
    return {name: Rate.of(*zip(*(o.counts[name] for o in observed), strict=True), scale=scale)
            for name, scale in SCALES.items() if observed and name in observed[0].counts}


def converse(model: Duplex, recordings: Sequence[Conversation], folder: Path,
             options: Options = Options(), asr: Transcriber | None = None
             ) -> tuple[list[Observed], list[Observed]]:
    """Lets the model listen to the users of `recordings`, and writes what it says to `folder`
    (conversations.jsonl; a stereo FLAC of each conversation under audio).

    Returns: the conversations with the model, and those with the recorded agent.
    """
    made, scale = [], []
    for at in range(0, len(recordings), model.rows):
        some = recordings[at : at + model.rows]
        users = [model.codec.encode(speech.decode(c.user.audio)) for c in some]
        said_all = model.hear(users, seed=options.seed + at)
        for i, (c, said) in enumerate(zip(some, said_all, strict=True)):
            voice, name = model.waveform(said), f"{at + i:05d}.flac"
            if distributed.first():
                speech.write_stereo(folder / AUDIO / name, voice, speech.decode(c.user.audio))
            seen = observe(c, said, voice, model, options, name)
            made.append(seen if asr is None else transcribed(seen, asr(voice, name)))
            scale.append(observe(c, recorded(c, model), speech.decode(c.agent.audio), model,
                                 options))
    if distributed.first():
        write_text(folder / CONVERSATIONS, "".join(
            json.dumps(dataclasses.asdict(o), ensure_ascii=False) + "\n" for o in made))
    return made, scale


def hold(model: Duplex, recordings: Sequence[Conversation], results: Path, name: str, stage: str,
         step: int, options: Options = Options(), asr: Transcriber | None = None
         ) -> tuple[list[Observed], dict[str, dict[str, Rate]]]:
    """Lets the model `converse`, in the folder below `results` in which `report` finds a
    checkpoint's conversations with the set `name`, DATA/SPLIT, and writes the scores of the model
    and of the recorded agent beside them; returns both."""
    folder = results / f"{name.replace('/', '-')}-live-{stage}-{step:06d}"
    made, scale = converse(model, recordings, folder, options, asr)
    arms = {MODEL: score(made), RECORDED: score(scale)}
    if distributed.first():
        write_scores(folder, arms, stage=stage, step=step, set=name, conversations=len(recordings))
    return made, arms


def write_scores(folder: Path, arms: dict[str, dict[str, Rate]], **about) -> None:
    write_text(folder / SCORES, json.dumps({
        "arms": {arm: {n: dataclasses.asdict(r) for n, r in of.items()}
                 for arm, of in arms.items()}} | about, indent=1) + "\n")


def summary(arms: dict[str, dict[str, Rate]], title: str) -> Table:
    """Arms side by side."""
    table = Table(title=f"{title} (95 % interval over conversations)", title_justify="left")
    for column in ("", *arms):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, label in LABELS.items():
        if any(name in of for of in arms.values()):
            table.add_row(label, *(str(of.get(name, "-")) for of in arms.values()))
    return table


def evaluate(config: ConfigDict, workdir: Path, stage: str,
             beside: Mapping[str, Mapping[str, Rate]] = types.MappingProxyType({})) -> None:
    """Evaluates the checkpoints of `stage` that its `points` have kept, or the last one, and the
    model that an alignment started from; prints a table and writes WORKDIR/evaluation/
    DATA-SPLIT-live-STAGE-STEP and, of several, the curve with the one to take (`stopping`).

    Args:
      beside: other scores for the curve, by "step N".

    Raises:
      BadInput: no such data or checkpoint, or it is not known what would have been right.
    """
    e = config.evaluation
    options = build(Options, e.live.to_dict(), "evaluation.live")
    asr, codec = transcriber(options.asr), codec_of(config)
    taken = list(First(conversations.read(Path(config.data_dir) / e.data, e.split), e.limit))
    results, name = workdir / "evaluation", f"{e.data}-{e.split}"
    arms, made = {}, []
    for step, (tokenizer, model, params) in checkpoint.kept(config, workdir, stage):
        began = time.monotonic()
        agent = duplex_of(params, model, tokenizer, codec, config.text_overflow, rows=e.rows,
                          **e.decoding.to_dict())
        observed, found = hold(agent, taken, results, f"{e.data}/{e.split}", stage, step, options,
                               asr)
        arms.setdefault(RECORDED, found[RECORDED])
        arms[f"step {step}"] = scores = found[MODEL]
        made.append(stopping.Point(step, scores | dict(beside.get(f"step {step}", {}))))
        print(f"{stage}, step {step}: {len(taken)} conversations of "
              f"{sum(o.seconds for o in observed):.0f} s in {time.monotonic() - began:.0f} s",
              flush=True)
    distributed.written(results)
    Console(width=38 + 24 * len(arms)).print(summary(arms, f"{name}, {stage}"))
    if len(made) > 1 and made[0].step == 0:
        choice = stopping.choose(made, options.goal, options.goal in HIGHER)
        if distributed.first():
            stopping.write(results / f"{name}-curve-{stage}", stopping.Curve(
                stage, options.goal, tuple(made), stopping.BOUNDS, choice))
        print(f"best {options.goal} within the bounds: step {choice.step}" + (
            f" (step {choice.stopped} breaks that of {', '.join(choice.broken)})"
            if choice.broken else ""))
    print(f"conversations and scores: {results}")


def read(folder: Path) -> Iterator[Observed]:
    """The conversations that `converse` wrote to a folder; raises `BadInput` for a damaged file."""
    path = folder / CONVERSATIONS
    words = lambda raw: tuple(Word(**w) for w in raw)
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            raw = json.loads(line)
            replies = tuple(duplex.Reply(**r | {"words": r["words"] and tuple(r["words"])})
                            for r in raw["replies"])
            counts = {name: tuple(pair) for name, pair in raw["counts"].items()}
            yield Observed(**raw | {"words": words(raw["words"]), "user": words(raw["user"]),
                                    "replies": replies, "counts": counts})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"not a conversation ({type(error).__name__}: {error})", file=path,
                           record=f"line {number}", mend="evaluate again") from error
