"""What a training step saves if the frozen speech encoder's output was stored before.

    python -m benchmarks.cached_features                     # about two minutes on two cores
    python -m benchmarks.cached_features --width=512 --turns=9
    python -m benchmarks.cached_features --quick             # seconds, the size of the test

Seconds of one optimizer step of the joint-DST recipe over a SpokenWOZ-shaped dialogue (user turns
of 4.4 s, text history), from waveforms through a WavLM in large's shape, and from what
`python -m speechdst.prepare --features` would have stored of them. The encoder is frozen either
way; connector and LoRA train. Both arms are first shown to have the same loss, up to the rounding
of what is stored.

The last line is one JSON object; `ratio` is seconds without the cache over seconds with it.
"""

import json
import statistics
import time

import jax
import numpy as np
from absl import flags

from benchmarks import shapes, step_time
from speechdst import memory
from speechdst.command import run
from speechdst.config import model_config
from speechdst.data import speech
from speechdst.data.batch import Batch, stack
from speechdst.data.dialogue import SAMPLE_RATE, Turn
from speechdst.data.tree import (
    Branch,
    DialogueTree,
    RowShape,
    Soft,
    Table,
    Tokens,
    Utterance,
    length,
    pack,
)
from speechdst.encode import SpeechEncoder
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.steps.joint_dst import make_step
from speechdst.training import optimizer, state

TRAINABLE = (r"^connector", r"lora")
BLOCK = 64


def model(width: int, layers: int, vocabulary: int) -> DialogueLMConfig:
    """A decoder of `width` over a WavLM of 3/4 of it: one encoder layer for three of the decoder's,
    which is about the share of parameters of WavLM-large and a decoder of 1B."""
    ears = width * 3 // 4
    decoder = shapes.decoder(width, layers)
    decoder["transformer"] |= dict(lora_rank=8, lora_alpha=8.0)
    connector = dict(width=ears, layers=1, heads=4)
    return model_config(dict(
        encoder=dict(kind="wavlm", width=ears, layers=max(1, layers // 3), heads=ears // 24,
                     mlp_width=4 * ears, conv_channels=[ears // 2] * 7, conv_norm="layer",
                     pre_norm=True, normalize=True, position_groups=8),
        connector=dict(transformer=connector, inputs=ears, outputs=width, strides=[3, 2], taps=7),
        text_encoder=dict(transformer=connector, vocabulary=0, outputs=ears),
        decoder=decoder), vocabulary)


def dialogue(sizes: shapes.Sizes, config: DialogueLMConfig, rng: np.random.Generator):
    """A dialogue as the recipe lays one out: (tree without utterances, its user turns)."""
    words = lambda n, loss=False: Tokens(rng.integers(3, sizes.vocabulary, n).tolist(), loss)
    samples = sizes.frames * SAMPLE_RATE // 100
    soft = config.soft_length("waveform", samples)
    trunk, branches = [words(1)], []
    for i in range(sizes.turns):
        branches.append(Branch(len(trunk), (
            Soft(i, soft), words(1), words(sizes.state, loss=True))))
        trunk += [words(sizes.text), words(sizes.text)]
    turns = [Turn("user", "", audio=speech.encode(0.1 * rng.standard_normal(samples)))
             for _ in range(sizes.turns)]
    return DialogueTree(tuple(trunk[: branches[-1].after]), tuple(branches)), turns


def batch(tree: DialogueTree, utterances: list[Utterance], config: DialogueLMConfig) -> Batch:
    """One row of the tree over these utterances."""
    kind, size = utterances[0].kind, max(u.size for u in utterances)
    table = Table(kind, len(utterances), size, config.soft_length(kind, size))
    tree = DialogueTree(tree.trunk, tree.branches, tuple(utterances))
    shape = RowShape(shapes.up(length(tree), BLOCK), (table,), BLOCK, config.encoder.width)
    return jax.device_put(stack([pack([tree], shape)]))


def measure(width: int, layers: int, sizes: shapes.Sizes, repeats: int, say=print,
            compiler_options: dict | None = None) -> dict:
    """Returns {"ratio", "seconds": {arm: [per step]}, "encoding_seconds", "audio_seconds",
    "loss": {arm: of the first step}, "positions"}.

    Raises:
      AssertionError: the arms do not have the same loss.
    """
    config = model(width, layers, sizes.vocabulary)
    rng = np.random.default_rng(0)
    tree, turns = dialogue(sizes, config, rng)
    params = jax.jit(lambda: state.create(config, 0), compiler_options=compiler_options)()
    encoder = SpeechEncoder(config, params)
    stored = dict(encoder(turns))  # compiles
    began = time.perf_counter()
    stored = dict(encoder(turns))
    encoding = time.perf_counter() - began
    batches = {
        "audio": batch(tree, [Utterance(audio=t.audio) for t in turns], config),
        "cached": batch(tree, [Utterance(encoded=stored[i]) for i in range(len(turns))], config)}
    graph, tx = state.abstract(config)[0], optimizer.make(step_time.STAGE.optimizer, 1000)
    step = make_step(graph, step_time.STAGE, step_time.TERMS, compiler_options=compiler_options)
    begin = state.start(params, TRAINABLE, tx, 0)
    losses = {name: float(step(begin, {"dialogues": b})[1]["loss"])  # compiles
              for name, b in batches.items()}
    if abs(losses["cached"] - losses["audio"]) > 1e-2 * losses["audio"]:
        raise AssertionError(f"the arms have the losses {losses}")
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(repeats):  # in turns, so that a busy machine hits both alike
        for name, b in batches.items():
            began = time.perf_counter()
            jax.block_until_ready(step(begin, {"dialogues": b}))
            seconds[name].append(time.perf_counter() - began)
        say("  ".join(f"{name} {s[-1]:.2f} s" for name, s in seconds.items()))
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    return {"ratio": middle["audio"] / middle["cached"], "seconds": seconds,
            "encoding_seconds": encoding, "audio_seconds": sum(t.audio.seconds for t in turns),
            "loss": losses, "positions": batches["audio"].tokens.shape[1]}


QUICK = 32, 3, shapes.Sizes(turns=2, frames=60, state=8, text=4, vocabulary=64)


def main(argv):
    del argv
    memory.start_devices()
    sizes = shapes.Sizes(turns=_TURNS.value)
    chosen = QUICK if _QUICK.value else (_WIDTH.value, _LAYERS.value, sizes)
    result = measure(*chosen, repeats=_REPEATS.value)
    print(f"{result['ratio']:.2f} times as fast a step with cached features "
          f"({result['audio_seconds']:.0f} s of speech, {result['positions']} positions; they are "
          f"encoded once in {result['encoding_seconds']:.1f} s)")
    print(json.dumps(result))


if __name__ == "__main__":
    _WIDTH = flags.DEFINE_integer("width", 256, "Width of the decoder.")
    _LAYERS = flags.DEFINE_integer("layers", 6, "Layers of the decoder.")
    _TURNS = flags.DEFINE_integer("turns", 18, "User turns of the dialogue.")
    _REPEATS = flags.DEFINE_integer("repeats", 3, "Measured steps of either arm, in turns.")
    _QUICK = flags.DEFINE_boolean("quick", False, "Everything at the size of the test.")
    run(main)
