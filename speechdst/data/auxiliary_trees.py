"""The three auxiliary tasks (arXiv 2412.15995) as branches of one tree.

The trunk is the recording: the story as its narrator reads it and the conversation about it, an
utterance a turn. Behind it hang, for every question,

    listening   what was said: the last request, the story, one turn, or all of it
    reasoning   whether the request is ambiguous, what it leaves open, and the words of the story
                that answer it, as JSON
    response    the reply: a question back where the request is ambiguous, else the answer

so that the recording is encoded once for all of them. The paper's templates are not published:
the instructions and targets here are ours, and all of them stand in this file.
"""

import copy
import dataclasses
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from speechdst.data.contexts import WHOLE, Context, Hearing, TreeBuilder
from speechdst.data.dialogue import BadInput, Dialogue, Passage, Question
from speechdst.data.tree import Branch, DialogueTree, Tokens
from speechdst.files import read_object

TASKS = ("listening", "reasoning", "response")
PARTS = {
    "request": "Write down what the user said last.",
    "story": "Write down what the narrator said.",
    "turn": "Write down the turn number",
    "conversation": "Write down all that was said.",
}
REASON = "Is the request ambiguous, what is missing, what was said that answers it?"
REPLY = "Reply to the user."
QUESTION = "QUESTION:"  # before a request that is only written
ANSWER = "\nANSWER:"


@dataclasses.dataclass(frozen=True)
class TaskContext(Context):
    """`tasks`: of `TASKS`, those that hang from the trunk. `listening`: of `PARTS`, what is to be
    written down; of "turn" one turn a dialogue, drawn by its id. `rationales`: a file of what a
    model wrote of why, added to the reasoning targets (`speechdst.rationales`); "": none."""

    kind: str = "tasks"
    agent: str = "speech"
    tasks: tuple[str, ...] = TASKS
    listening: tuple[str, ...] = ("request", "turn")
    rationales: str = ""

    kinds = ("tasks",)

    def __post_init__(self):
        super().__post_init__()
        for field, allowed in (("tasks", TASKS), ("listening", tuple(PARTS))):
            given = getattr(self, field)
            if not given or set(given) - set(allowed):
                raise ValueError(f"context.{field} is {given!r}, expected some of {allowed}")


@dataclasses.dataclass(frozen=True)
class Asked:
    """One branch of a dialogue: `question` is a number in `Dialogue.questions`, `part` of `PARTS`
    for listening, `turn` the last turn that is read before it, `target` what is right ("": not
    known, where a reply is to be made)."""

    task: str
    question: int
    part: str
    turn: int
    instruction: str
    target: str


def said(dialogue: Dialogue, part: str, question: Question) -> str:
    """What was said in a part of a recording; "" where nobody wrote it down."""
    turns = dialogue.turns
    asked = question.turn if question.turn is not None else len(turns) - 1
    if part == "request":
        return turns[question.turn].text if question.turn is not None else ""
    if part == "story":
        first, last = _turns_of(dialogue, question)
        texts = [t.text for t in turns[first:last]]
        # A recogniser's text that fits no single turn still is that of the passage.
        return " ".join(texts) if all(texts) else dialogue.passages[question.passage].text
    if part == "turn":
        return turns[drawn(dialogue, asked)].text
    texts = [t.text for t in turns[: asked + 1]]
    return " ".join(texts) if all(texts) else ""


def _turns_of(dialogue: Dialogue, question: Question) -> tuple[int, int]:
    if not dialogue.passages:
        return 0, 0
    passage = dialogue.passages[question.passage]
    return passage.first, passage.last


def drawn(dialogue: Dialogue, last: int) -> int:
    """The turn up to `last` that the listening task of the part "turn" asks for."""
    return zlib.crc32(dialogue.id.encode()) % (last + 1)


def evidence(question: Question, passage: Passage) -> str:
    """The words of the passage that the answers rest on; "" where that is not annotated. Where an
    answer is itself a piece of the passage, the sentence around it."""
    found: dict[str, None] = {}
    for answer in question.answers:
        if answer.span is None:
            continue
        first, last = answer.span
        if passage.text[first:last] == answer.text:
            ends = [m.end() for m in re.finditer(r"[.!?]\s+|\n+", passage.text)]
            first = max((e for e in ends if e <= first), default=0)
            last = min((e for e in ends if e >= last), default=len(passage.text))
        found[" ".join(passage.text[first:last].split())] = None
    return " ".join(found)


def reasoning(question: Question, passage: Passage, why: str = "") -> str:
    """The target of the reasoning task; `why`: a rationale written by a model, where there is one.
    What is not annotated is not there."""
    target: dict[str, str] = {}
    if question.ambiguous is not None:
        target["ambiguous"] = "yes" if question.ambiguous else "no"
    if question.clarification is not None:
        target["missing"] = " or ".join(r.reply for r in question.clarification.readings)
    if words := evidence(question, passage):
        target["evidence"] = words
    if why:
        target["because"] = why
    return json.dumps(target, separators=(",", ":"), ensure_ascii=False) if target else ""


