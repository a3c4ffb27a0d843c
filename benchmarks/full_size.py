"""A published recipe at full size on this machine: checkpoints read, one train step.

    python -m benchmarks.full_size                   # WavLM-large and OLMo-1B: needs 12 GiB
    python -m benchmarks.full_size --preset=gemma3_1b --seconds=8
    python -m benchmarks.full_size --quick           # seconds, the size of the test

Checkpoints of the right names and shapes with drawn weights (bfloat16, in shards) are written to
--folder, if they are not there, and read as training reads them; then one joint-DST step is taken
over a dialogue of two spoken turns, frozen weights in bfloat16, LoRA and connector in float32.
Peaks are those of the whole process (VmHWM, Linux).

The last line is one JSON object: `load_extra_shards` is the host memory that reading took beyond
the parameters themselves, in sizes of the largest shard; `step_peak_gib` the peak of the steps.
"""

import json
import tempfile
import time
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from absl import flags

from benchmarks import shapes
from benchmarks.cached_features import batch, dialogue
from configs import joint_dst, published
from speechdst.command import run
from speechdst.config import model_config
from speechdst.data.tree import Utterance
from speechdst.files import write_text
from speechdst.hf import towers
from speechdst.hf.checkpoint import their_shape
from speechdst.hf.files import write
from speechdst.hf.published import CONFIGS
from speechdst.steps.joint_dst import make_step
from speechdst.training import optimizer, state

GIB = 2**30
WAVLM = dict(model_type="wavlm", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
             intermediate_size=4096, feat_extract_norm="layer", do_stable_layer_norm=True)
QUICK_LLM = dict(CONFIGS["olmo-1b"], hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=4, head_dim=16, intermediate_size=96, vocab_size=512)
QUICK_WAVLM = dict(WAVLM, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=64, conv_dim=[16] * 7)


def resident(what: str) -> int:
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at most since `reset`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def reset() -> None:
    """The peak starts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def write_checkpoint(folder: Path, values: dict, table: dict, shapes_of: dict, shard: int) -> None:
    """Drawn weights in a published layout, unless they are there."""
    if (folder / "config.json").exists():
        return
    block = (0.02 * np.random.default_rng(0).standard_normal(1 << 20)).astype(ml_dtypes.bfloat16)
    tensors = []
    for path, tensor in table.items():
        whole = shapes_of[path].shape
        shape = their_shape(tensor, whole)
        for i in range(whole[0]) if "{i}" in tensor.name else (0,):
            size = int(np.prod(shape, dtype=np.int64))
            tensors.append((tensor.name.format(i=i), 2 * size,
                            lambda shape=shape: np.resize(block, shape)))
    write(folder, tensors, shard_bytes=shard)
    write_text(folder / "config.json", json.dumps(values))


def measure(preset: str, folder: Path, seconds: float, quick: bool = False) -> dict:
    """Returns what the module's text says, and the loss of two steps in a row."""
    c = joint_dst.get_config(preset)
    values = {"encoder": QUICK_WAVLM if quick else WAVLM,
              "decoder": QUICK_LLM if quick else next(
                  CONFIGS[name] for name, at in published.FOLDERS.items()
                  if c.pretrained.decoder.endswith(at))}
    if quick:
        published.shrink(c, values["encoder"], values["decoder"])
    model = model_config(c.model, values["decoder"]["vocab_size"])
    graph, all_shapes = state.abstract(model)
    stage = c.stages.joint
    dtypes = state.stored(all_shapes, stage.trainable, model.dtype)
    template = {p: jax.ShapeDtypeStruct(x.shape, dtypes[p]) for p, x in all_shapes.items()}
    shard = 700_000_000
    for tower, table in towers.tables(model).items():
        own = {p: all_shapes[f"{tower}/{p}"] for p in table}
        write_checkpoint(folder / tower, values[tower], table, own, shard)
    largest = max(f.stat().st_size for f in folder.glob("*/*.safetensors"))

    before = resident("VmRSS")
    reset()
    began = time.perf_counter()
    params = towers.load({t: str(folder / t) for t in ("encoder", "decoder")}, model, template)
    loading = time.perf_counter() - began
    held = sum(x.nbytes for x in params.values())
    extra = resident("VmHWM") - before - held

    drawn = {p: x for p, x in template.items() if p not in params}
    params |= jax.jit(lambda: {p: v.astype(drawn[p].dtype) for p, v in state.create(
        model, 0).items() if p in drawn})()
    sizes = shapes.Sizes(turns=2, frames=int(100 * seconds), state=60, text=20,
                         vocabulary=values["decoder"]["vocab_size"])
    tree, turns = dialogue(sizes, model, np.random.default_rng(0))
    one = batch(tree, [Utterance(audio=t.audio) for t in turns], model)
    step = make_step(graph, stage, {"speech": "speech", "text": "text"}, donate_argnums=0)
    current = state.start(params, stage.trainable, optimizer.make(stage.optimizer, stage.steps), 0)
    current = jax.device_put(current, jax.devices()[0])
    del params
    reset()
    losses, took = [], []
    for _ in range(2):  # the first compiles
        began = time.perf_counter()
        current, values = step(current, {"speech": one, "text": one})
        losses.append(float(values["loss"]))
        took.append(time.perf_counter() - began)
    assert np.isfinite(losses).all(), losses
    return {"preset": preset, "parameters": sum(int(np.prod(x.shape)) for x in all_shapes.values()),
            "trainable": sum(x.size for x in current.trainable.values()),
            "load_seconds": loading, "held_gib": held / GIB, "largest_shard_gib": largest / GIB,
            "load_extra_shards": extra / largest, "step_seconds": took[-1],
            "step_peak_gib": resident("VmHWM") / GIB, "positions": one.tokens.shape[1],
            "losses": losses}


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(_PRESET.value, Path(_FOLDER.value or scratch), _SECONDS.value,
                         _QUICK.value)
    for name, value in result.items():
        print(f"{name:20} {value:,.3f}" if isinstance(value, float) else f"{name:20} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    _PRESET = flags.DEFINE_string("preset", "olmo_1b", "A published preset of the recipe.")
    _FOLDER = flags.DEFINE_string("folder", "", "Keeps the checkpoints there.")
    _SECONDS = flags.DEFINE_float("seconds", 4.0, "Length of each of the two spoken turns.")
    _QUICK = flags.DEFINE_boolean("quick", False, "Everything at the size of the test.")
    run(main)
