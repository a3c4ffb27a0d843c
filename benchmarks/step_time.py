"""Seconds of one optimizer step over a dialogue: as one tree, and as length-bucketed single turns.

The single turns get what is fair: rows bucketed by length, no padded utterance slots, the fastest
of three attentions for every bucket, one gradient call a bucket, one optimizer update in all.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from benchmarks import shapes
from configs import joint_dst
from speechdst.data.batch import Batch
from speechdst.data.tree import DialogueTree, length
from speechdst.models import attention
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.steps.joint_dst import losses, make_step
from speechdst.training import optimizer, state

TERMS = {"dialogues": "loss"}


def stage(
    weights: dict, *, steps: int = 1000, lr: float = 1e-4, trainable: tuple[str, ...] = (r"",)
) -> ConfigDict:
    """A stage of a recipe's config, as far as its train step reads it; everything trains."""
    optimizer = joint_dst.optimizer(lr, 50)
    return ConfigDict(
        dict(steps=steps, trainable=trainable, weights=weights, optimizer=optimizer)
    )


STAGE = stage(dict(loss=1.0))


def quick_options() -> dict:
    """For programs that run for milliseconds and take seconds to compile."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    faster = options | {"xla_cpu_use_fusion_emitters": False}  # a quarter of the time
    try:
        jax.jit(lambda: 0, compiler_options=faster).lower().compile()
    except (RuntimeError, ValueError):  # an XLA that no longer has it
        return options
    return faster


def causal(q, k, v, batch, **_):
    """Plain causal attention: all that a row of one single turn needs."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One gradient call: its batch on the device, and the attention it is compiled with."""

    batch: Batch
    attend: Callable
    name: str


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The recipe's train step, and the same step taken apart into gradient calls and an update."""

    config: DialogueLMConfig
    compiler_options: dict = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def graph(self):
        return state.abstract(self.config)[0]

    @functools.cached_property
    def tx(self):
        return optimizer.make(STAGE.optimizer, STAGE.steps)

    def jit(self, function, **kwargs):
        return jax.jit(function, compiler_options=self.compiler_options, **kwargs)

    @functools.cached_property
    def params(self) -> state.Params:
        return self.jit(functools.partial(state.create, self.config, 0))()

    def start(self) -> state.TrainState:
        # A copy, since every arm gives its state away with each step.
        return state.start(jax.tree.map(jnp.copy, self.params), STAGE.trainable, self.tx, 0)

    @functools.cached_property
    def whole(self):
        """(state, batches) -> (state, metrics): `joint_dst_train_step` itself."""
        return make_step(
            self.graph, STAGE, TERMS, donate_argnums=0, compiler_options=self.compiler_options
        )

    @functools.cached_property
    def zero(self):
        """params -> (gradients, loss, weight), all zero."""
        return self.jit(
            lambda params: (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), jnp.zeros(()))
        )

    def gradient(self, bucket: Bucket):
        """Compiled (params, sums, batch) -> sums with the bucket's gradient, loss, weight added."""

        def objective(params, batch):
            pairs = losses(
                state.model_of(self.graph, params), {"dialogues": batch}, TERMS, jax.random.key(0)
            )
            return pairs["loss"]

        def add(params, sums, batch):
            (loss, weight), grads = jax.value_and_grad(objective, has_aux=True)(params, batch)
            return jax.tree.map(jnp.add, sums, (grads, loss, weight))

        with mock.patch.object(attention, "attend", bucket.attend):
            params = state.abstract(self.config)[1]
            return (
                self.jit(add, donate_argnums=1)
                .lower(params, jax.eval_shape(self.zero, params), bucket.batch)
                .compile()
            )

    @functools.cached_property
    def update(self):
        """(state, sums) -> (state, mean loss): what `joint_dst_train_step` does with gradients."""

        def update(old, sums):
            grads, loss, weight = sums
            grads = jax.tree.map(lambda g: g / weight, grads)
            updates, moments = self.tx.update(grads, old.optimizer, old.trainable)
            return dataclasses.replace(
                old,
                step=old.step + 1,
                optimizer=moments,
                trainable=optax.apply_updates(old.trainable, updates),
            ), loss / weight

        return self.jit(update, donate_argnums=0)


@dataclasses.dataclass
class TreeArm:
    """A dialogue as one tree a row: one call of the recipe's train step."""

    trainer: Trainer
    bucket: Bucket
    utterances: int

    def __post_init__(self):
        self.state = self.trainer.start()

    def step(self) -> float:
        self.state, values = self.trainer.whole(self.state, {"dialogues": self.bucket.batch})
        jax.block_until_ready(self.state)
        return float(values["loss"])

    @property
    def buckets(self) -> list[Bucket]:
        return [self.bucket]


