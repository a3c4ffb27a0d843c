"""Step time, tokens/s, audio/s and MFU of a published recipe on this machine's accelerators.

    python -m benchmarks.gpu_step                         # WavLM-large and OLMo-1B
    python -m benchmarks.gpu_step --preset=gemma3_1b --rows=16 --steps=50
    python -m benchmarks.gpu_step --quick                 # anywhere: seconds, the size of the test

Drawn weights; simulated dialogues of SpokenWOZ's length whose user turns are 4.4 s of noise, read
by the loaders that training uses and decoded from FLAC while the step runs. Three ways to train:
"recipe", as the preset says (LoRA, connector and text encoder); "full", every weight of the
decoder, connector and text encoder; "decoder", the decoder alone, every weight, on text: what the
other two are made of without encoder and audio.

MFU: model FLOPs (`speechdst/flops.py`, padding and recomputation count nothing) over seconds and
the chips' data-sheet peak in bfloat16. `input_wait` is the share of the time that the loop spent
waiting for a batch and handing it to the devices; they are busy meanwhile as long as it is small.
`attention` of the last line tells which path the attention took. That line is one JSON object.
"""

import dataclasses
import json
import time

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks import equal_time, full_size
from configs import joint_dst, published
from speechdst import sharding
from speechdst.command import run
from speechdst.config import context_of, model_config
from speechdst.data import loader, speech
from speechdst.data.contexts import FRAMES_PER_SECOND, Hearing, TreeBuilder
from speechdst.data.dialogue import SAMPLE_RATE, BadInput, Dialogue
from speechdst.flops import CHIPS, chip_of, step_flops
from speechdst.recipes import recipe_of
from speechdst.training import optimizer, state

WEIGHTS = (r"^connector", r"^text_encoder", r"^decoder/(?!.*lora)")
QUICK_WAVLM = full_size.QUICK_WAVLM
QUICK_LLM = full_size.QUICK_LLM | dict(vocab_size=640)
QUICK = dict(rows=1, positions=512, steps=2, dialogues=4, turns=2, seconds=0.5)


def spoken(count: int, turns: int, seconds: float) -> list[Dialogue]:
    """Simulated dialogues of `turns` user turns, their speech noise."""
    made, rng = equal_time.simulate(count, 1, (turns, turns))[0], np.random.default_rng(0)
    noise = [speech.encode(0.1 * rng.standard_normal(int(seconds * SAMPLE_RATE)))
             for _ in range(8)]
    heard = lambda i, turn: turn if turn.speaker != "user" else dataclasses.replace(
        turn, audio=noise[i % len(noise)])
    return [dataclasses.replace(d, turns=tuple(heard(i, t) for i, t in enumerate(d.turns)))
            for d in made]


def stages_of(c: ConfigDict, rows: int, positions: int) -> dict[str, ConfigDict]:
    """Name -> stage; see the module's text."""
    made = {}
    for name in ("recipe", "full", "decoder"):
        stage = made[name] = ConfigDict(c.stages.joint.to_dict())
        for batch in stage.batches.values():
            batch.update(rows=rows, positions=positions)
            batch.context.update(kind="text_history", min_seconds=0.0, min_tokens=0)
        if name != "recipe":
            stage.trainable = WEIGHTS
        if name == "decoder":
            stage.trainable, stage.weights = WEIGHTS[-1:], ConfigDict(dict(text=1.0))
            text = stage.batches.text
            text.context.path = "tokens"
            stage.batches = ConfigDict(dict(text=text))
    return made


