"""A frozen speech encoder over prepared data, once, so that training reads what it makes of it.

`python -m speechdst.prepare --features` runs this; stages of a config with `encoded` set to True
then train on the result instead of on audio. It is found by the fingerprints of encoder and data:
an encoder that differs in one weight is another one.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from speechdst import sharding
from speechdst.config import model_config, tokenizer_of
from speechdst.data import encoded, speech
from speechdst.data.contexts import FRAMES_PER_SECOND, Hearing
from speechdst.data.dialogue import SAMPLE_RATE, BadInput, Turn
from speechdst.data.prepared import Prepared
from speechdst.hf import towers
from speechdst.models.dialogue_lm import ENCODERS, DialogueLMConfig
from speechdst.training import state

SECONDS = 120  # of speech in one call of the encoder, for a device
TOWER = "encoder/"


def fingerprint(model: DialogueLMConfig, params: state.Params) -> str:
    """Names what the speech encoder of a model computes: by its config, dtype and weights.

    The weights are taken in the dtype that is computed in, as stages keep what is frozen.
    """
    card = {k: v for k, v in _card(model).items() if k != "remat"}
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    own = {path: x for path, x in params.items() if path.startswith(TOWER)}
    digest.update(state.content(own, model.dtype).encode())
    return digest.hexdigest()[:16]


def _card(model: DialogueLMConfig) -> dict:
    return {"kind": model.encoder.kind, "dtype": model.dtype} | dataclasses.asdict(model.encoder)


class SpeechEncoder:
    """The speech encoder of a model by itself, compiled for a few shapes."""

    def __init__(self, model: DialogueLMConfig, params: state.Params):
        config, dtype = model.encoder, jnp.dtype(model.dtype)
        self.config, self.hearing = config, Hearing.of(config)
        self.waveforms = config.hears == "waveform"
        graph, _ = nnx.split(nnx.eval_shape(lambda: ENCODERS[config.kind](config, nnx.Rngs(0))))
        own = {p.removeprefix(TOWER): x.astype(dtype) for p, x in params.items()
               if p.startswith(TOWER)}

        self.mesh = sharding.mesh_of(own)

        @jax.jit
        def run(params, x, lengths):
            tower = state.model_of(graph, params)
            x, _ = (tower(x, lengths, dtype) if self.waveforms else
                    tower(x.astype(dtype), lengths))
            return x.astype(jnp.bfloat16)

        self.run = functools.partial(run, own)

    def size(self, turn: Turn) -> int:
        """Samples or frames of what it hears of a turn; 0: nothing."""
        if turn.audio is None or turn.audio.samples not in self.hearing:
            return 0
        if self.waveforms:
            return turn.audio.samples
        return len(turn.features) if turn.features is not None else (
            turn.audio.samples // speech.HOP)

    def vectors(self, turn: Turn) -> int:
        """How many it makes of a turn."""
        return self.config.length(self.size(turn))

    def heard(self, turn: Turn) -> np.ndarray:
        if not self.waveforms and turn.features is not None:
            return turn.features
        samples = speech.decode(turn.audio)
        return samples if self.waveforms else speech.log_mel(samples, self.config.channels)

    def __call__(self, turns: Sequence[Turn]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of the turn, bfloat16 [vectors, width]), the longest turns first."""
        second = SAMPLE_RATE if self.waveforms else FRAMES_PER_SECOND
        sizes = [self.size(t) for t in turns]
        order = sorted(range(len(turns)), key=lambda i: -sizes[i])
        while order:
            size = _bucket(sizes[order[0]], second, self.config.most)
            rows = max(1, SECONDS * second // size) * sharding.ways(self.mesh)
            chosen, order = order[:rows], order[rows:]
            channels = () if self.waveforms else (self.config.channels,)
            x = np.zeros((rows, size, *channels), np.float32)
            lengths = np.zeros(rows, np.int32)
            for row, i in enumerate(chosen):
                lengths[row] = sizes[i]
                x[row, : sizes[i]] = self.heard(turns[i])
            with jax.set_mesh(self.mesh):
                out = np.asarray(self.run(*sharding.put((x, lengths), self.mesh)))
            for row, i in enumerate(chosen):
                yield i, out[row, : self.vectors(turns[i])]


def _bucket(size: int, second: int, most: int | None) -> int:
    """The next of 1, 1.5, 2, 3, 4, 6 ... seconds, so that there are few shapes; at most `most`."""
    whole = second
    while whole < size:
        whole *= 2
    size = whole * 3 // 4 if second < whole and size <= whole * 3 // 4 else whole
    return size if most is None or second != SAMPLE_RATE else min(size, most)


def pretrained(config: ConfigDict) -> tuple[DialogueLMConfig, state.Params]:
    """The model of a config, and of its parameters the encoder's from its checkpoint.

    Raises:
      BadInput: the config names none, or it cannot be used.
    """
    folder = config.get("pretrained", {}).get("encoder", "")
    if not folder:
        raise BadInput("there is no speech encoder", field="config.pretrained.encoder",
                       mend="name the folder of its checkpoint, or with --workdir a run")
    model = model_config(config.model, tokenizer_of(config).size)
    shapes = state.abstract(model)[1]
    where = sharding.parameters(shapes, sharding.make_mesh(**config.mesh))
    template = {path: jax.ShapeDtypeStruct(x.shape, jnp.dtype(model.dtype), sharding=where[path])
                for path, x in shapes.items()}
    return model, towers.load({"encoder": folder}, model, template)


def store(prepared: Prepared, model: DialogueLMConfig, params: state.Params,
          progress=None) -> str:
    """Encodes the recordings of a data set; returns a line about it.

    Finished shards are left alone. Raises `BadInput` for damaged records.
    """
    encoder = SpeechEncoder(model, params)
    name = fingerprint(model, params)
    told = {} if progress is None else {"progress": progress}
    folder = encoded.write(prepared, name, model.encoder.width, encoder.vectors, encoder,
                           _card(model), **told)
    size = sum(p.stat().st_size for p in folder.glob("*.npy")) / 1e6
    return f"{prepared.folder.name}: encoded by {name}, {size:.1f} MB in {folder}"


def dialogues(prepared: Prepared, split: str, model: DialogueLMConfig, params: state.Params,
              trainable: Sequence[str]) -> encoded.Encoded:
    """The encoded dialogues of a split for a stage.

    Raises:
      BadInput: the stage trains the encoder, or the recordings were not encoded with it.
    """
    moving = [p for p in params if p.startswith(TOWER) and any(
        re.search(pattern, p) for pattern in trainable)]
    if moving:
        raise BadInput(f"the stage trains the speech encoder ({moving[0]})", field="stage.encoded",
                       mend="set it to False, or keep the encoder out of stage.trainable")
    return encoded.Encoded(prepared, split, fingerprint(model, params))


def hearing(model: DialogueLMConfig) -> Hearing:
    """What a builder of trees is told where speech was encoded beforehand."""
    return dataclasses.replace(Hearing.of(model.encoder), kind="encoded")
