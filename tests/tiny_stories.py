"""Simulated stories with random speech, and the builder of their trees, shared by tests."""

import dataclasses

import numpy as np
import tiny

from speechdst.data import corpora
from speechdst.data.auxiliary_trees import TaskContext, TaskTreeBuilder
from speechdst.data.contexts import Hearing
from speechdst.data.dialogue import Dialogue


def stories(count: int = 12, seed: int = 0, **options) -> list[Dialogue]:
    """Simulated stories, every turn with random features."""
    rng = np.random.default_rng(seed)
    options = dict(seed=seed, words=4, sentences=(2, 2), clarified=True) | options
    heard = lambda: rng.standard_normal((int(rng.integers(16, 40)), tiny.CHANNELS)).astype(
        np.float16)
    return [dataclasses.replace(d, turns=tuple(
        dataclasses.replace(t, features=heard()) for t in d.turns))
        for d in corpora.read("simulated_stories", "", "train", dialogues=count, **options)]


def builder(path: str = "speech", **context) -> TaskTreeBuilder:
    model = tiny.config()
    return TaskTreeBuilder(TaskContext(path=path, **context), tiny.tokenizer(), model.soft_length,
                           Hearing.of(model.encoder))
