"""Have a chat model write why a reply is the right one: richer reasoning targets.

    python -m speechdst.rationales --config=configs/auxiliary.py:demo --data=stories \\
        --split=train --url=http://localhost:8000/v1 --model=NAME --out=rationales.json

Rules make the reasoning targets of the auxiliary tasks; what this writes is added to them as
"because" where a stage says --config.stages.tasks.batches.tasks.context.rationales=rationales.json.
The model reads the story and the conversation as text and is told what is right. Replies are kept
beside the output (OUT.chat), so that the same command goes on where it stopped; questions that it
failed on are counted and go without. The output says which model wrote it, when, and asked what.
The key comes from the environment variable that --key_variable names ("": none is sent).
"""

import collections
import datetime
import json
from collections.abc import Iterable
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from speechdst import command
from speechdst.chat import ChatEndpoint, ChatError, ChatUnavailable, Endpoint, text_part
from speechdst.data.auxiliary_trees import reasoning, reply
from speechdst.data.dialogue import Dialogue, Question
from speechdst.data.prepared import Prepared
from speechdst.files import write_text

PROMPT = (
    "Below are a story and a conversation about it. {request}\nWhat is known of the last request: "
    "{known}\nThe right reply is: {reply}\n\nSay in one short sentence why this is the right "
    "reply, from the story and the conversation alone. Write the sentence and nothing else.\n\n"
    "{story}\n\n{conversation}"
)
SETTINGS = dict(temperature=0.0, max_tokens=80)
LONGEST = 400  # characters


def prompt(dialogue: Dialogue, question: Question) -> str:
    """What the model is asked about one question."""
    passage = dialogue.passages[question.passage]
    last = len(dialogue.turns) - 1 if question.turn is None else question.turn
    turns = [t for t in dialogue.turns[: last + 1] if t.speaker != "narrator"]
    request = "" if question.turn is not None else f"The last request is: {question.text}"
    return PROMPT.format(
        request=request, known=reasoning(question, passage), reply=reply(question),
        story=passage.text,
        conversation="\n".join(f"{t.speaker.upper()}: {t.text}" for t in turns)).strip()


def sentence(text: str) -> str:
    """The reply as one line; raises ValueError if it is empty or no single sentence's length."""
    text = " ".join(text.split())
    if not 0 < len(text) <= LONGEST:
        raise ValueError(f"{len(text)} characters, expected 1 to {LONGEST}")
    return text


def write(dialogues: Iterable[Dialogue], chat: ChatEndpoint) -> tuple[dict, collections.Counter]:
    """dialogue id -> question id -> rationale, and how many questions failed, by reason.

    Raises:
      ChatUnavailable: there is no use in asking on.
    """
    made: dict[str, dict[str, str]] = {}
    failed: collections.Counter[str] = collections.Counter()
    for dialogue in dialogues:
        for question in dialogue.questions:
            if not reply(question):
                continue
            message = {"role": "user", "content": [text_part(prompt(dialogue, question))]}
            try:
                made.setdefault(dialogue.id, {})[question.id] = chat.complete(
                    [message], sentence, **SETTINGS)
            except ChatUnavailable:
                raise
            except ChatError as error:
                failed[error.kind] += 1
    return made, failed


def main(argv):
    del argv
    data = Prepared(Path(_CONFIG.value.data_dir) / _DATA.value)
    out = Path(_OUT.value)
    chat = ChatEndpoint(Endpoint(_URL.value, _MODEL.value, _KEY.value),
                        out.with_name(f"{out.name}.chat"))
    made, failed = write(data.dialogues(_SPLIT.value), chat)
    about = {"model": _MODEL.value, "url": _URL.value, "prompt": PROMPT, "settings": SETTINGS,
             "data": data.fingerprint, "split": _SPLIT.value,
             "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    write_text(out, json.dumps({"provenance": about, "rationales": made}, indent=1,
                               ensure_ascii=False) + "\n")
    print(f"{out}: {sum(map(len, made.values()))} rationales"
          + "".join(f", {n} failed ({why})" for why, n in failed.items()))


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "The recipe whose data it is.", lock_config=True)
    _DATA = flags.DEFINE_string("data", None, "A prepared data set.", required=True)
    _SPLIT = flags.DEFINE_string("split", "train", "Its split.")
    _URL = flags.DEFINE_string("url", None, "The endpoint, without /chat/completions.",
                               required=True)
    _MODEL = flags.DEFINE_string("model", None, "The chat model's name there.", required=True)
    _KEY = flags.DEFINE_string("key_variable", "OPENAI_API_KEY", "Environment variable of the key.")
    _OUT = flags.DEFINE_string("out", None, "The file to write.", required=True)
    command.run(main)
