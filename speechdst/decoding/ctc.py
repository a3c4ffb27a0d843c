"""What the CTC head hears: log-probabilities of an utterance's vectors, and what they spell."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from speechdst.data.contexts import FRAMES_PER_SECOND, Context, Hearing, TreeBuilder
from speechdst.data.dialogue import BadInput, Dialogue
from speechdst.data.tokenizer import Tokenizer
from speechdst.decoding.parse import Prediction
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.training import state


def has_head(model: DialogueLMConfig) -> bool:
    """Whether there is a `CTCHead` in the model."""
    return model.ctc and model.encoder.hears == "log_mel"


class CTCHead:
    """float [frames, channels] log-mel features -> float32 [vectors, V + 1], the blank last."""

    def __init__(self, model: DialogueLMConfig, params: state.Params):
        """Raises `BadInput` if the model has no CTC head, or does not hear log-mel features."""
        if not has_head(model):
            raise BadInput("there is no CTC head over log-mel features", field="model",
                           mend="a from-scratch preset with ctc = True")
        self.channels = model.encoder.channels
        self._graph, self._params = state.abstract(model)[0], params

    def __call__(self, features: np.ndarray) -> np.ndarray:
        x = np.zeros((up(len(features), 2 * FRAMES_PER_SECOND), self.channels), np.float32)
        x[: len(features)] = features
        found, length = _log_probs(self._params, x, jnp.int32(len(features)), graph=self._graph)
        return np.asarray(found)[: int(length)]


def heard(dialogues: Sequence[Dialogue], model: DialogueLMConfig, tokenizer: Tokenizer,
          params: state.Params) -> Iterator[tuple[int, int, np.ndarray]]:
    """(dialogue, turn, what `CTCHead` hears in it) of every user turn, indices into `dialogues` and
    its turns."""
    head = CTCHead(model, params)
    builder = TreeBuilder(Context("asr"), tokenizer, model.soft_length, Hearing.of(model.encoder))
    for d, dialogue in enumerate(dialogues):
        for i, turn in enumerate(dialogue.turns):
            if turn.speaker == "user":
                yield d, i, head(builder.utterance(turn).features)


def spelled(log_probs: np.ndarray) -> list[int]:
    """The labels of the best path: of every vector the likeliest class, repetitions once, without
    blanks."""
    best = log_probs.argmax(-1) if len(log_probs) else np.zeros(0, int)
    kept = (best != log_probs.shape[-1] - 1) & (best != np.append(-1, best[:-1]))
    return best[kept].tolist()


@dataclasses.dataclass(frozen=True)
class Speller:
    """Writes down what the CTC head hears, as a `decoding.track.Tracker` of utterances does."""

    params: state.Params
    config: DialogueLMConfig
    tokenizer: Tokenizer

    def track(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[int, int, Prediction, str]]:
        for d, turn, log_probs in heard(dialogues, self.config, self.tokenizer, self.params):
            text = self.tokenizer.decode(spelled(log_probs)).strip()
            yield d, turn, Prediction(text, [], {}, True), text


@functools.partial(jax.jit, static_argnames="graph")
def _log_probs(params, features, length, *, graph):
    """features [frames, channels] -> log-probabilities [vectors, V + 1], how many are heard."""
    made = state.model_of(graph, params)
    x, lengths = made.encoder(features[None], length[None])
    return jax.nn.log_softmax(made.ctc_head(x[0]).astype(jnp.float32)), lengths[0]


def up(number: int, step: int) -> int:
    """The next multiple, so that there are few shapes to compile."""
    return -(-number // step) * step
