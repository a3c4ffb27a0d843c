"""Have an exported model hear a recording, and print what it makes of it: the dialogue and its
state turn by turn, or, of a model of the auxiliary tasks, its reply and its other answers.

    python -m speechdst.generate --model=exported/demo --audio=call.wav

Two channels: the user is on channel 0, the agent on channel 1. With --turns, a JSON file with a
list of turns {"speaker", "audio", "text"} is taken instead, with audio files below its folder;
--json prints JSON lines.
"""

import dataclasses
import json
from pathlib import Path

from absl import flags

from speechdst.api import TaskAnswer, load
from speechdst.command import run
from speechdst.data.corpora.common import inside
from speechdst.data.dialogue import BadInput


def main(argv):
    del argv
    if bool(_AUDIO.value) == bool(_TURNS.value):
        raise BadInput("give one of --audio and --turns")
    if _TURNS.value:
        file = Path(_TURNS.value)
        try:
            dialogue = json.loads(file.read_text())
        except (ValueError, OSError) as error:
            raise BadInput(f"no list of turns ({error})", file=file) from error
        if not isinstance(dialogue, list) or not all(isinstance(t, dict) for t in dialogue):
            raise BadInput("expected a list of turns {speaker, audio, text}", file=file)
        dialogue = [t | ({"audio": str(inside(file.parent, t["audio"], file=file))}
                         if "audio" in t else {}) for t in dialogue]
    else:
        dialogue = _AUDIO.value
    for turn in load(_MODEL.value, _TENSOR.value)(dialogue):
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


if __name__ == "__main__":
    _MODEL = flags.DEFINE_string("model", None, "The exported folder.", required=True)
    _AUDIO = flags.DEFINE_string("audio", "", "The recording.")
    _TURNS = flags.DEFINE_string("turns", "", "A JSON file with a list of turns.")
    _TENSOR = flags.DEFINE_integer("tensor", 1, "Devices to split the model over.", lower_bound=1)
    _JSON = flags.DEFINE_bool("json", False, "Print JSON lines.")
    run(main)