def reply(question: Question) -> str:
    """The target of the response task; "" where no answer is known."""
    if question.ambiguous:
        return question.clarification.questions[0]
    return question.answers[0].text if question.answers else ""


def symbols() -> list[str]:
    """Pieces of instructions and targets that never vary, so that each is one token."""
    return ["NARRATOR:", QUESTION, ANSWER, *PARTS.values(), REASON, REPLY, '{"ambiguous":"',
            'yes"', 'no"', ',"missing":"', ',"evidence":"', '{"evidence":"', ',"because":"',
            '","missing":"', '","evidence":"', '","because":"', '"}']  # fmt: skip


def texts(dialogue: Dialogue) -> Iterator[str]:
    """What a tokenizer will see of a dialogue's questions, beside its turns."""
    for question in dialogue.questions:
        yield question.text
        yield reasoning(question, dialogue.passages[question.passage])
        yield reply(question)


class TaskTreeBuilder(TreeBuilder):
    """Dialogues with questions to trees, one each. Raises `BadInput` if the context names a file
    of rationales that is none."""

    def __init__(self, context: TaskContext, *args, **kwargs):
        super().__init__(context, *args, **kwargs)
        self.rationales: dict[str, dict[str, str]] = {}
        if context.rationales:
            mend = "write it with `python -m speechdst.rationales`"
            found = read_object(Path(context.rationales), mend).get("rationales")
            if not isinstance(found, dict):
                raise BadInput("there are no rationales", file=context.rationales, mend=mend)
            self.rationales = found

    def asked(self, dialogue: Dialogue) -> list[Asked]:
        """All that the tasks of the context ask about a dialogue. One without questions (a live
        conversation) is asked about its last turn; then no target is known."""
        end = len(dialogue.turns) - 1
        made = []
        for i, question in enumerate(dialogue.questions or (Question("last", "", (), turn=end),)):
            last = end if question.turn is None else question.turn
            before = f"{QUESTION} {question.text}\n" if question.turn is None else ""
            passage = dialogue.passages[question.passage] if dialogue.passages else None
            add = lambda task, part, text, target, i=i, last=last: made.append(
                Asked(task, i, part, last, text, target))
            for part in self.context.listening if "listening" in self.context.tasks else ():
                # The recording of several written questions is listened to once.
                if question.turn is None and (i or part == "request"):
                    continue
                number = f" {drawn(dialogue, last) + 1}" if part == "turn" else ""
                add("listening", part, PARTS[part] + number, said(dialogue, part, question))
            if "reasoning" in self.context.tasks:
                why = self.rationales.get(dialogue.id, {}).get(question.id, "")
                add("reasoning", "", before + REASON,
                    reasoning(question, passage, why) if passage else "")
            if "response" in self.context.tasks:
                add("response", "", before + REPLY, reply(question))
        return made

    def only(self, task: str, *listening: str) -> "TaskTreeBuilder":
        """The same builder for one task; `listening`: of which parts."""
        made = copy.copy(self)
        made.context = dataclasses.replace(
            self.context, tasks=(task,), listening=listening or self.context.listening)
        return made

    def keys(self, dialogue: Dialogue) -> list[int]:
        """One training tree, of what has a target; none where a turn is outside the limits of the
        context."""
        if any(self.has_speech(t) and not self.usable(t) for t in dialogue.turns):
            return []
        return [WHOLE] if any(a.target for a in self.asked(dialogue)) else []

    def tree(self, dialogue: Dialogue, key: int) -> DialogueTree:
        return self._tree(dialogue, [a for a in self.asked(dialogue) if a.target], targets=True)

    def prompt(self, dialogue: Dialogue) -> tuple[DialogueTree, list[Asked]]:
        """What is read before the answers are decoded, all turns that there are, and what is
        asked, one branch each."""
        end = len(dialogue.turns) - 1
        asked = [dataclasses.replace(a, turn=end) for a in self.asked(dialogue)]
        return self._tree(dialogue, asked, targets=False), asked

    def _tree(self, dialogue: Dialogue, asked: list[Asked], targets: bool) -> DialogueTree:
        turns = dialogue.turns[: max(a.turn for a in asked) + 1]
        trunk, utterances, ends = self.spoken_trunk(turns, self.has_speech, self.has_speech)
        branches = []
        for a in asked:
            ids = [self.tokenizer.bos, *self.tokenizer.encode(a.instruction + ANSWER)]
            answer = self.tokenizer.words(a.target) if targets else []
            branches.append(Branch(
                ends[a.turn],
                (Tokens(ids), Tokens([*answer, self.tokenizer.eos], loss=True)),
                TASKS.index(a.task)))
        return DialogueTree(tuple(trunk), tuple(branches), tuple(utterances))


def builder_of(context: Context, tokenizer, model, hearing: Hearing | None = None) -> TreeBuilder:
    """The builder of a context's trees, for a model's config; `hearing`: if not the encoder's."""
    kind = TaskTreeBuilder if isinstance(context, TaskContext) else TreeBuilder
    return kind(context, tokenizer, model.soft_length, hearing or Hearing.of(model.encoder))
