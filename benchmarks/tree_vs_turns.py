"""What training on dialogue trees saves against training on their answers one by one.

    python -m benchmarks.tree_vs_turns                       # a quarter of an hour on two cores
    python -m benchmarks.tree_vs_turns --width=512 --seconds=0
    python -m benchmarks.tree_vs_turns --quick               # seconds, the size of the test
    python -m benchmarks.tree_vs_turns --run=runs/demo       # part 2 goes on from a trained run
    python -m benchmarks.tree_vs_turns --turns=12,18         # part 2 on dialogues of that length

Part 1: seconds of one optimizer step of the joint-DST recipe, audio encoder included, over a
SpokenWOZ-shaped dialogue as one tree and as length-bucketed single turns, which are first shown to
give the same loss and gradients. The single turns encode audio per answer, and, in a second
variant, each utterance once per bucket. Beside the measured ratio stands that of the model's FLOPs,
without padding.

Part 2: joint goal accuracy on held-out dialogues after the same step time on trees and on shuffled
single turns, both packed into rows of one size (simulated dialogues, given as text).

Memory is kept from step to step, as `train` does (`speechdst/memory.py`), in both arms alike.

The last line is one JSON object with all figures.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks import equal_time, shapes, step_time
from speechdst import memory
from speechdst.command import run
from speechdst.flops import step_flops

HEAD_DIM = 64  # as Llama-3.2-1B's; those of OLMo-1B are 128, of Gemma-3-1B 256
QUICK_SIZE = 32, 2, 32, 128  # width, layers, attention block, width of a bucket
QUICK_DIALOGUE = shapes.Sizes(turns=3, frames=64, state=12, text=6, vocabulary=64)


def measure(
    width: int,
    layers: int,
    sizes: shapes.Sizes,
    *,
    repeats: int,
    bucket: int = 128,
    block: int = 64,
    quick: bool = False,
    kinds: Sequence[str] = shapes.CONTEXTS,
    say=print,
) -> dict:
    """Part 1, for the contexts `kinds`; `quick`: programs that compile soon and run slowly.

    Returns: context -> {"seconds": {arm: [per step]}, "ratio", "ratio_shared_audio" (only
      spoken_history: of text histories every utterance is heard by one answer),
      "flops_ratio", "flops_ratio_shared_audio", "loss_error", "gradient_error", ...}.
    """
    config = shapes.model(width, layers, sizes, HEAD_DIM)
    trainer = step_time.Trainer(config, step_time.quick_options() if quick else {})
    made = {}
    for kind in kinds:
        tree = shapes.dialogue(kind, sizes, config, np.random.default_rng(0))
        turns = shapes.alone(tree)
        say(f"{kind}: compiling")
        arms = {"tree": step_time.tree_arm(trainer, tree, block)}
        buckets = shapes.buckets(turns, bucket)
        if quick:
            name = "blockwise" if kind == "spoken_history" else "causal"
            names = [name] * len(buckets)
        else:
            names = step_time.fastest_attention(trainer, buckets, block)
        arms["turns"] = step_time.turns_arm(trainer, buckets, names, block, share=False)
        if kind == "spoken_history":
            arms["turns_shared_audio"] = step_time.turns_arm(
                trainer, buckets, names, block, share=True
            )
        loss, gradient = _errors(arms)
        seconds = step_time.interleaved(arms, repeats)
        median = {name: float(np.median(s)) for name, s in seconds.items()}
        work = {
            name: sum(
                sum(step_flops(config, step_time.STAGE, {"": jax.device_get(b.batch)}).values())
                for b in arm.buckets
            )
            for name, arm in arms.items()
        }
        of = lambda values, name: values[name] / values["tree"]
        made[kind] = {
            "ratio": of(median, "turns"),
            "flops_ratio": of(work, "turns"),
            "seconds": seconds,
            "gflop": {name: w / 1e9 for name, w in work.items()},
            "positions": {"tree": shapes.length(tree), "turns": sum(map(shapes.length, turns))},
            "utterances": {name: arm.utterances for name, arm in arms.items()},
            "attention": {name: [b.name for b in arm.buckets] for name, arm in arms.items()},
            "loss_error": loss,
            "gradient_error": gradient,
        }
        if "turns_shared_audio" in arms:
            made[kind] |= {
                "ratio_shared_audio": of(median, "turns_shared_audio"),
                "flops_ratio_shared_audio": of(work, "turns_shared_audio"),
            }
    return made


def _errors(arms) -> tuple[float, float]:
    """The largest relative error of loss and gradients between the tree and the other arms, in the
    first step of each (which also compiles what is left to compile).

    Raises:
      AssertionError: more than 1e-4 of the loss, or 1e-3 of a parameter's largest gradient.
    """
    expected = step_time.first_step(arms["tree"])
    found = [step_time.first_step(arm) for name, arm in arms.items() if name != "tree"]
    loss = max(abs(f[0] / expected[0] - 1) for f in found)
    gradient = max(step_time.differ(f[1], expected[1]) for f in found)
    if loss > 1e-4 or gradient > 1e-3:
        raise AssertionError(
            f"tree and single turns differ: loss by {loss:.1e}, gradients by "
            f"{gradient:.1e}; the times would compare different things"
        )
    return loss, gradient


def show(console: Console, result: dict) -> None:
    table = Table(
        title=f"one optimizer step, audio encoder included, width {result['width']}",
        title_justify="left",
    )
    for column in ("context", "audio of", "positions", "s/step", "tree faster by", "by FLOPs"):
        left = column in ("context", "audio of")
        table.add_column(column, justify="left" if left else "right", no_wrap=left)
    for kind in shapes.CONTEXTS:
        r = result[kind]
        for name, seconds in r["seconds"].items():
            suffix = name.removeprefix("turns")
            shown = name == "tree"
            table.add_row(
                kind + (", tree" if shown else ", turns"),
                f"{r['utterances'][name]} turns",
                str(r["positions"]["tree" if shown else "turns"]),
                f"{np.median(seconds):.2f}",
                "" if shown else f"{r['ratio' + suffix]:.2f}",
                "" if shown else f"{r['flops_ratio' + suffix]:.2f}",
            )
    console.print(table)
    if "jga" in result:
        equal_time.show(console, result["jga"])


def benchmark(
    *,
    width: int = 256,
    layers: int = 6,
    repeats: int = 5,
    block: int = 64,
    seconds: float = 240.0,
    from_run: str = "",
    turns: tuple[int, int] = (4, 8),
    dialogues: int = 3000,
    quick: bool = False,
    say=print,
) -> dict:
    """Both parts; see the module's text and `measure`, `equal_time.compare`."""
    sizes, held_out, bucket = shapes.Sizes(), 60, 128
    if quick:
        width, layers, block, bucket = QUICK_SIZE
        sizes = QUICK_DIALOGUE
        seconds, dialogues, held_out = min(seconds, 0.5), 8, 2
    result = {
        "width": width,
        "layers": layers,
        "device": jax.default_backend(),
        **measure(
            width,
            layers,
            sizes,
            repeats=repeats,
            bucket=bucket,
            block=block,
            quick=quick,
            say=say,
        ),
    }
    if seconds:
        if from_run:
            setup = equal_time.trained(Path(from_run), dialogues, held_out, turns)
        else:
            setup = equal_time.fresh(*((16, 1) if quick else (128, 4)), dialogues, held_out, turns)
        if quick:
            setup = dataclasses.replace(setup, compiler_options=step_time.quick_options())
        result["jga"] = equal_time.compare(setup, seconds, say)
    return result


