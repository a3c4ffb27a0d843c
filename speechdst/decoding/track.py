"""Tracking: dialogues in, a transcript and a state for every user turn out."""

import dataclasses
import json
from collections.abc import Iterable, Sequence

from speechdst.data.contexts import Hearing, TreeBuilder
from speechdst.data.dialogue import Dialogue
from speechdst.data.grammar import Grammar
from speechdst.decoding.answers import Answerer
from speechdst.decoding.commands import Command, Search
from speechdst.decoding.ctc import heard
from speechdst.decoding.parse import Prediction, parse


@dataclasses.dataclass(frozen=True)
class Tracker(Answerer):
    """A trained model that tracks dialogues; its context is a `contexts.Context`.

    `gold_history`: a text history of given transcripts instead of the model's own. `pause`: seconds
    of silence after which another turn begins in a recording; 0: it is a single utterance.
    `grammar`: of all that can be said; what is heard is then found in it (`decoding.commands`) by
    the CTC head, and the decoder has no say.
    """

    gold_history: bool = False
    pause: float = 0.7
    grammar: Grammar | None = None

    def track(self, dialogues: Sequence[Dialogue]) -> Iterable[tuple[int, int, Prediction, str]]:
        """Yields (dialogue, turn, prediction, raw answer) for every user turn, indices into
        `dialogues` and its turns."""
        if self.grammar is not None and self.context.path == "speech":
            search = Search(self.grammar, self.tokenizer)
            for d, turn, log_probs in heard(dialogues, self.config, self.tokenizer, self.params):
                yield d, turn, *_command(search(log_probs))
            return
        builder = TreeBuilder(self.context, self.tokenizer, self.config.soft_length,
                              Hearing.of(self.config.encoder))
        users = [[i for i, t in enumerate(d.turns) if t.speaker == "user"] for d in dialogues]
        if self.context.kind == "spoken_history":
            prompts = [builder.prompt(d.turns) for d in dialogues]
            for d, texts in self.answers(prompts):
                for turn, text in zip(users[d], texts, strict=True):
                    yield d, turn, parse(text), text
            return
        # Turn by turn, since a history holds the model's own transcripts of the turns before.
        history = [list(d.turns) for d in dialogues]
        for k in range(max(map(len, users), default=0)):
            asked = [d for d in range(len(dialogues)) if k < len(users[d])]
            prompts = [builder.prompt(history[d][: users[d][k] + 1]) for d in asked]
            for index, (text,) in self.answers(prompts):
                d, turn = asked[index], users[asked[index]][k]
                prediction = parse(text) if self.context.kind != "asr" else Prediction(
                    text.strip(), [], {}, True)
                if not self.gold_history:
                    history[d][turn] = dataclasses.replace(history[d][turn], text=prediction.label)
                yield d, turn, prediction, text


def _command(found: Command | None) -> tuple[Prediction, str]:
    """A `commands.Command` as a prediction and what stands for a decoder's answer."""
    if found is None:
        return Prediction("", [], {}, False), ""
    slots = {found.intent: found.slots} if found.slots else {}
    return Prediction(found.text, [found.intent], slots, True), json.dumps(slots)
