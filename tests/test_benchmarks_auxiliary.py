"""The benchmark of task trees, at a tiny size."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_task_tree_and_its_examples_train_alike_and_are_timed(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import auxiliary_tree, step_time

    found = json.loads(json.dumps(auxiliary_tree.measure(
        16, 1, auxiliary_tree.QUICK, 4, repeats=1, options=step_time.quick_options(),
        say=lambda line: None)))
    assert found["loss_error"] < 1e-5 and 0 < found["gradient_error"] < 1e-4
    assert found["positions"]["tree"] < found["positions"]["separate"]
    assert found["ratio"] > 0 and {len(s) for s in found["seconds"].values()} == {1}


def test_arms_that_differ_are_refused(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import auxiliary_tree, step_time

    monkeypatch.setattr(step_time, "differ", lambda found, expected: 0.01)
    monkeypatch.setattr(auxiliary_tree.Arm, "step", lambda self: dict.fromkeys(
        auxiliary_tree.TASKS, 1.0))
    with pytest.raises(AssertionError, match="gradients by 1"):
        auxiliary_tree.measure(16, 1, auxiliary_tree.QUICK, 4, repeats=1, say=lambda line: None)
