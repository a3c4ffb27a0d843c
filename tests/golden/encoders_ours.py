"""What our speech encoders make of the golden configs: the outputs of `make_encoders.py`, ours."""

import dataclasses
import functools

import jax
import numpy as np
import tiny
from flax import nnx
from golden import encoders

from speechdst.hf import wavlm as hf_wavlm
from speechdst.hf import whisper as hf_whisper
from speechdst.models.audio_encoder.wavlm import WavLM
from speechdst.models.audio_encoder.whisper import Whisper
from speechdst.training.state import flatten, model_of


@functools.cache
def shapes(cls, config):
    """The module's graph and its flat parameters' shapes; nothing is computed."""
    graph, state = nnx.split(nnx.eval_shape(lambda: cls(config, nnx.Rngs(0))))
    return graph, flatten(state)


def bare(name: str) -> str:
    """A tensor's name as the encoder by itself has it."""
    return name.removeprefix("model.encoder.")


def drawn(table, flat) -> dict[str, np.ndarray]:
    """Parameters by the rule of the Hugging Face tensors that a table maps them to."""
    params = {}
    for path, shape in ((path, x.shape) for path, x in flat.items()):
        tensor = table[path]
        stacked = "{i}" in tensor.name
        own = shape[1:] if stacked else shape
        axes = tensor.axes or tuple(range(len(own)))
        theirs = tuple(own[axes.index(a)] for a in range(len(own)))
        layers = [encoders.draw(bare(tensor.name.format(i=i)), theirs).transpose(axes)
                  for i in range(shape[0] if stacked else 1)]
        params[path] = np.stack(layers) if stacked else layers[0]
    return params


def ask(cls, config, params, call=lambda m, *x: m(*x, every=True)):
    """A compiled (*inputs) -> numpy outputs of the module over these parameters."""
    graph, _ = shapes(cls, config)
    run = jax.jit(lambda p, *x: call(model_of(graph, p), *x), compiler_options=tiny.QUICK)
    return lambda *x: jax.tree.map(np.asarray, run(params, *x))


def every_state(x, states):
    """As the reference's: every layer's output, and the last after the final norm."""
    return np.concatenate([states, x[None]])


@functools.cache
def wavlm(name: str) -> dict[str, np.ndarray]:
    config = hf_wavlm.config(encoders.WAVLM[name])
    params = drawn(hf_wavlm.table(config), shapes(WavLM, config)[1])
    run = ask(WavLM, config, params)
    sizes = encoders.SIZES[int(name[-1])]
    clips = [encoders.clip(n, j) for j, n in enumerate(sizes)]
    result = {}
    for j, wave in enumerate(clips):
        x, lengths, states = run(wave[None], np.array([len(wave)]))
        assert lengths[0] == x.shape[1] == config.length(len(wave))
        result[f"{name}.alone{j}"] = encoders.some(every_state(x, states)[:, 0])
    leaky = ask(WavLM, dataclasses.replace(config, leak_padding=True), params)
    batch = np.stack([np.pad(w, (0, sizes[0] - len(w)), constant_values=np.nan) for w in clips])
    x, lengths, states = leaky(batch, np.array(sizes))
    result[f"{name}.batched1"] = encoders.some(every_state(x, states)[:, 1, : lengths[1]])
    return result


@functools.cache
def whisper(name: str) -> dict[str, np.ndarray]:
    config = hf_whisper.config(encoders.WHISPER[name], window="pad30")
    params = drawn(hf_whisper.table(config), shapes(Whisper, config)[1])
    wave, length = encoders.clip(encoders.CLIP)[None], np.array([encoders.CLIP])
    features, _ = ask(Whisper, config, params, lambda m, *x: m.features(*x))(wave, length)
    x, lengths, states = ask(Whisper, config, params)(wave, length)
    assert lengths[0] == config.length(encoders.CLIP) == 31
    heard = every_state(x, states)[:, 0]
    given = encoders.features(46, config.mels)[None]
    encode = ask(Whisper, config, params, lambda m, *x: m.encode(*x, every=True))
    x, _, states = encode(given, np.array([46]))
    return {f"{name}.features": features[0][[0, 20, 61, 62, 63, 64, 99]],
            f"{name}.pad30": np.concatenate([encoders.some(heard[:, :32]), heard[:, -1:]], 1),
            f"{name}.short": encoders.some(every_state(x, states)[:, 0])}
