"""The report's part about conversations that were evaluated turn by turn: scores of all arms side
by side, by group, and every question's path with its audio."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import soundfile

from speechdst.conversation import loop, scores
from speechdst.conversation.loop import Trajectory
from speechdst.conversation.scores import ConversationScores
from speechdst.data import speech
from speechdst.data.dialogue import Audio, BadInput, Dialogue, Turn
from speechdst.files import read_object
from speechdst.metrics import qa

_RECORDING = re.compile(r"[0-9a-f]{32}\.flac")


@dataclasses.dataclass(frozen=True)
class Conversations:
    """The evaluation of one arm (a model) on one data set; `folder` has the recordings of the turns
    that were added."""

    data: str
    arm: str
    folder: Path
    scores: ConversationScores
    trajectories: list[Trajectory]


def read(folder: Path) -> Conversations:
    """What `evaluation.conversations` wrote there; raises `BadInput` if it is damaged or was not
    finished."""
    file, settings = folder / "scores.json", folder / loop.SETTINGS
    if not file.exists():
        raise BadInput("the evaluation was not finished", file=folder, mend="evaluate again")
    about = read_object(settings, "evaluate again")
    if not {"set", "arm"} <= about.keys():
        raise BadInput("does not say what was evaluated", file=settings, mend="evaluate again")
    return Conversations(str(about["set"]), str(about["arm"]), folder, ConversationScores.from_json(
        file.read_text("utf-8"), file), loop.read(folder))


def tables(all_arms: Sequence[Conversations]) -> list[dict]:
    """Scores for the page: of each data set, its arms side by side, and by group."""
    made = []
    for data in dict.fromkeys(a.data for a in all_arms):
        arms = [a for a in all_arms if a.data == data]
        known = dict.fromkeys(n for a in arms for n in a.scores.rates)
        made.append({
            "name": data, "arms": [(a.arm, a.scores) for a in arms],
            "rows": [(n, [a.scores.rates.get(n) for a in arms]) for n in known],
            "groups": [(a.arm, a.scores.groups, scores.shown(a.scores)) for a in arms
                       if a.scores.groups][:1]})
    return made


def cards(arms: Sequence[Conversations], dialogues: Sequence[Dialogue],
          clip: Callable[[Audio], int], most: int, heard: int) -> list[dict]:
    """One card per arm and question, of at most `most` dialogues, evenly picked, of which `heard`
    have audio; `clip`: a recording -> its number on the page."""
    names = list(dict.fromkeys(t.dialogue for a in arms for t in a.trajectories))
    places = {d.id: i for i, d in enumerate(dialogues)}
    shown = evenly([n for n in names if n in places] or names, most)
    audible = set(evenly(shown, heard))
    known: dict[str, tuple[Dialogue, dict]] = {}
    for name in shown:
        if name in places:
            dialogue = dialogues[places[name]]
            known[name] = dialogue, _clips(dialogue, clip) if name in audible else {}
    numbers: dict[str, int] = {}

    def added(folder: Path, file: str) -> int:  # the same in several arms is on the page once
        if file not in numbers:
            numbers[file] = clip(_recording(folder, file))
        return numbers[file]

    return [_card(k, t, *known.get(t.dialogue, (None, {})),
                  functools.partial(added, arm.folder) if t.dialogue in audible else None)
            for k, arm in enumerate(arms) for t in arm.trajectories if t.dialogue in set(shown)]


def evenly(items: list[str], count: int) -> list[str]:
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _clips(dialogue: Dialogue, clip: Callable[[Audio], int]) -> dict:
    """Turn number -> clip; "story" -> that of the passages, whose sentences are joined."""
    made = {i: clip(t.audio) for i, t in enumerate(dialogue.turns)
            if t.speaker != "narrator" and isinstance(t.audio, Audio)}
    story = [t for t in dialogue.turns if t.speaker == "narrator" and isinstance(t.audio, Audio)]
    if story:
        made["story"] = clip(speech.encode(speech.joined(speech.placed(story))))
    return made


def _recording(folder: Path, file: str) -> Audio:
    """A recording beside the trajectories; raises `BadInput` if it is not there."""
    path = folder / loop.AUDIO / file
    if not _RECORDING.fullmatch(file) or not path.is_file():
        raise BadInput("no such recording", file=folder, record=file, mend="evaluate again")
    return Audio(path.read_bytes(), soundfile.info(str(path)).frames)


def _card(arm: int, t: Trajectory, dialogue: Dialogue | None, clips: dict, added) -> dict:
    line = lambda speaker, text, clip=None, **more: {
        "speaker": speaker, "text": text, "clip": clip, **more}
    before, story = [], None
    if dialogue is not None:
        question = next((q for q in dialogue.questions if q.id == t.question), None)
        turns: Sequence[Turn] = dialogue.turns
        if question is not None and question.turn is not None:
            turns = turns[: question.turn + 1]
        before = [line(x.speaker, x.text, clips.get(i)) for i, x in enumerate(turns)
                  if x.speaker != "narrator"]
        if dialogue.passages and question is not None:
            story = line("story", dialogue.passages[question.passage].text, clips.get("story"))
    if not before or before[-1]["text"] != t.request:
        before.append(line("user", t.request))
    own = t.own()
    return {
        "arm": arm, "dialogue": t.dialogue, "question": t.question, "story": story,
        "before": before, "ambiguous": t.ambiguous, "failure": t.failure,
        "steps": [line(s.speaker, s.text, added(s.audio) if added and s.audio else None,
                       action=s.action, unspoken=s.unspoken) for s in t.steps],
        "replies": list(t.replies), "answers": list(t.answers),
        "turn": qa.drop(own[0].text, t.replies)[1] if own and t.replies else None,
        "trajectory": qa.drop(own[-1].text, t.answers)[1] if own and t.answers else None,
        "asked": len(own) > 1,
        "acted": None if t.ambiguous is None or not own else
        (own[0].action == loop.ASK) == t.ambiguous,
        "heard": [[part, *pair] for part, pair in t.heard.items()],
        "groups": [f"{by}: {group}" for by, group in t.groups.items()],
    }
