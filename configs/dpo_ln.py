"""Preference alignment by DPO-LN (arXiv 2506.21463): here of dialogue states.

    python -m speechdst.train    --config=configs/dpo_ln.py:demo_dst --workdir=runs/dpo_ln
    python -m speechdst.evaluate --config=configs/dpo_ln.py:demo_dst --workdir=runs/dpo_ln

Goes on from a run of the joint-DST recipe, over its data and its tokenizer (configs/joint_dst.py;
--config.base names the folder of its last stage). Chosen is the gold state; rejected is the same
with one slot dropped, altered or added, or what the model itself tracks where it is wrong, once it
was evaluated on its training data:

    python -m speechdst.evaluate --config=configs/joint_dst.py:demo --workdir=runs/demo \\
        --config.evaluation.split=train --nooracle
    python -m speechdst.train --config=configs/dpo_ln.py:demo_dst --workdir=runs/dpo_ln \\
        --config.stages.preference.batches.pairs.rejected.predictions=\\
runs/demo/evaluation/simulated-train-speech/predictions.json

Presets: tiny_dst (seconds, for tests), demo_dst. The loss is another one with
--config.stages.preference.objective.name=dpo, ipo, simpo, apo_zero or apo_zero_ln.
"""

from ml_collections import ConfigDict

from configs import joint_dst


def stage(*, data, context, steps, rows, positions, lr):
    """One pass of 16 % warm-up and a cosine, as published; no weight decay (ours: at these rates
    it would be all that moves a weight without a gradient)."""
    pairs = joint_dst.batch("preference", (data,), kind=context, path="speech", rows=rows,
                            positions=positions)
    return dict(
        # With `encoded` speech is read as `prepare --features` left it.
        encoded=False, steps=steps, trainable=(r"^decoder",), weights=dict(preference=1.0),
        objective=dict(name="dpo_ln", beta=0.3, gamma=0.5),
        optimizer=joint_dst.optimizer(lr, round(0.16 * steps)) | dict(
            b2=0.95, end_ratio=0.0, weight_decay=0.0, compensated=True),
        batches=dict(pairs=pairs | dict(rejected=dict(seed=0, predictions=""))))


def tiny_dst(c):
    """Three steps: seconds, for tests."""
    c.stages = ConfigDict(dict(preference=stage(
        data="simulated", context="text_history", steps=3, rows=1, positions=1024, lr=1e-3)))


def demo_dst(c):
    """About one pass over the demo's dialogues (the learning rate is ours: the published 5e-9 is
    for a model of 7B)."""
    c.stages = ConfigDict(dict(preference=stage(
        data="simulated", context="text_history", steps=200, rows=2, positions=1024, lr=1e-5)))


PRESETS = dict(tiny_dst=tiny_dst, demo_dst=demo_dst)


def get_config(preset: str = "demo_dst") -> ConfigDict:
    if preset not in PRESETS:
        raise ValueError(f"dpo_ln has no preset {preset!r}, there are {', '.join(PRESETS)}")
    started = preset.removesuffix("_dst")
    c = joint_dst.get_config(started)
    c.recipe, c.name = "dpo_ln", f"dpo_ln_{preset}"
    c.base = f"runs/{started}/joint"  # the folder of a stage of another run
    c.order = ("preference",)
    PRESETS[preset](c)
    return c
