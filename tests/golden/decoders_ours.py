"""What our decoder makes of the golden configs: the outputs of `make_decoders.py`, ours."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx
from golden import decoders as golden
from safetensors.numpy import save_file

from speechdst.hf import checkpoint
from speechdst.hf import decoders as hf
from speechdst.models import attention
from speechdst.models.decoder import Decoder, DecoderConfig
from speechdst.training.state import flatten, model_of


@functools.cache
def shapes(config: DecoderConfig):
    """The decoder's graph and its flat parameters' shapes; nothing is computed."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))
    return graph, flatten(state)


def tensors(name: str) -> dict[str, np.ndarray]:
    """The checkpoint of a case by the rule, under the names of the reference."""
    config = hf.decoder_config(golden.values(name))
    made = {}
    for path, tensor in hf.table(config).items():
        shape = shapes(config)[1][path].shape
        for i in range(shape[0]) if "{i}" in tensor.name else (0,):
            own = tensor.name.format(i=i)
            made[own] = golden.draw(own, checkpoint.their_shape(tensor, shape))
    return made


def write(folder: Path, name: str, dtype=np.float32) -> dict[str, np.ndarray]:
    """Writes the checkpoint of a case as one would download it; returns its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {n: x.astype(dtype) for n, x in tensors(name).items()}
    save_file(made, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(golden.values(name)))
    return made


def load(folder: Path):
    """(graph, config, parameters) of a checkpoint."""
    config = hf.decoder_config(hf.read_config(folder), folder)
    graph, template = shapes(config)
    return graph, config, hf.load(folder, config, template)


def run(graph, params, soft=None) -> dict[str, np.ndarray]:
    """States behind every layer [layers, SHOWN, width], after the final norm [SHOWN, width], and
    logits [SHOWN, vocabulary], on the golden input; `soft` vectors replace some of the tokens."""
    ids = jnp.asarray(golden.tokens(), jnp.int32)
    positions = jnp.arange(ids.shape[1])[None]

    def attend(q, k, v, cache, **rules):
        where = [jnp.zeros_like(ids)] * 3
        return attention.reference(q, k, v, *where, positions, **rules), cache

    def forward(params):
        decoder = model_of(graph, params)
        x = decoder.embed(ids, jnp.float32)
        if soft is not None:
            x = x.at[:, 3:9].set(decoder.soft(jnp.asarray(soft)))
        hidden, _, states = decoder.transformer(x, attend, positions, each=True)
        return {"states": states[:, 0], "hidden": hidden[0], "logits": decoder.logits(hidden)[0]}

    made = jax.jit(forward, compiler_options=tiny.QUICK)(params)
    return {k: np.asarray(v)[..., golden.SHOWN, :] for k, v in made.items()}


def outputs(name: str, folder: Path) -> dict[str, np.ndarray]:
    """The golden outputs of a case, ours."""
    write(folder, name)
    graph, config, params = load(folder)
    made = run(graph, params)
    if name.startswith("gemma"):
        soft = golden.soft(config.transformer.width)
        made["soft"] = run(graph, params, soft)["hidden"]
    return {f"{name}.{key}": value for key, value in made.items()}
