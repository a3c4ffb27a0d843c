"""Tracking: dialogues in, a transcript and a state for every user turn out."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from speechdst.data.contexts import Context, Hearing, TreeBuilder
from speechdst.data.dialogue import Dialogue
from speechdst.data.tokenizer import Tokenizer
from speechdst.data.tree import DialogueTree
from speechdst.decoding.answers import answers
from speechdst.decoding.parse import Prediction, parse
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.training import state


@dataclasses.dataclass(frozen=True)
class Tracker:
    """A trained model with what is needed to track dialogues with it.

    `gold_history`: a text history of given transcripts instead of the model's own.
    """

    params: state.Params
    config: DialogueLMConfig
    tokenizer: Tokenizer
    context: Context
    beam: int = 1
    max_new: int = 256
    rows: int = 8
    gold_history: bool = False

    def track(self, dialogues: Sequence[Dialogue]) -> Iterable[tuple[int, int, Prediction, str]]:
        """Yields (dialogue, turn, prediction, raw answer) for every user turn, indices into
        `dialogues` and its turns."""
        builder = TreeBuilder(self.context, self.tokenizer, self.config.soft_length,
                              Hearing.of(self.config.encoder))
        users = [[i for i, t in enumerate(d.turns) if t.speaker == "user"] for d in dialogues]
        if self.context.kind == "spoken_history":
            prompts = [builder.prompt(d.turns) for d in dialogues]
            for d, texts in self._decoded(prompts):
                for turn, text in zip(users[d], texts, strict=True):
                    yield d, turn, parse(text), text
            return
        # Turn by turn, since a history holds the model's own transcripts of the turns before.
        heard = [list(d.turns) for d in dialogues]
        for k in range(max(map(len, users), default=0)):
            asked = [d for d in range(len(dialogues)) if k < len(users[d])]
            prompts = [builder.prompt(heard[d][: users[d][k] + 1]) for d in asked]
            for index, (text,) in self._decoded(prompts):
                d, turn = asked[index], users[asked[index]][k]
                prediction = parse(text) if self.context.kind != "asr" else Prediction(
                    text.strip(), [], {}, True)
                if not self.gold_history:
                    heard[d][turn] = dataclasses.replace(heard[d][turn], text=prediction.label)
                yield d, turn, prediction, text

    def _decoded(self, prompts: Sequence[DialogueTree]) -> Iterator[tuple[int, list[str]]]:
        return answers(prompts, self.params, self.config, self.tokenizer, beam=self.beam,
                       max_new=self.max_new, rows=self.rows)
