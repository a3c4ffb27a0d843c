"""Have an exported model hear a recording, and print what it makes of it: the dialogue and its
state turn by turn, or, of a model of the auxiliary tasks, its reply and its other answers.

    python -m speechdst.generate --model=exported/demo --audio=call.wav

A full-duplex model speaks while it hears the user (the first channel of the recording):

    python -m speechdst.generate --model=exported/moshi --audio=user.wav --out=reply.wav

writes the conversation in two channels, the model on the left, the user on the right, and beside
it, as reply.json, the words of the model with their seconds: both as moshi-finetune reads them.

Two channels: the user is on channel 0, the agent on channel 1. With --turns, a JSON file with a
list of turns {"speaker", "audio", "text"} is taken instead, with audio files below its folder;
--json prints JSON lines.
"""

import dataclasses
import json
from pathlib import Path

from absl import flags

from speechdst.api import Companion, TaskAnswer, first_channel, load
from speechdst.command import run
from speechdst.data import speech
from speechdst.data.corpora.common import inside
from speechdst.data.dialogue import SAMPLE_RATE, BadInput
from speechdst.files import write_text


def main(argv):
    del argv
    if bool(_AUDIO.value) == bool(_TURNS.value) or (_OUT.value and not _AUDIO.value):
        raise BadInput("give one of --audio and --turns; --out goes with --audio")
    dialogue = read_turns(Path(_TURNS.value)) if _TURNS.value else _AUDIO.value
    model = load(_MODEL.value, _TENSOR.value)
    if isinstance(model, Companion) != bool(_OUT.value):
        raise BadInput("a full-duplex model, and only one, speaks: it takes --audio and --out",
                       field="--out")
    if isinstance(model, Companion):
        converse(model, _AUDIO.value, Path(_OUT.value))
        return
    for turn in model(dialogue):
        if _JSON.value:
            print(json.dumps(dataclasses.asdict(turn)))
            continue
        if isinstance(turn, TaskAnswer):
            print(f"{turn.task}{f' ({turn.part})' if turn.part else ''}: {turn.text}")
            continue
        at = "" if turn.start is None else f"{turn.start:7.2f} s  "
        print(f"{at}{turn.speaker}: {turn.text}")
        if turn.state is not None:
            slots = [f"{d}-{s}={v}" for d, v in turn.state.items() for s, v in v.items()]
            print(" " * len(at) + "  state: " + ("; ".join(slots) or "(empty)"))


def read_turns(file: Path) -> list[dict]:
    """The turns of a JSON file, their audio below its folder; raises BadInput."""
    try:
        turns = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise BadInput(f"no list of turns ({error})", file=file) from error
    if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
        raise BadInput("expected a list of turns {speaker, audio, text}", file=file)
    return [t | ({"audio": str(inside(file.parent, t["audio"], file=file))} if "audio" in t else {})
            for t in turns]


def converse(model: Companion, audio: str, out: Path) -> None:
    """Writes what the model says to a recording: OUT, and its words beside it as JSON."""
    user = first_channel(audio)
    reply = model(user)
    speech.write_stereo(out, reply.audio, user)
    write_text(out.with_suffix(".json"), json.dumps({"alignments": [
        [w.text, [w.start, w.end], "SPEAKER_MAIN"] for w in reply.words]}) + "\n")
    for word in reply.words:
        print(f"{word.start:7.2f} s  {word.text}")
    seconds = max(len(user), len(reply.audio)) / SAMPLE_RATE
    print(f"{out}: {seconds:.1f} s, {len(reply.words)} words")


if __name__ == "__main__":
    _MODEL = flags.DEFINE_string("model", None, "The exported folder.", required=True)
    _AUDIO = flags.DEFINE_string("audio", "", "The recording.")
    _TURNS = flags.DEFINE_string("turns", "", "A JSON file with a list of turns.")
    _OUT = flags.DEFINE_string("out", "", "WAV to write, of a full-duplex model.")
    _TENSOR = flags.DEFINE_integer("tensor", 1, "Devices to split the model over.", lower_bound=1)
    _JSON = flags.DEFINE_bool("json", False, "Print JSON lines.")
    run(main)
