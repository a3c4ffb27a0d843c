"""Arranges small public samples into the official layouts, so that the corpus readers take them.

    python launch/arrange_samples.py spokenwoz <sample folder> <output folder>
    python launch/arrange_samples.py sgd <sample folder> <output folder>

spokenwoz: a sample with `audio/<ID>.wav` (8 kHz, user left, agent right), `text/<ID>.json` (a list
of {speaker A|B, word, start, end} in seconds) and, where they exist, `jga_reference/
spokenwoz_dev_jga_reference.json.xz` ({ID: [state, ...]}), `lists/valListFile.json` and
`speechbrain/` (a dialogue as .opus with a .csv of turn times and states). Consecutive words of one
speaker become one turn. A reference has one state per annotated user turn, but its number may
differ from that of the turns found here. Given in order, state i goes to user turn i: if there
are fewer states than turns, the closing turns are left without (no `metadata`); if there are
more, the states cannot be placed and the dialogue is left without any, which is printed. A
dialogue that has no reference gets no `metadata` at all, so that its state reads as "not
annotated" instead of "empty". The .csv has no words: a user turn gets one word without text that
spans it; the segments begin with the agent's turn, so the agent gets the same span on its own
channel. Dialogues without audio are left out unless --without-audio is given.

sgd: `jsonl/<split>.jsonl.xz` (one dialogue a line, state "Service-slot" -> [value, ...]) and
`schema/<split>_schema.json` become `<split>/dialogues_NNN.json` and `<split>/schema.json`.
"""

import argparse
import csv
import itertools
import json
import lzma
import shutil
from pathlib import Path

import soundfile

BOOK = {"people", "day", "time", "stay"}


def metadata(state: dict[str, dict[str, str]]) -> dict:
    """A {domain: {slot: value}} state in the form of MultiWOZ 2.1."""
    return {
        domain: {
            "semi": {s: v for s, v in slots.items() if s not in BOOK},
            "book": {"booked": [], **{s: v for s, v in slots.items() if s in BOOK}},
        }
        for domain, slots in state.items()
    }


def _entry(tag: str, text: str, spans: list[tuple[str, float, float]], channel: int) -> dict:
    words = [
        {
            "Word": word,
            "BeginTime": round(1000 * start),
            "EndTime": round(1000 * end),
            "ChannelId": channel,
            "WordIndex": i,
        }
        for i, (word, start, end) in enumerate(spans)
    ]
    return {"tag": tag, "text": text, "words": words}


def words_to_log(words: list[dict]) -> list[dict]:
    """Turns of alternating speakers; the user begins."""
    log = []
    for speaker, group in itertools.groupby(words, key=lambda w: w["speaker"]):
        spans = [(w["word"], w["start"], w["end"]) for w in group]
        if not log and speaker == "B":
            log.append(_entry("user", "", [], 0))
        tag, channel = ("user", 0) if speaker == "A" else ("system", 1)
        log.append(_entry(tag, " ".join(word for word, *_ in spans), spans, channel))
    return log


def add_states(log: list[dict], states: list[dict]) -> bool:
    """Puts state i beside user turn i (on the system turn after it); False if they do not fit."""
    if len(states) > (len(log) + 1) // 2:
        return False
    if len(states) > len(log) // 2:  # the dialogue ends with the user
        log.append(_entry("system", "", [], 1))
    for i, state in enumerate(states):
        log[2 * i + 1]["metadata"] = metadata(state)
    return True


def rows_to_log(rows: list[dict], rate: int, seconds: float) -> list[dict]:
    """Turns of the .csv: segments hold the agent's turn and then the user's."""
    log = []
    for i, row in enumerate(rows):
        start, end = int(row["start"]) / rate, int(row["end"]) / rate
        if i:
            log.append(_entry("system", "", [("", start, end)], 1))
            log[-1]["metadata"] = metadata(parse_state(rows[i - 1]["current_state"]))
        log.append(_entry("user", "", [("", start, end)], 0))
    last = int(rows[-1]["end"]) / rate
    log.append(_entry("system", "", [("", last, max(last, seconds))], 1))
    log[-1]["metadata"] = metadata(parse_state(rows[-1]["current_state"]))
    return log


