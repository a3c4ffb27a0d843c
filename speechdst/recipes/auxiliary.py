"""Auxiliary tasks over the same small speech data (arXiv 2412.15995)."""

from speechdst.evaluation.tasks import evaluate
from speechdst.recipes.joint_dst import loaders
from speechdst.steps import auxiliary

__all__ = ["evaluate", "loaders", "make_step"]


def make_step(graph, stage, **jit):
    return auxiliary.make_step(
        graph, stage, {name: spec.loss for name, spec in stage.batches.items()}, **jit)