@dataclasses.dataclass
class TurnsArm:
    """The same answers one by one: a gradient call a bucket, gradients added, one update."""

    trainer: Trainer
    buckets: list[Bucket]
    utterances: int

    def __post_init__(self):
        self.state = self.trainer.start()
        self.calls = [self.trainer.gradient(b) for b in self.buckets]

    def step(self) -> float:
        params = self.state.trainable
        sums = self.trainer.zero(params)
        for call, bucket in zip(self.calls, self.buckets, strict=True):
            sums = jax.block_until_ready(call(params, sums, bucket.batch))
        self.state, loss = self.trainer.update(self.state, sums)
        jax.block_until_ready(self.state)
        return float(loss)


def first_step(arm: TreeArm | TurnsArm) -> tuple[float, dict]:
    """Loss and gradients (clipped, scaled by 1 - b1) of an arm's first step, out of the very
    programs that are timed: Adam's first moment holds what it was given."""
    loss = arm.step()
    return loss, jax.device_get(optax.tree_utils.tree_get(arm.state.optimizer, "mu"))


def differ(found: dict, expected: dict) -> float:
    """The largest error of a gradient, relative to the largest entry of its own parameter.

    Where that is under a thousandth of the largest of all parameters, it is relative to that
    thousandth: some gradients (of key biases) are zero in exact arithmetic.
    """
    least = 1e-3 * max(float(np.abs(g).max()) for g in expected.values())
    return max(
        float(np.abs(found[p] - g).max() / max(np.abs(g).max(), least)) for p, g in expected.items()
    )


def fastest(candidates: Sequence[Bucket], config: DialogueLMConfig, repeats: int = 3) -> Bucket:
    """The candidate whose attention, forward and backward, is the fastest at its shape."""
    c = config.decoder.transformer

    def seconds(bucket: Bucket) -> float:
        rng = np.random.default_rng(0)
        qkv = [
            jnp.asarray(
                rng.standard_normal((*bucket.batch.tokens.shape, n, c.head_dim)), jnp.float32
            )
            for n in (c.heads, c.kv_heads, c.kv_heads)
        ]
        batch = dataclasses.replace(bucket.batch, tables=())
        call = jax.jit(jax.grad(lambda qkv, batch: (bucket.attend(*qkv, batch) ** 2).sum()))
        run = lambda: jax.block_until_ready(call(qkv, batch))
        run()  # compiles
        return min(_timed(run) for _ in range(repeats))

    return min(candidates, key=seconds)


def _timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def tree_arm(trainer: Trainer, tree: DialogueTree, block: int) -> TreeArm:
    batch = shapes.rows([tree], shapes.up(length(tree), block), block, trainer.config)
    return TreeArm(
        trainer, Bucket(jax.device_put(batch), attention.attend, "tree"), len(tree.utterances)
    )


ATTENTION = {"causal": causal, "blockwise": attention.attend}


def turns_bucket(
    trainer: Trainer, trees: Sequence[DialogueTree], name: str, block: int, share: bool = False
) -> Bucket:
    """Single turns as rows of one length; `name` of their attention."""
    # Rows without blocks need no multiple of one; 16 keeps vector units busy.
    size = shapes.up(max(map(length, trees)), block if name == "blockwise" else 16)
    block = block if name == "blockwise" else size
    batch = shapes.rows(trees, size, block, trainer.config, share)
    return Bucket(jax.device_put(batch), ATTENTION[name], name)


def fastest_attention(trainer: Trainer, buckets: Sequence, block: int) -> list[str]:
    """The name of the faster attention for every bucket of single turns."""
    return [
        fastest(
            [turns_bucket(trainer, trees, name, block) for name in ATTENTION], trainer.config
        ).name
        for trees in buckets
    ]


def turns_arm(
    trainer: Trainer, buckets: Sequence, names: Sequence[str], block: int, share: bool
) -> TurnsArm:
    made = [
        turns_bucket(trainer, trees, name, block, share)
        for trees, name in zip(buckets, names, strict=True)
    ]
    return TurnsArm(trainer, made, sum(b.batch.tables[0].lengths.shape[1] for b in made))


def interleaved(arms: dict[str, TreeArm | TurnsArm], repeats: int) -> dict[str, list[float]]:
    """Seconds of every step, the arms taking turns so that a busy machine hits them alike; each has
    taken its first."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            seconds[name].append(_timed(arm.step))
    return seconds