def parse_state(text: str) -> dict[str, dict[str, str]]:
    """`train-day=monday; ...` as {domain: {slot: value}}."""
    state: dict[str, dict[str, str]] = {}
    for part in filter(str.strip, text.split(";")):
        name, _, value = part.strip().partition("=")
        domain, _, slot = name.partition("-")
        state.setdefault(domain, {})[slot] = value
    return state


def arrange_spokenwoz(sample: Path, output: Path, without_audio: bool) -> None:
    text, audio = output / "text_5700_train_dev", output / "audio_5700_train_dev"
    text.mkdir(parents=True, exist_ok=True)
    audio.mkdir(parents=True, exist_ok=True)
    reference = sample / "jga_reference" / "spokenwoz_dev_jga_reference.json.xz"
    states = json.loads(lzma.decompress(reference.read_bytes())) if reference.is_file() else {}
    data = {}
    for path in sorted((sample / "text").glob("*.json")):
        wav = sample / "audio" / f"{path.stem}.wav"
        if not (wav.is_file() or without_audio):
            print(f"{path.stem}: no audio, left out")
            continue
        log = words_to_log(json.loads(path.read_text()))
        if path.stem in states and not add_states(log, states[path.stem]):
            print(f"{path.stem}: {len(states[path.stem])} states do not fit, left without")
        if wav.is_file():
            shutil.copyfile(wav, audio / wav.name)
        data[path.stem] = {"goal": {}, "log": log}
    for table in sorted((sample / "speechbrain").glob("*spokenwoz*.csv")):
        with open(table, newline="") as rows_file:
            rows = sorted(csv.DictReader(rows_file), key=lambda row: int(row["turnID"]))
        opus = table.parent / Path(rows[0]["wav"]).name
        samples, rate = soundfile.read(opus, dtype="int16")
        soundfile.write(audio / f"{opus.stem}.wav", samples, rate)
        data[opus.stem] = {"goal": {}, "log": rows_to_log(rows, rate, len(samples) / rate)}
    val = sample / "lists" / "valListFile.json"
    ids = val.read_text().split() if val.is_file() else []
    (text / "data.json").write_text(json.dumps(data))
    (text / "valListFile.json").write_text("".join(f"{i}\n" for i in ids if i in data))
    print(f"{len(data)} dialogues, of which dev: {', '.join(i for i in ids if i in data)}")


def sgd_turns(turns: list[dict]) -> list[dict]:
    """User and system turns in the schema-guided format; one frame per service of the turn."""
    out = []
    for turn in turns:
        frames = {
            service: {"active_intent": turn["intent"].get(service, "NONE"), "slot_values": {}}
            for service in turn["services"]
        }
        for name, values in turn["state"].items():
            service, _, slot = name.partition("-")
            frames[service]["slot_values"][slot] = values
        out.append(
            {
                "speaker": "USER",
                "utterance": turn["user"],
                "frames": [{"service": s, "state": state} for s, state in frames.items()],
            }
        )
        if turn["response"]:
            out.append({"speaker": "SYSTEM", "utterance": turn["response"], "frames": []})
    return out


def arrange_sgd(sample: Path, output: Path) -> None:
    for path in sorted((sample / "jsonl").glob("*.jsonl.xz")):
        split = path.name.split(".")[0]
        files: dict[str, list] = {}
        with lzma.open(path, "rt") as lines:
            for record in map(json.loads, lines):
                files.setdefault(record["file"], []).append(
                    {
                        "dialogue_id": record["dialogue_id"],
                        "services": record["services"],
                        "turns": sgd_turns(record["turns"]),
                    }
                )
        (output / split).mkdir(parents=True, exist_ok=True)
        for name, dialogues in files.items():
            (output / split / name).write_text(json.dumps(dialogues))
        shutil.copyfile(sample / "schema" / f"{split}_schema.json", output / split / "schema.json")
        print(f"{split}: {sum(map(len, files.values()))} dialogues in {len(files)} files")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="corpus", required=True)
    for name in ("spokenwoz", "sgd"):
        command = commands.add_parser(name)
        command.add_argument("sample", type=Path)
        command.add_argument("output", type=Path)
        if name == "spokenwoz":
            command.add_argument("--without-audio", action="store_true")
    args = parser.parse_args()
    if args.corpus == "spokenwoz":
        arrange_spokenwoz(args.sample, args.output, args.without_audio)
    else:
        arrange_sgd(args.sample, args.output)


if __name__ == "__main__":
    main()