def measure(c: ConfigDict, stage: ConfigDict, dialogues, tokenizer, vocabulary: int,
            steps: int, compiler_options: dict | None = None) -> dict:
    """Seconds of a step (median) and what came of it, see the module's text; on all devices."""
    model, recipe = model_config(c.model, vocabulary), recipe_of(c)
    loaders = {name: loader.make(
        [loader.Source(dialogues)],
        TreeBuilder(context_of(b.context), tokenizer, model.soft_length,
                    Hearing.of(model.encoder)),
        positions=b.positions, rows=b.rows, seed=0, block=b.block, buckets=b.buckets,
        threads=16)
        for name, b in stage.batches.items()}
    mesh = sharding.make_mesh(**c.mesh)
    graph, shapes = state.abstract(model)
    dtypes = state.stored(shapes, stage.trainable, model.dtype)
    tx = optimizer.make(stage.optimizer, stage.steps)

    def begin():
        drawn = {path: x.astype(dtypes[path]) for path, x in state.create(model, 0).items()}
        return state.start(drawn, stage.trainable, tx, 0)

    shardings = state.shardings(jax.eval_shape(begin), mesh)
    step = recipe.make_step(graph, stage, donate_argnums=0, out_shardings=(shardings, None),
                            compiler_options=compiler_options)
    iterators = {name: iter(value) for name, value in loaders.items()}
    waits, ends, seen, work = [], [], [], []
    with jax.set_mesh(mesh):
        current = jax.jit(begin, out_shardings=shardings, compiler_options=compiler_options)()
        before = None
        for _ in range(steps + 2):  # the first compiles, the second may wait for full buffers
            began = time.perf_counter()
            host = {name: next(it) for name, it in iterators.items()}
            device = sharding.put(host, mesh)
            waits.append(time.perf_counter() - began)
            current, values = step(current, device)
            if before is not None:  # as in training, one step is under way while the next is read
                jax.block_until_ready(before)
            before = values["loss"]
            ends.append(time.perf_counter())
            seen.append([loader.count(b) for b in host.values()])
            work.append(step_flops(model, stage, host))
        losses = float(jax.block_until_ready(before))
    if not np.isfinite(losses):
        raise AssertionError(f"the loss is {losses}")
    seconds = (ends[-1] - ends[1]) / steps
    of = lambda key: sum(n[key] for counts in seen[2:] for n in counts) / (steps * seconds)
    chip = chip_of(jax.devices()[0].device_kind)
    flops = {tower: float(np.mean([w.get(tower, 0.0) for w in work[2:]]))
             for tower in sorted(set().union(*work))}
    peak = CHIPS[chip].flops * jax.device_count() if chip else None
    return {"step_seconds": seconds, "steps": steps, "positions/s": of("positions"),
            "answers/s": of("answers"), "audio_h/s": of("frames") / FRAMES_PER_SECOND / 3600,
            "flops": flops, "mfu": sum(flops.values()) / seconds / peak if peak else None,
            "input_wait": sum(waits[2:]) / (ends[-1] - ends[1]), "loss": losses}


def check_device(quick: bool) -> None:
    if jax.default_backend() == "cpu" and not quick:
        raise BadInput(f"this step is too large for the only device here "
                       f"({jax.devices()[0].device_kind})", field="device",
                       mend="run it on a machine with a GPU or TPU (JAX with CUDA: pip install "
                       "'speechdst[gpu]'), or give --quick to try the command")


def main(argv):
    del argv
    check_device(_QUICK.value)
    kind = jax.devices()[0].device_kind
    c = joint_dst.get_config(_PRESET.value)
    sizes = dict(rows=_ROWS.value, positions=_POSITIONS.value, steps=_STEPS.value,
                 dialogues=256, turns=18, seconds=4.4)
    if _QUICK.value:
        published.shrink(c, QUICK_WAVLM, QUICK_LLM)
        sizes = QUICK
    dialogues = spoken(sizes["dialogues"], sizes["turns"], sizes["seconds"])
    tokenizer = equal_time.tokenizer_for(dialogues)
    result = {"preset": _PRESET.value, "device": kind, "devices": jax.device_count(),
              "rows": sizes["rows"], "positions": sizes["positions"],
              "attention": c.model.attention or "the platform's best"}
    table = Table(title=f"{_PRESET.value} on {jax.device_count()} x {kind}")
    columns = {"step_seconds": "s/step", "positions/s": "positions/s", "audio_h/s": "audio h/s",
               "mfu": "MFU", "input_wait": "input wait"}
    for column in ("", *columns.values()):
        table.add_column(column, justify="right")
    for name, stage in stages_of(c, sizes["rows"], sizes["positions"]).items():
        print(f"{name}: compiling")
        r = result[name] = measure(c, stage, dialogues, tokenizer, c.model.decoder.vocabulary,
                                   sizes["steps"])
        table.add_row(name, *("-" if r[key] is None else f"{r[key]:.1%}" if key in (
            "mfu", "input_wait") else f"{r[key]:,.4g}" for key in columns))
    Console().print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    _PRESET = flags.DEFINE_string("preset", "olmo_1b", "A published preset of the recipe.")
    _ROWS = flags.DEFINE_integer("rows", 8, "Rows of a batch.")
    _POSITIONS = flags.DEFINE_integer("positions", 4096, "Positions of a row.")
    _STEPS = flags.DEFINE_integer("steps", 20, "Measured steps.")
    _QUICK = flags.DEFINE_boolean("quick", False, "Everything at the size of the test.")
    run(main)
