"""One's own dialogues: `manifest.jsonl` beside the audio, one dialogue a line.

    {"id": "call-17", "split": "train", "turns": [
      {"speaker": "user", "text": "a table for two", "audio": "call-17.wav",
       "start": 1.2, "end": 3.4, "channel": 0,
       "words": [["a", 0.0, 0.1], ["table", 0.1, 0.5], ...],
       "state": {"restaurant": {"people": "2"}}},
      {"speaker": "agent", "text": "for when?"}]}

`speaker` is user or agent; `audio` (a path below the manifest's folder), `start` and `end` (s),
`channel`, `words` (text, start and end in seconds from the start of the turn's audio) and `state`
(the whole state after this user turn) may be left out. Without `split` a record belongs to train.
`schema.json` beside it, {domain: [slot, ...]}, is optional.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechdst.data.corpora import common
from speechdst.data.dialogue import SPEAKERS, AudioRef, BadInput, Dialogue, State, Turn, Word

SPLITS = ("train", "dev", "test")


def schema(root: Path) -> dict[str, list[str]] | None:
    """`schema.json` of the folder in lower case, or None if there is none."""
    path = (root.parent if root.suffix == ".jsonl" else root) / "schema.json"
    if not path.exists():
        return None
    domains = common.load_json(path)
    if not isinstance(domains, dict) or not all(
        isinstance(slots, list) and all(isinstance(s, str) for s in slots)
        for slots in domains.values()
    ):
        raise BadInput("expected {domain: [slot, ...]}", file=path)
    return {domain.lower(): [s.lower() for s in slots] for domain, slots in domains.items()}


def read(root: Path, split: str) -> Iterator[Dialogue | BadInput]:
    """Yields the dialogues of `split`; lines that cannot be used as `BadInput` with file:line.

    Lines that are not JSON belong to no split and are reported with each.

    Args:
      root: the folder of `manifest.jsonl`, or a manifest of another name.
    """
    path = root if root.suffix == ".jsonl" else root / "manifest.jsonl"

    def make(where: str, id: str, raw: dict) -> Dialogue:
        turns = common.want(raw, "turns", list, file=where, id=id)
        made = (_turn(t, f"turns[{i}]", path.parent, where, id) for i, t in enumerate(turns))
        return Dialogue(id, "manifest", split, tuple(made))

    yield from common.records(path, split, make)


def _turn(raw: Any, at: str, root: Path, where: str, id: str) -> Turn:
    def get(name: str, *kinds: type):
        return common.want(raw, name, kinds, file=where, id=id)

    def bad(problem: str, field: str):
        raise BadInput(problem, file=where, record=id, field=f"{at}.{field}")

    speaker = get("speaker", str)
    if speaker not in SPEAKERS:
        bad(f"unknown speaker {speaker!r}, expected one of {SPEAKERS}", "speaker")
    start, end = get("start", int, float, type(None)), get("end", int, float, type(None))
    audio, seconds = get("audio", str, type(None)), None
    if audio is not None:
        path = common.inside(root, audio, file=where, id=id, field=f"{at}.audio")
        length = common.audio_seconds(path, file=where, id=id)
        seconds = (length if end is None else end) - (start or 0.0)
        if (start or 0.0) < 0 or seconds <= 0 or (end or 0.0) > length + common.SLACK:
            bad(f"start {start} and end {end} do not lie in the {length:.2f} s of {audio}", "start")
        audio = AudioRef(
            str(path),
            float(start or 0.0),
            None if end is None else min(float(end), length),
            get("channel", int, type(None)),
        )
    words = []
    for j, word in enumerate(get("words", list, type(None)) or []):
        match word:
            case [str(text), int() | float() as begin, int() | float() as finish]:
                words.append(Word(text, float(begin), float(finish)))
            case _:
                bad(f"expected [text, start, end], got {word!r:.60}", f"words[{j}]")
        if begin < 0 or finish < begin or (seconds is not None and finish > seconds + common.SLACK):
            limit = "" if seconds is None else f" of {seconds:.2f} s"
            bad(
                f"word {text!r} runs from {begin:.2f} s to {finish:.2f} s, outside the turn's "
                f"audio{limit}",
                f"words[{j}]",
            )
    return Turn(
        speaker,
        get("text", str),
        tuple(words),
        audio,
        _state(get("state", dict, type(None)), bad),
        start=None if start is None else float(start),
    )


def _state(raw: dict | None, bad) -> State | None:
    if raw is None:
        return None
    state: State = {}
    for domain, slots in raw.items():
        if not isinstance(slots, dict):
            bad(f"expected {{slot: value}} for domain {domain!r}, got {slots!r:.60}", "state")
        for slot, value in slots.items():
            if not isinstance(value, str):
                bad(f"value of {domain}-{slot} is {value!r:.60}, expected a string", "state")
            if value.strip():
                state.setdefault(domain.lower(), {})[slot.lower()] = value.strip().lower()
    return state
