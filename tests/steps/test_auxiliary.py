"""The auxiliary step: three tasks of one tree train as three examples, each by its own loss."""

import functools

import jax
import numpy as np
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from test_joint_dst import config
from tiny_stories import builder, stories

from speechdst.data.auxiliary_trees import TASKS
from speechdst.steps.auxiliary import losses, make_step
from speechdst.training import optimizer, state

MODEL = tiny.config()
SHAPE = tiny.shape(positions=512, tables=((6, 40),))
WEIGHTS = {"listening": 0.5, "reasoning": 1.0, "response": 2.0}


@functools.cache
def gradient():
    """Compiled (params, batch) -> ((weighted loss, pairs), gradients)."""
    graph, _ = state.abstract(MODEL)

    def objective(params, batch):
        pairs = losses(state.model_of(graph, params), {"tasks": batch}, {"tasks": "tasks"},
                       jax.random.key(0))
        return sum(w * pairs[task][0] for task, w in WEIGHTS.items()), pairs

    return jax.jit(jax.value_and_grad(objective, has_aux=True), compiler_options=tiny.QUICK)


def run(trees):
    (_, pairs), grads = gradient()(tiny.parameters(MODEL), tiny.row(trees, SHAPE))
    return {name: np.array(pair) for name, pair in pairs.items()}, grads


def added(results):
    pairs, grads = zip(*results, strict=True)
    return (jax.tree.map(lambda *x: sum(x), *pairs), jax.tree.map(lambda *x: sum(x), *grads))


@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), listening=st.sampled_from(
    (("request",), ("request", "turn"), ("conversation",))))
def test_a_tree_of_three_tasks_equals_three_examples(seed, listening):
    dialogue = stories(1, seed)[0]
    (tree,) = builder(listening=listening).trees(dialogue)
    separate = tiny.alone(tree)
    assert len(separate) == len(listening) + 2
    found, expected = run([tree]), added([run([t]) for t in separate])
    assert all(expected[0][task][1] > 0 for task in TASKS)
    for name, pair in expected[0].items():
        np.testing.assert_allclose(found[0][name], pair, rtol=1e-5, atol=1e-6, err_msg=name)
    tiny.assert_same_gradients(found[1], expected[1])


def test_each_task_has_its_own_loss():
    dialogue = stories(1, 3)[0]
    whole, _ = run(builder().trees(dialogue))
    for task in TASKS:
        alone, _ = run(builder().only(task).trees(dialogue))
        np.testing.assert_allclose(alone[task], whole[task], rtol=1e-5)
        assert all(alone[other][1] == 0 for other in TASKS if other != task)


def test_the_step_learns_the_weighted_sum_of_means():
    stage = ConfigDict(dict(optimizer=config(), steps=100, weights=WEIGHTS))
    tx = optimizer.make(stage.optimizer, stage.steps)
    current = state.start(tiny.parameters(MODEL), (r"^connector", r"lora"), tx, seed=0)
    step = make_step(state.abstract(MODEL)[0], stage, {"tasks": "tasks"},
                     compiler_options=tiny.QUICK)
    batch = tiny.row(builder().trees(stories(1, 5)[0]), SHAPE)
    reported = []
    for _ in range(4):
        current, values = step(current, {"tasks": batch})
        reported.append({k: float(v) for k, v in values.items()})
        np.testing.assert_allclose(
            reported[-1]["loss"], sum(w * reported[-1][t] for t, w in WEIGHTS.items()), rtol=1e-5)
    for task in TASKS:
        assert reported[-1][task] < reported[0][task]
