"""Transcribes recordings of which the state is known and the wording is not.

    python -m speechdst.transcribe --config=configs/joint_dst.py:coffee --workdir=runs/coffee \\
        --stage=asr --data=recordings --split=train --out=data/coffee/transcripts.jsonl

Where a corpus has a grammar, a state can be said in some dozens of ways only, and even a weak
recogniser can tell which: of the corpus's `wordings(root)(state)` the one that the run's CTC head
finds most likely is written, {"id", "text", "ahead", "per_token"} a line. `ahead`: by how many
nats it leads before the next one; `per_token`: its CTC loss. Recordings whose loss is above --most
are left out and counted: their grammar or their label does not fit.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import config_flags

from speechdst.command import run
from speechdst.data import corpora
from speechdst.data.contexts import Context, Hearing, TreeBuilder
from speechdst.data.dialogue import BadInput
from speechdst.data.prepared import Prepared
from speechdst.decoding.ctc import CTCHead, up
from speechdst.files import write_text
from speechdst.training import state
from speechdst.training.checkpoint import load_run


class Scorer:
    """The CTC loss in nats of many wordings of one recording."""

    def __init__(self, model, params: state.Params):
        """Raises `BadInput` if the model has no CTC head, or does not hear log-mel features."""
        self.head, self.classes = CTCHead(model, params), model.decoder.vocabulary + 1

    def __call__(self, features: np.ndarray, wordings: Sequence[Sequence[int]]) -> np.ndarray:
        """features [frames, channels], token ids of each wording -> nats [wordings]."""
        found = self.head(features)
        labels = np.zeros((up(len(wordings), 32), up(max(map(len, wordings)), 16)), np.int32)
        lengths = np.ones(len(labels), np.int32)
        for row, ids in enumerate(wordings):
            labels[row, : len(ids)], lengths[row] = ids, len(ids)
        # Only the labels that occur, for a vocabulary to every wording would be large; all others
        # are one class, so that the probabilities still add up.
        used = np.unique(labels)
        share = np.zeros((self.classes, up(len(used), 32) + 2), np.float32)
        share[used, np.arange(len(used))] = 1
        share[:, -2] = ~share.any(1)
        share[-1] = 0
        share[-1, -1] = 1  # the blank
        own = np.zeros((up(len(found), 64), share.shape[1]), np.float32)
        own[: len(found)] = np.log(np.maximum(np.exp(found) @ share, 1e-30))
        return np.asarray(_losses(own, len(found), np.searchsorted(used, labels), lengths)
                          )[: len(wordings)]  # fmt: skip


@jax.jit
def _losses(log_probs, length, labels, lengths):
    """Of labels [wordings, L]: the loss of each."""
    many = jnp.broadcast_to(log_probs, (len(labels), *log_probs.shape))
    behind = jnp.arange(log_probs.shape[0]) >= length
    return optax.ctc_loss(
        many, jnp.broadcast_to(behind, many.shape[:2]).astype(jnp.float32), labels,
        (jnp.arange(labels.shape[1]) >= lengths[:, None]).astype(jnp.float32),
        blank_id=log_probs.shape[-1] - 1)


def transcripts(prepared: Prepared, split: str, tokenizer, model, params,
                wordings) -> Iterator[dict]:
    """The most likely wording of every turn with a state, as a line of the file.

    `wordings`: state -> what may be said for it. Turns for which there is none are left out.
    """
    scorer = Scorer(model, params)
    builder = TreeBuilder(Context("asr"), tokenizer, model.soft_length, Hearing.of(model.encoder))
    for dialogue in prepared.dialogues(split):
        for _, turn in dialogue.user_turns():
            texts = wordings(turn.state)
            if not texts:
                continue
            ids = [tokenizer.words(text) for text in texts]
            loss = scorer(builder.utterance(turn).features, ids)
            best, *others = np.argsort(loss)
            ahead = float(loss[others[0]] - loss[best]) if others else float("inf")
            yield {"id": dialogue.id, "text": texts[best], "ahead": round(ahead, 3),
                   "per_token": round(float(loss[best]) / len(ids[best]), 3)}


def main(argv):
    del argv
    c, name = _CONFIG.value, _DATA.value
    options = c.prepare[name]
    corpus = corpora.get(options.corpus)
    if not hasattr(corpus, "wordings"):
        raise BadInput(f"the corpus {options.corpus} does not say how a state may be worded",
                       field="--data")
    tokenizer, model, params = load_run(c, Path(_WORKDIR.value), _STAGE.value)
    lines, poor = [], 0
    for split in _SPLIT.value:
        for line in transcripts(Prepared(Path(c.data_dir) / name), split, tokenizer, model, params,
                                corpus.wordings(Path(options.root))):
            if line["per_token"] > _MOST.value:
                poor += 1
            else:
                lines.append(line)
    if not lines:
        raise BadInput(f"all of the {poor} recordings are left out", field="--most")
    write_text(Path(_OUT.value), "".join(json.dumps(line) + "\n" for line in lines))
    sure = sum(line["ahead"] > 1 for line in lines)
    print(f"{_OUT.value}: {len(lines)} transcripts, {sure} more than 1 nat ahead of the next "
          f"wording, {np.mean([line['per_token'] for line in lines]):.2f} nats a token; {poor} "
          "recordings left out")  # fmt: skip


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "The recipe the run was trained with.", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
    _STAGE = flags.DEFINE_string("stage", "", "The stage that listens; empty: the last.")
    _DATA = flags.DEFINE_string("data", None, "The prepared data set.", required=True)
    _SPLIT = flags.DEFINE_list("split", ["train"], "Its splits.")
    _OUT = flags.DEFINE_string("out", None, "The file to write.", required=True)
    _MOST = flags.DEFINE_float("most", 20.0, "Nats a token above which one is left out.")
    run(main)
