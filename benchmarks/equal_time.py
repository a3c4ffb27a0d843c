"""Joint goal accuracy at equal training time: packed trees against shuffled, packed single turns.

Both arms train a stage of the joint-DST recipe on the same simulated dialogues: same (context,
answer) pairs, same initial parameters and optimizer. They differ in what a row holds: trees that
share a history among their answers, or one-branch trees that carry each its own, shuffled over the
whole corpus. `Written` is the text stage, with the recipe's second batch, the same for both arms,
of utterances to repeat; with speech in the context see `equal_time_spoken`.
"""

import abc
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks import step_time
from benchmarks.shapes import alone, decoder, up
from speechdst.config import model_config
from speechdst.data import plan
from speechdst.data.batch import Batch, stack
from speechdst.data.contexts import Context, TreeBuilder
from speechdst.data.corpora import simulated
from speechdst.data.dialogue import BadInput, Dialogue
from speechdst.data.loader import count
from speechdst.data.tokenizer import Tokenizer, target_symbols, train
from speechdst.data.tree import DialogueTree, RowShape, length, pack
from speechdst.decoding.parse import target
from speechdst.decoding.track import Tracker
from speechdst.evaluation.states import predictions
from speechdst.metrics import jga
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.steps.joint_dst import losses, make_step
from speechdst.training import optimizer, state
from speechdst.training.checkpoint import load_run

CONTEXT = Context("text_history", "tokens")
REPEAT = Context("asr", "tokens")
REPEATED = 512  # positions of the batch of utterances to repeat
# The demo's dialogues, but longer: a history is what trees share.
SIMULATED = dict(domains=("restaurant", "hotel"), domain_counts=(1.0,), same=0.0, repair=0.0,
                 proposal=0.15, confirm=0.1)  # fmt: skip
SLICE = 5.0  # seconds that an arm trains before it is the other's turn


@dataclasses.dataclass(frozen=True)
class Setup(abc.ABC):
    """What both arms share; a sort of training says how it makes batches of the dialogues."""

    config: DialogueLMConfig
    tokenizer: Tokenizer
    params: state.Params
    train: Sequence[Dialogue]
    test: Sequence[Dialogue]
    lr: float = 2e-3
    max_new: int = 160
    compiler_options: dict = dataclasses.field(default_factory=dict)

    context: ClassVar[Context]
    terms: ClassVar[dict[str, str]]  # of the train step: batch name -> loss name, the tracker first
    trainable: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def batches(self) -> dict[str, Iterator[dict[str, Batch]]]:
        """Endless batches for both arms."""

    @abc.abstractmethod
    def held_out(self) -> Iterator[Batch]:
        """The held-out dialogues once, as trees."""


@dataclasses.dataclass(frozen=True)
class Written(Setup):
    """Dialogues as text; `rows` x `positions` is a batch, of one compiled step for both arms."""

    rows: int = 2
    positions: int = 512

    context = CONTEXT
    terms: ClassVar = {"text": "text", "repeat": "text"}
    trainable = (r"^decoder/(?!.*lora)",)

    def trees(self, dialogues: Sequence[Dialogue], context=CONTEXT) -> list[DialogueTree]:
        builder = TreeBuilder(context, self.tokenizer, self.config.soft_length)
        return [t for d in dialogues for t in builder.trees(d)]

    def batches(self):
        trees = self.trees(self.train)
        return {"trees": self._batches(trees),
                "single_turns": self._batches([s for t in trees for s in alone(t)])}

    def held_out(self):
        trees = self.trees(self.test)
        shape = RowShape(up(max(map(length, trees)), 128), ())
        return (stack([pack([t], shape)]) for t in trees)

    def _batches(self, trees: Sequence[DialogueTree]) -> Iterator[dict[str, Batch]]:
        repeated = self.trees(self.train, REPEAT)
        texts = self._packed(trees, self.rows, self.positions)
        for text, repeat in zip(texts, self._packed(repeated, 1, REPEATED), strict=True):
            yield {"text": text, "repeat": repeat}

    def _packed(
        self, trees: Sequence[DialogueTree], rows: int, positions: int, seed: int = 0
    ) -> Iterator[Batch]:
        """Endless batches of rows packed anew, and shuffled, in every epoch."""
        shape = RowShape(positions, ())
        items = [plan.Item(i, 0, length(t), (), 0, len(t.branches)) for i, t in enumerate(trees)]
        rng = np.random.default_rng(seed)
        while True:
            made = plan.pack_rows(items, shape, rng.permutation(len(items)).tolist())
            made = [made[i] for i in rng.permutation(len(made))]
            for i in range(0, len(made) - rows + 1, rows):
                yield stack([pack([trees[j] for j in row], shape) for row in made[i : i + rows]])


