"""Replying: spoken conversations in, what the auxiliary tasks ask about them out."""

import dataclasses
from collections.abc import Sequence

from speechdst.data.auxiliary_trees import Asked, TaskContext, builder_of
from speechdst.data.dialogue import Dialogue
from speechdst.data.tokenizer import Tokenizer
from speechdst.decoding.answers import answers
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.training import state


@dataclasses.dataclass(frozen=True)
class Responder:
    """A trained model with what is needed to have it reply."""

    params: state.Params
    config: DialogueLMConfig
    tokenizer: Tokenizer
    context: TaskContext
    beam: int = 1
    max_new: int = 128
    rows: int = 8

    def respond(self, dialogues: Sequence[Dialogue]) -> list[list[tuple[Asked, str]]]:
        """For each dialogue what was asked, branch by branch, and the text of the answer."""
        builder = builder_of(self.context, self.tokenizer, self.config)
        prompts = [builder.prompt(d) for d in dialogues]
        texts = dict(answers([tree for tree, _ in prompts], self.params, self.config,
                             self.tokenizer, beam=self.beam, max_new=self.max_new,
                             rows=self.rows))
        return [[(a, text.strip()) for a, text in zip(asked, texts[i], strict=True)]
                for i, (_, asked) in enumerate(prompts)]
