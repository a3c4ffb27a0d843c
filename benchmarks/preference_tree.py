"""What a DPO-LN step saves if chosen and rejected reply share the conversation they answer.

    python -m benchmarks.preference_tree                     # minutes on two cores
    python -m benchmarks.preference_tree --width=512 --layers=8
    python -m benchmarks.preference_tree --quick             # seconds, the size of the test

Seconds of one optimizer step of the recipe over pairs of 60 s of conversation and 6 s of reply at
12.5 frames a second (arXiv 2506.21463), of text and eight codebooks of either speaker drawn at
random; the text alone is compared, as published. As trees of two branches and as two sequences
each, packed into rows by the same rule and through the same attention, which skips what is not
seen. Both arms are first shown to have the same loss and gradients.

The last line is one JSON object; `ratio` is seconds as two sequences over seconds as trees.
"""

import dataclasses
import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks import frame_time, shapes, step_time
from speechdst import memory
from speechdst.command import run
from speechdst.data.batch import Batch, stack
from speechdst.data.frames import FrameBranch, FrameTree, Streams, length, pack
from speechdst.objectives.preference import StreamPreference
from speechdst.steps.multistream import make_pair_step
from speechdst.training import optimizer, state

RATE = 12.5  # frames a second, of Moshi (arXiv 2410.00037)
VOCABULARY = 1024
STAGE = ConfigDict(dict(steps=1000, weights=dict(preference=1.0), optimizer=dict(
    lr=1e-4, warmup=50, decay="cosine", end_ratio=0.0, clip=1.0, weight_decay=0.0, b2=0.95,
    compensated=True)))
TRAINABLE = (r"^decoder/", r"^audio/")  # what the text alone has a gradient of


def pair(context: int, reply: int, streams: Streams, rng: np.random.Generator) -> FrameTree:
    """A conversation of `context` frames and two replies of `reply` frames, each with a reference
    as far as a trained model's might be."""
    drawn = lambda n: rng.integers(0, streams.initial, (n, len(streams.initial)), np.int32)
    return FrameTree(drawn(context), tuple(
        FrameBranch(context, drawn(reply), reference=-7.0 * reply) for _ in range(2)))


def alone(tree: FrameTree) -> list[FrameTree]:
    """Both replies, each behind the conversation once more."""
    return [FrameTree(tree.trunk, (branch,)) for branch in tree.branches]


def batch(rows: list[list[FrameTree]], streams: Streams, block: int) -> Batch:
    """One row for each list of trees."""
    positions = shapes.up(max(sum(map(length, trees)) for trees in rows), block)
    return jax.device_put(stack([pack(trees, streams, positions, block, 1) for trees in rows]))


@dataclasses.dataclass
class Arm:
    """A batch, and the state that its steps have moved; see `step_time.first_step`."""

    compiled: object
    batch: Batch
    state: state.TrainState

    def step(self) -> float:
        self.state, values = self.compiled(self.state, {"pairs": self.batch})
        jax.block_until_ready(self.state)
        return float(values["loss"])


def measure(width: int, layers: int, *, context: int = int(60 * RATE), reply: int = int(6 * RATE),
            pairs: int = 4, repeats: int = 5, block: int = 64, say=print,
            compiler_options: dict | None = None) -> dict:
    """Returns {"ratio", "seconds": {arm: [per step]}, "positions": {arm: of a pair, without
    padding}, "loss_error", "gradient_error", ...}.

    Raises:
      AssertionError: the arms do not train alike.
    """
    config = frame_time.config(width, layers, 64, 1, VOCABULARY)
    streams, rng = Streams(config.stream_delays, config.initial), np.random.default_rng(0)
    trees = [pair(context, reply, streams, rng) for _ in range(pairs)]
    laid = {"trees": [[tree] for tree in trees], "sequences": [alone(t) for t in trees]}
    graph, tx = state.abstract(config)[0], optimizer.make(STAGE.optimizer, STAGE.steps)
    params = jax.jit(lambda: state.create(config, 0), compiler_options=compiler_options)()
    step = make_pair_step(graph, STAGE, StreamPreference(), None, donate_argnums=0,
                          compiler_options=compiler_options)
    copy = lambda: jax.tree.map(jnp.copy, params)  # every arm gives its state away
    arms = {name: Arm(step, batch(rows, streams, block), state.start(copy(), TRAINABLE, tx, 0))
            for name, rows in laid.items()}
    first = {name: step_time.first_step(arm) for name, arm in arms.items()}  # compiles
    loss = abs(first["sequences"][0] / first["trees"][0] - 1)
    gradient = step_time.differ(first["sequences"][1], first["trees"][1])
    if loss > 1e-5 or gradient > 1e-3:
        raise AssertionError(f"trees and sequences differ: loss by {loss:.1e}, gradients by "
                             f"{gradient:.1e}; the times would compare different things")
    seconds = step_time.interleaved(arms, repeats)
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    for name, s in middle.items():
        say(f"{name:9} {s:.3f} s a step, {pairs / s:.2f} pairs a second")
    return {"ratio": middle["sequences"] / middle["trees"], "seconds": seconds,
            "positions": {name: sum(map(length, rows[0])) for name, rows in laid.items()},
            "loss_error": loss, "gradient_error": gradient, "width": width, "layers": layers,
            "pairs": pairs, "device": jax.default_backend()}


QUICK = dict(width=64, layers=1, context=48, reply=8, pairs=2, repeats=1, block=32)


def main(argv):
    del argv
    memory.start_devices()
    chosen = QUICK if _QUICK.value else dict(
        width=_WIDTH.value, layers=_LAYERS.value, repeats=_REPEATS.value, pairs=_PAIRS.value)
    result = measure(**chosen)
    print(f"{result['ratio']:.2f} times as fast a step on pairs as trees "
          f"({result['positions']['trees']} positions a pair, not "
          f"{result['positions']['sequences']})")
    print(json.dumps(result))


if __name__ == "__main__":
    _WIDTH = flags.DEFINE_integer("width", 256, "Width of the temporal Transformer.")
    _LAYERS = flags.DEFINE_integer("layers", 4, "Its layers.")
    _PAIRS = flags.DEFINE_integer("pairs", 4, "Pairs of a step.")
    _REPEATS = flags.DEFINE_integer("repeats", 5, "Measured steps of either arm, in turns.")
    _QUICK = flags.DEFINE_boolean("quick", False, "Everything at the size of the test.")
    run(main)
