"""Tracking: dialogues in, a transcript and a state for every user turn out."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from speechdst.data.batch import stack
from speechdst.data.contexts import Context, Hearing, TreeBuilder
from speechdst.data.dialogue import Dialogue
from speechdst.data.plan import FRAME
from speechdst.data.tokenizer import Tokenizer
from speechdst.data.tree import DialogueTree, RowShape, Table, layout, length, pack
from speechdst.decoding.decode import decode
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
            for d, answers in self._decoded(prompts):
                for turn, text in zip(users[d], answers, strict=True):
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

    def _decoded(self, prompts: list[DialogueTree]):
        """Yields (prompt index, answer text of every branch), longest prompts first."""
        order = sorted(range(len(prompts)), key=lambda i: -length(prompts[i]))
        graph, _ = state.abstract(self.config)
        for at in range(0, len(order), self.rows):
            chosen = order[at : at + self.rows]
            trees = [prompts[i] for i in chosen]
            shape = self._shape(trees)
            trees += [DialogueTree((), ())] * (self.rows - len(trees))
            batch = stack([pack([t], shape) for t in trees])
            branches = _up(max(len(t.branches) for t in trees), 1)
            starts = np.full((self.rows, branches), -1, np.int32)
            for row, tree in enumerate(trees):
                at_branch = np.unique(layout(tree).branch_start[layout(tree).branch >= 0])
                starts[row, : len(at_branch)] = at_branch
            tokens, _ = decode(self.params, jax.device_put(batch), starts, graph=graph,
                               beam=self.beam, max_new=self.max_new, eos=self.tokenizer.eos)
            tokens = np.asarray(tokens)
            for row, i in enumerate(chosen):
                yield i, [self.tokenizer.decode(t[: np.argmax(np.append(t, self.tokenizer.eos)
                                                              == self.tokenizer.eos)])
                          for t in tokens[row, : len(trees[row].branches)]]

    def _shape(self, trees: Sequence[DialogueTree]) -> RowShape:
        """A row shape for these prompts out of a small closed set: sizes are powers of two."""
        tables: tuple[Table, ...] = ()
        if sizes := [u.size for t in trees for u in t.utterances]:
            kind = next(u.kind for t in trees for u in t.utterances)
            size = _up(max(sizes), 32 if kind == "words" else int(128 * FRAME[kind]))
            if self.config.encoder.most and kind == "waveform":
                size = min(size, self.config.encoder.most)
            count = _up(max(len(t.utterances) for t in trees), 1)
            tables = (Table(kind, count, size, self.config.soft_length(kind, size)),)
        return RowShape(_up(max(map(length, trees)), 128), tables,
                        channels=self.config.encoder.channels)


def _up(n: int, least: int) -> int:
    """The next power of two times `least`."""
    while least < n:
        least *= 2
    return least