def main(argv):
    del argv
    memory.start_devices()
    console = Console()
    result = benchmark(
        width=_WIDTH.value,
        layers=_LAYERS.value,
        repeats=_REPEATS.value,
        block=_BLOCK.value,
        seconds=_SECONDS.value,
        from_run=_RUN.value,
        turns=tuple(map(int, _TURNS.value)),
        dialogues=_DIALOGUES.value,
        quick=_QUICK.value,
        say=lambda line: console.print(line, highlight=False),
    )
    show(console, result)
    print(json.dumps(result))


if __name__ == "__main__":
    _WIDTH = flags.DEFINE_integer("width", 256, "Part 1: width of the decoder.")
    _LAYERS = flags.DEFINE_integer("layers", 6, "Part 1: layers of the decoder.")
    _REPEATS = flags.DEFINE_integer("repeats", 5, "Part 1: measured steps of every arm, in turns.")
    _BLOCK = flags.DEFINE_integer("block", 64, "Part 1: positions of an attention block.")
    _SECONDS = flags.DEFINE_float("seconds", 240.0, "Part 2: step time of each arm; 0: no part 2.")
    _RUN = flags.DEFINE_string("run", "", "Part 2: start from this run; none: at random.")
    _TURNS = flags.DEFINE_list("turns", ["4", "8"], "Part 2: fewest and most user turns.")
    _DIALOGUES = flags.DEFINE_integer("dialogues", 3000, "Part 2: dialogues to train on.")
    _QUICK = flags.DEFINE_boolean("quick", False, "Everything at the size of the test.")
    run(main)
