"""A recogniser of the agent of simulated conversations, who speaks through a codec.

What a full-duplex model says is heard by it for `benchmarks.alignment`, as Whisper hears Moshi in
arXiv 2506.21463: it is trained (`configs/joint_dst.py:transcriber`) on what the agent of the
training conversations says, encoded and decoded again by the codec of the model.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import soundfile

from benchmarks.commands import command
from speechdst.codec import Codec
from speechdst.data import conversations, speech
from speechdst.data.dialogue import SAMPLE_RATE
from speechdst.data.two_channel import Conversation
from speechdst.files import write_text
from speechdst.metrics import duplex

PAUSE, MARGIN = 0.5, 0.15  # seconds of silence between utterances; of it, that are left around one
DEV = 20  # one of so many conversations


def made(data: Path, codec: Codec, out: Path, quick: bool = False) -> Path:
    """The folder of the exported recogniser, made now if it is not there.

    Args:
      data: with the set `conversations`.
      out: where its data, its run and the compiled programs go; `quick`: hardly trained.
    """
    exported, log = out / "exported", out / "log.txt"
    if exported.exists():
        return exported
    manifest = out / "agent" / "manifest.jsonl"
    if not manifest.exists():
        lines = [line for i, c in enumerate(conversations.read(data / "conversations", "train"))
                 for line in _cut(c, codec, manifest.parent, "train" if i % DEV else "dev")]
        write_text(manifest, "".join(json.dumps(line, ensure_ascii=False) + "\n"
                                     for line in lines))
    steps = [f"--config.stages.{name}.{field}={value}" for name in ("text", "asr")
             for field, value in (("steps", 2), ("optimizer.warmup", 1))] if quick else []
    options = ["--config=configs/joint_dst.py:transcriber", f"--config.data_dir={out / 'data'}",
               f"--config.prepare.transcribed.root={manifest.parent}", *steps]
    workdir = f"--workdir={out / 'run'}"
    command("prepare", options, log, out)
    command("train", [*options, workdir], log, out)
    command("evaluate", [*options, workdir], log, out)
    command("export", [*options, workdir, f"--out={exported}"], log, out)
    return exported


def _cut(conversation: Conversation, codec: Codec, folder: Path, split: str) -> Iterator[dict]:
    """The agent's utterances, as lines of a manifest (`corpora.asr_manifest`) in `folder`."""
    agent = conversation.agent
    samples = codec.decode(codec.encode(speech.decode(agent.audio)))
    folder.mkdir(parents=True, exist_ok=True)
    for i, (start, end) in enumerate(duplex.spans(agent.words, PAUSE)):
        name = f"{conversation.id}-{i}"
        first, last = (round(max(t, 0) * SAMPLE_RATE) for t in (start - MARGIN, end + MARGIN))
        soundfile.write(folder / f"{name}.flac", samples[first:last], SAMPLE_RATE)
        yield {"id": name, "audio": f"{name}.flac", "split": split,
               "text": " ".join(w.text for w in agent.words if start <= w.start < end)}
