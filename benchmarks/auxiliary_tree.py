"""What a tree of the three auxiliary tasks saves against three examples that each encode the audio.

    python -m benchmarks.auxiliary_tree               # some minutes on two cores
    python -m benchmarks.auxiliary_tree --width=512 --story
    python -m benchmarks.auxiliary_tree --quick       # seconds, the size of the test

Seconds of one optimizer step of the auxiliary recipe, speech encoder included, over a conversation
the size of those of ASK-QA (arXiv 2412.15995: 102 s of speech on average): once as one tree, and
once as an example for each task, in rows bucketed by length, in whichever of two attentions is the
faster. Both arms are first shown to give the same losses and gradients. The listening task writes
down the last request; with --story also, in a second conversation, the whole story.

The last line is one JSON object; `ratio` is that of the first conversation.
"""

import dataclasses
import functools
import json
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks import shapes, step_time
from speechdst import memory
from speechdst.command import run
from speechdst.data.auxiliary_trees import TASKS
from speechdst.data.tree import Branch, DialogueTree, Soft, Tokens, Utterance, length
from speechdst.models import attention
from speechdst.steps.auxiliary import make_step
from speechdst.training import optimizer, state

STAGE = step_time.stage({task: 1.0 for task in TASKS})


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A conversation: sentences and turns, frames of 10 ms of each, tokens of an instruction, of
    the story, of a request, of a rationale and of a reply; `vocabulary` of the model. The words of
    Abg-CoQA's validation split, spoken at 150 a minute, and rounded."""

    sentences: int = 18
    turns: int = 4
    frames: int = 460
    instruction: int = 20
    story: int = 350
    request: int = 10
    rationale: int = 50
    reply: int = 10
    vocabulary: int = 4096


BUCKET = 128  # positions: rows are padded to a multiple of it
QUICK = Sizes(sentences=2, turns=1, frames=64, instruction=4, story=16, request=4, rationale=8,
              reply=4, vocabulary=64)


def conversation(sizes: Sizes, config, listening: int, rng: np.random.Generator) -> DialogueTree:
    """A tree as `auxiliary_trees.TaskTreeBuilder` lays one out, of random content; `listening`:
    tokens of what is to be written down."""
    words = lambda n, loss=False: Tokens(rng.integers(3, sizes.vocabulary, n).tolist(), loss)
    trunk, utterances = [], []
    soft = config.soft_length("speech", sizes.frames)
    for _ in range(sizes.sentences + sizes.turns):
        utterances.append(Utterance(
            rng.standard_normal((sizes.frames, shapes.CHANNELS)).astype(np.float32)))
        trunk += [words(1), Soft(len(utterances) - 1, soft), words(1)]
    answers = (listening, sizes.rationale, sizes.reply)
    return DialogueTree(tuple(trunk), tuple(
        Branch(len(trunk), (words(sizes.instruction), words(n, loss=True)), task)
        for task, n in enumerate(answers)), tuple(utterances))


class Arm:
    """The recipe's train step over some trees, one a row, in batches of rows of one length."""

    def __init__(self, config, params, trees, block, attend=attention.attend, options=None):
        self.attend = attend
        buckets: dict[int, list[DialogueTree]] = {}
        for tree in trees:
            buckets.setdefault(shapes.up(length(tree), BUCKET), []).append(tree)
        self.batches = jax.device_put({
            str(size): shapes.rows(of, size, block, config) for size, of in buckets.items()})
        self.positions = sum(map(length, trees))
        own = jax.tree.map(jnp.copy, params)  # each arm gives its state away with each step
        self.state = state.start(own, STAGE.trainable,
                                 optimizer.make(STAGE.optimizer, STAGE.steps), 0)
        self.call = make_step(state.abstract(config)[0], STAGE,
                              dict.fromkeys(self.batches, "tasks"), donate_argnums=0,
                              compiler_options=options or {})

    def step(self) -> dict[str, float]:
        with mock.patch.object(attention, "attend", self.attend):
            self.state, values = self.call(self.state, self.batches)
        jax.block_until_ready(self.state)
        return {task: float(values[task]) for task in TASKS}