def simulate(dialogues: int, held_out: int, turns: tuple[int, int]) -> tuple[list, list]:
    """Dialogues to train on and held-out ones, of `turns` user turns (fewest and most)."""
    return (
        list(simulated.read(split="train", dialogues=dialogues, turns=turns, **SIMULATED)),
        list(simulated.read(split="test", dialogues=held_out, turns=turns, **SIMULATED)),
    )


def tokenizer_for(dialogues: Sequence[Dialogue]) -> Tokenizer:
    """One of 640 pieces, trained on what they say and on their states."""
    texts = [f"{t.speaker.upper()}: {t.text}" for d in dialogues for t in d.turns]
    texts += [target(t.text, t.state) for d in dialogues for _, t in d.user_turns()]
    return Tokenizer(train(texts, target_symbols(simulated.schema()), 640))


def _roomy(setup: Written) -> Written:
    """With rows that hold the longest tree, so that nothing is left out, some 1024 positions a
    batch."""
    positions = up(max(map(length, setup.trees(setup.train))), 128)
    return dataclasses.replace(setup, positions=positions, rows=max(1, 1024 // positions))


def fresh(
    width: int, layers: int, dialogues: int, held_out: int, turns: tuple[int, int] = (4, 8)
) -> Written:
    """A small model drawn at random, a tokenizer and dialogues; nothing is read from disk."""
    train_set, test_set = simulate(dialogues, held_out, turns)
    tokenizer = tokenizer_for(train_set)
    # Only the decoder is used; the other towers are as small as they may be.
    small = dict(width=8, layers=1, heads=2)
    config = model_config(
        dict(
            encoder=dict(transformer=small),
            connector=dict(transformer=small, inputs=8, outputs=width),
            text_encoder=dict(transformer=small, vocabulary=0, outputs=8),
            decoder=decoder(width, layers),
        ),
        tokenizer.size,
    )
    params = jax.jit(functools.partial(state.create, config, 0))()
    return _roomy(Written(config, tokenizer, params, train_set, test_set))


def trained(run: Path, dialogues: int, held_out: int, turns: tuple[int, int] = (4, 8)) -> Written:
    """The model and tokenizer of a trained run, over freshly simulated dialogues, with a quarter of
    the learning rate."""
    tokenizer, config, params = load_run(config_of(run), run)
    return _roomy(
        Written(config, tokenizer, params, *simulate(dialogues, held_out, turns), lr=Setup.lr / 4)
    )


def config_of(run: Path) -> ConfigDict:
    try:
        return ConfigDict(json.loads((run / "config.json").read_text()))
    except FileNotFoundError:
        raise BadInput("no config.json there", file=run, mend="give a run's --workdir") from None


@dataclasses.dataclass
class Arm:
    """A training and what it has used: step time in seconds, steps, answers, losses."""

    state: state.TrainState
    step: Callable
    batches: Iterator[dict[str, Batch]]
    seconds: float = 0.0
    answers: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)

    def train(self, seconds: float) -> None:
        end = self.seconds + seconds
        while self.seconds < end:
            host = next(self.batches)
            batch = jax.device_put(host)
            began = time.perf_counter()
            self.state, values = jax.block_until_ready(self.step(self.state, batch))
            self.seconds += time.perf_counter() - began
            self.losses.append(float(values["loss"]))
            self.answers += count(next(iter(host.values())))["answers"]

    def compile(self) -> None:
        """The result of the step is dropped."""
        jax.block_until_ready(self.step(self.state, jax.device_put(next(self.batches))))


def _compiled(setup: Setup, steps: int):
    """(tx, the jitted train step) with a cosine schedule over `steps`."""
    weights = dict.fromkeys(setup.terms.values(), 1.0)
    stage = step_time.stage(weights, steps=steps, lr=setup.lr)
    step = make_step(state.abstract(setup.config)[0], stage, setup.terms,
                     compiler_options=setup.compiler_options)
    return optimizer.make(stage.optimizer, steps), step


def _arms(setup: Setup, steps: dict[str, int]) -> dict[str, Arm]:
    """Each with a schedule over so many steps; arms with the same share a compiled step."""
    compiled = {n: _compiled(setup, n) for n in set(steps.values())}
    made = {}
    for name, batches in setup.batches().items():
        tx, step = compiled[steps[name]]
        made[name] = Arm(state.start(setup.params, setup.trainable, tx, 0), step, batches)
    return made


def _held_out_loss(setup: Setup, params: state.Params) -> float:
    """Nats a token over the held-out trees."""
    graph, _ = state.abstract(setup.config)
    name, term = next(iter(setup.terms.items()))
    add = jax.jit(
        lambda params, batch: losses(
            state.model_of(graph, params), {name: batch}, {name: term}, jax.random.key(0)
        )[term]
    )
    sums = [add(params, jax.device_put(batch)) for batch in setup.held_out()]
    return float(sum(s for s, _ in sums) / sum(w for _, w in sums))


def compare(setup: Setup, seconds: float, say=print) -> dict:
    """Trains both arms for `seconds` of step time each and scores them on held-out dialogues.

    Returns: {"trees" | "single_turns": {"jga", "low", "high" (percent, 95 % interval over
      dialogues), "turns", "loss" (mean of the last steps), "held_out_loss" (nats a token), "steps",
      "answers", "seconds"}, "seconds"}.
    """
    # How many steps fit decides the schedule. Both arms step in turns, so that what else the
    # machine does hits both.
    probe = _arms(setup, dict.fromkeys(("trees", "single_turns"), 1000))
    for arm in probe.values():
        arm.compile()
    for _ in range(3):
        for arm in probe.values():
            arm.train(min(1.0, seconds / 10))
    pace = {name: a.seconds / len(a.losses) for name, a in probe.items()}
    steps = {name: max(2, round(seconds / s)) for name, s in pace.items()}
    for name in pace:
        say(f"{name}: {1000 * pace[name]:.0f} ms a step, {steps[name]} steps in {seconds:g} s")

    arms = _arms(setup, steps)
    for arm in arms.values():
        arm.compile()
    while any(arm.seconds < seconds for arm in arms.values()):
        for arm in arms.values():
            if arm.seconds < seconds:
                arm.train(min(SLICE, seconds - arm.seconds))
        say(
            "  ".join(
                f"{name} {arm.seconds:.0f} s, step {len(arm.losses)}, loss "
                f"{np.mean(arm.losses[-50:]):.3f}"
                for name, arm in arms.items()
            )
        )

    gold, result = jga.references(setup.test), {}
    for name, arm in arms.items():
        params = arm.state.trainable | arm.state.frozen
        # Histories are given, as in training: what is compared is how well a state is tracked.
        tracker = Tracker(
            params,
            setup.config,
            setup.tokenizer,
            setup.context,
            max_new=setup.max_new,
            rows=8,
            gold_history=True,
        )
        score = jga.score(gold, predictions(tracker, setup.test)).joint_goal_accuracy
        result[name] = {
            "jga": score.value,
            "low": score.low,
            "high": score.high,
            "turns": score.count,
            "loss": float(np.mean(arm.losses[-50:])),
            "held_out_loss": _held_out_loss(setup, params),
            "steps": len(arm.losses),
            "answers": arm.answers,
            "seconds": arm.seconds,
        }
    return result | {"seconds": seconds}


def show(console: Console, result: dict) -> None:
    """The table of a `compare`."""
    table = Table(
        title=f"after {result['seconds']:g} s of training steps", title_justify="left"
    )
    for column in ("rows of", "steps", "answers", "loss", "held-out loss", "JGA, % [95 %]"):
        table.add_column(column, justify="right" if column != "rows of" else "left")
    for name in ("trees", "single_turns"):
        r = result[name]
        table.add_row(
            name,
            str(r["steps"]),
            str(r["answers"]),
            f"{r['loss']:.3f}",
            f"{r['held_out_loss']:.3f}",
            f"{r['jga']:.1f} [{r['low']:.1f}, {r['high']:.1f}]",
        )
    console.print(table)