def measure(width: int, layers: int, sizes: Sizes, listening: int, *, repeats: int,
            block: int = 64, options: dict | None = None, say=print) -> dict:
    """Returns "ratio", "seconds" {arm: [per step]}, "positions", "loss_error", "gradient_error".

    Raises:
      AssertionError: the arms differ by more than 1e-5 of a loss, or 1e-4 of a parameter's
        largest gradient.
    """
    config = dataclasses.replace(
        shapes.model(width, layers, shapes.Sizes(vocabulary=sizes.vocabulary)), text_encoder=None)
    tree = conversation(sizes, config, listening, np.random.default_rng(0))
    params = jax.jit(functools.partial(state.create, config, 0),
                     compiler_options=options or {})()
    separate = [dataclasses.replace(tree, branches=(b,)) for b in tree.branches]
    make = functools.partial(Arm, config, params, block=block, options=options)
    arms = {"tree": make([tree]), "separate": make(separate),
            "separate, causal": make(separate, attend=step_time.causal)}
    say(f"listening to {listening} tokens: compiling")
    losses, gradients = {}, {}
    for name, arm in arms.items():
        losses[name] = arm.step()
        gradients[name] = jax.device_get(optax.tree_utils.tree_get(arm.state.optimizer, "mu"))
    others = [name for name in arms if name != "tree"]
    loss = max(abs(losses[n][t] / losses["tree"][t] - 1) for n in others for t in TASKS)
    gradient = max(step_time.differ(gradients[n], gradients["tree"]) for n in others)
    if loss > 1e-5 or gradient > 1e-4:
        raise AssertionError(f"tree and separate examples differ: losses by {loss:.1e}, gradients "
                             f"by {gradient:.1e}; the times would compare different things")
    seconds = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm.step()
            seconds[name].append(time.perf_counter() - began)
    median = {name: float(np.median(s)) for name, s in seconds.items()}
    return {"ratio": min(median[n] for n in others) / median["tree"], "seconds": seconds,
            "positions": {name: arm.positions for name, arm in arms.items()},
            "loss_error": loss, "gradient_error": gradient}


def main(argv):
    del argv
    memory.start_devices()
    console, sizes = Console(), QUICK if _QUICK.value else Sizes()
    size = (32, 1) if _QUICK.value else (_WIDTH.value, _LAYERS.value)
    options = step_time.quick_options() if _QUICK.value else None
    say = lambda line: console.print(line, highlight=False)
    made = {name: measure(*size, sizes, tokens, repeats=_REPEATS.value, options=options, say=say)
            for name, tokens in (("request", sizes.request), ("story", sizes.story))
            if name == "request" or _STORY.value}
    table = Table(title=f"one optimizer step, speech encoder included, width {size[0]}",
                  title_justify="left")
    for column in ("listening writes down", "arm", "positions", "s/step", "tree faster by"):
        table.add_column(column, justify="left" if column[0] in "la" else "right")
    for name, result in made.items():
        for arm, seconds in result["seconds"].items():
            ratio = np.median(seconds) / np.median(result["seconds"]["tree"])
            table.add_row(f"the {name}", arm, str(result["positions"][arm]),
                          f"{np.median(seconds):.2f}", "" if arm == "tree" else f"{ratio:.2f}")
    console.print(table)
    print(json.dumps({"ratio": made["request"]["ratio"], "width": size[0], "layers": size[1],
                      "device": jax.default_backend(), **made}))


if __name__ == "__main__":
    _WIDTH = flags.DEFINE_integer("width", 256, "Width of the decoder.")
    _LAYERS = flags.DEFINE_integer("layers", 6, "Layers of the decoder.")
    _REPEATS = flags.DEFINE_integer("repeats", 5, "Measured steps of every arm, in turns.")
    _STORY = flags.DEFINE_boolean("story", False, "Also listen to the whole story.")
    _QUICK = flags.DEFINE_boolean("quick", False, "At the size of the test.")
    run(main)
