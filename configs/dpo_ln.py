"""Preference alignment by DPO-LN (arXiv 2506.21463): of full-duplex spoken dialogue models, and of
dialogue states.

    python -m speechdst.prepare_pairs --config=configs/preference_data.py:demo
    python -m speechdst.prepare  --config=configs/dpo_ln.py:demo
    python -m speechdst.train    --config=configs/dpo_ln.py:demo --workdir=runs/dpo_ln
    python -m speechdst.evaluate --config=configs/dpo_ln.py:demo --workdir=runs/dpo_ln
    python -m speechdst.export   --config=configs/dpo_ln.py:demo --workdir=runs/dpo_ln \\
        --out=exported/dpo_ln
    python -m speechdst.generate --model=exported/dpo_ln --audio=user.wav --out=reply.wav

Presets: tiny (seconds, for tests), demo (minutes on a CPU: a base model from scratch on simulated
conversations, then DPO-LN on pairs), faulty (the same on a base with bad manners), moshi (the
published setting and sizes). The text stream alone is compared; the depth part has no gradient
then, whatever its learning rate. Other variants of the paper's Tables 1 and 3:

    --config.stages.preference.objective.streams=text+audio    rewards added before the sigmoid
    --config.stages.preference.objective.streams=text,audio    two losses, added
    --config.stages.preference.weights.audio=0.1               CE on the audio of chosen replies
    --config.stages.preference.objective.name=dpo              or ipo, simpo, apo_zero, apo_zero_ln
    --config.stages.preference.objective.padding=False         words alone are scored and counted

Of dialogue states (presets tiny_dst, demo_dst) it goes on from a run of the joint-DST recipe, over
its data and its tokenizer (configs/joint_dst.py; --config.base names the folder of its last stage).
Chosen is the gold state; rejected is the same with one slot dropped, altered or added, or what the
model itself tracks where it is wrong, once it was evaluated on its training data:

    python -m speechdst.evaluate --config=configs/joint_dst.py:demo --workdir=runs/demo \\
        --config.evaluation.split=train --nooracle
    python -m speechdst.train --config=configs/dpo_ln.py:demo_dst --workdir=runs/dpo_ln_dst \\
        --config.stages.preference.batches.pairs.rejected.predictions=\\
runs/demo/evaluation/simulated-train-speech/predictions.json
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs import joint_dst, preference_data

# Shares of a pass behind which the model is kept and evaluated, as published: the best is often
# among the first.
POINTS = (0.1, 0.2, 0.3, 0.5, 1.0)


def optimizer(lr, steps, **kwargs):
    """One pass of 16 % warm-up and a cosine, as published; no weight decay (ours: at these rates
    it would be all that moves a weight without a gradient)."""
    return joint_dst.optimizer(lr, round(0.16 * steps)) | dict(
        b2=0.95, end_ratio=0.0, weight_decay=0.0, compensated=True) | kwargs


def states(c, *, steps, rows, lr):
    """Pairs of dialogue states."""
    pairs = joint_dst.batch("preference", ("simulated",), kind="text_history", path="speech",
                            rows=rows, positions=1024)
    c.order = ("preference",)
    c.stages = ConfigDict(dict(preference=dict(
        # With `encoded` speech is read as `prepare --features` left it.
        encoded=False, steps=steps, trainable=(r"^decoder",), weights=dict(preference=1.0),
        points=(), objective=dict(name="dpo_ln", beta=0.3, gamma=0.5),
        optimizer=optimizer(lr, steps),
        batches=dict(pairs=pairs | dict(rejected=dict(seed=0, predictions=""))))))


def tiny_dst(c):
    """Three steps: seconds, for tests."""
    states(c, steps=3, rows=1, lr=1e-3)
    joint_dst.soon(c)


def demo_dst(c):
    """About one pass over the demo's dialogues (the learning rate is ours: the published 5e-9 is
    for a model of 7B)."""
    states(c, steps=200, rows=2, lr=1e-5)


def batch(data, *, rows, positions, split="train"):
    return dict(rows=rows, positions=positions, block=128,
                sources=(dict(data=data, split=split, weight=1.0),))


def base(*, steps, rows, positions, lr, semantic):
    """Training from scratch; `semantic`: what the first codebook counts, another one counts 1."""
    return dict(steps=steps, trainable=(r"",), weights=dict(text=1.0, audio=1.0), points=(),
                streams=dict(semantic=semantic, acoustic=1.0, padding=0.5),
                optimizer=joint_dst.optimizer(lr, max(1, steps // 20)) | dict(b2=0.95),
                batches=dict(conversations=batch("conversations", rows=rows, positions=positions)))


def preference(*, steps, rows, positions, lr, depth_lr, semantic):
    """DPO-LN; `depth_lr`: of the depth Transformer, for objectives that it has a gradient of."""
    return dict(steps=steps, trainable=(r"",), weights=dict(preference=1.0, audio=0.0),
                points=POINTS,
                streams=dict(semantic=semantic, acoustic=1.0, padding=0.5),
                objective=dict(name="dpo_ln", beta=0.3, gamma=0.5, streams="text", padding=True),
                optimizer=optimizer(lr, steps, multipliers=((r"^depth/", depth_lr / lr),)),
                batches=dict(pairs=batch("pairs", rows=rows, positions=positions)))


def model(width, layers, depth_width, depth_layers, *, codebooks, card):
    """The published architecture at another size."""
    tower = dict(gated=True, bias=False, rms=True, norm_epsilon=1e-8)
    transformer = lambda width, layers, **kw: joint_dst.transformer(
        width, layers, max(2, width // 32), mlp_width=width * 3, **tower, **kw)
    return ConfigDict(dict(
        kind="multistream",
        decoder=dict(transformer=transformer(width, layers, rope_theta=10_000.0), vocabulary=0,
                     tied=False, initial=True),
        depth=transformer(depth_width, depth_layers, steps=codebooks, final_norm=False),
        codebooks=codebooks, card=card, delays=(0,) + (1,) * (codebooks - 1), pad=3, epad=0,
        dtype="float32"))


def conversing(c, *, train, test, turns, codebooks, card, tokens, heard, timing=None):
    """Simulated conversations, of this `Timing`, with their tokenizer and codec, which `heard` of
    them train."""
    said = dict(turns=turns, domains=("restaurant", "hotel"), domain_counts=(1.0,), same=0.0)
    of = lambda count: dict(conversations=count, **said, **(dict(timing=dict(timing)) if timing
                                                            else {}))
    c.prepare = dict(conversations=dict(corpus="simulated_conversations", splits=dict(
        train=of(train), test=of(test))))
    c.tokenizer = dict(size=tokens, train_on=("conversations",), path="")
    c.codec = dict(path="", train_on=("conversations",), conversations=heard,
                   codebooks=codebooks, card=card, seed=0, rounds=12)
    c.text_overflow = "shift"  # see speechdst/data/text_stream.py
    c.evaluation = dict(
        data="conversations", split="test", rows=8, limit=0,
        pairs=(dict(data="pairs", split="test"),),
        decoding=dict(sampling=dict(text_temperature=0.7, text_top_k=25, audio_temperature=0.8,
                                    audio_top_k=250), pad_bonus=0.0, slots=1500),
        live=dict(window=3.0, joined=0.5, replay_limit=20, asr="", seed=0, goal="wrong_turns"))


def tiny(c):
    """Three steps a stage: seconds, for tests."""
    conversing(c, train=8, test=2, turns=(2, 2), codebooks=2, card=16, tokens=320, heard=4)
    c.model = model(32, 1, 16, 1, codebooks=2, card=16)
    c.stages = ConfigDict(dict(
        base=base(steps=3, rows=1, positions=256, lr=1e-3, semantic=10.0),
        preference=preference(steps=3, rows=1, positions=512, lr=1e-3, depth_lr=1e-3,
                              semantic=10.0)))
    c.log_every, c.save_every = 1, 1
    c.evaluation.update(limit=2, rows=2)


def demo(c, timing=None):
    """A base model from scratch, then DPO-LN: minutes on two cores. (The learning rates are ours:
    the published ones are for a model of 7B.)"""
    conversing(c, train=600, test=40, turns=(2, 3), codebooks=4, card=128, tokens=640, heard=60,
               timing=timing)
    c.model = model(128, 4, 64, 2, codebooks=4, card=128)
    c.stages = ConfigDict(dict(
        base=base(steps=1000, rows=4, positions=512, lr=2e-3, semantic=10.0),
        preference=preference(steps=200, rows=2, positions=1024, lr=5e-5, depth_lr=5e-5,
                              semantic=10.0)))


def faulty(c):
    """The demo, but that the base learns from an agent with the faults of that of the live logs, so
    that it has some to unlearn; that of the held-out conversations has none."""
    demo(c, preference_data.faulty().recordings.timing.to_dict())
    c.prepare.conversations.splits.test.timing.update(cut=0.0, silent=0.0, late=0.0, stops=0.0)
    c.stages.preference.optimizer.lr = 2e-5


def moshi(c):
    """Moshi's sizes with the published setting: learning rates 5e-9 (temporal) and 1e-6 (depth),
    16 rows of pairs (one a row where the context is full, 4 minutes), one pass over 93,490 pairs.
    In the paper the final mix lifts spoken QA from 36.1 to 39.2 and safety from 70.9 to 77.8 (its
    Table 2). It goes on from --config.base, a run of a base model of this size."""
    from speechdst.models.multistream import MOSHI

    conversing(c, train=1000, test=100, turns=(3, 6), codebooks=8, card=2048, tokens=32_000,
               heard=500)
    c.model = ConfigDict(asdict(MOSHI) | dict(kind="multistream"))
    c.base = "runs/moshi/base"
    c.order = ("preference",)
    c.stages = ConfigDict(dict(preference=preference(
        steps=round(93_490 / 16), rows=16, positions=4096, lr=5e-9, depth_lr=1e-6,
        semantic=100.0)))
    c.mesh.fsdp = 16
    c.log_every, c.save_every = 10, 500


STATES = dict(tiny_dst=tiny_dst, demo_dst=demo_dst)
STREAMS = dict(tiny=tiny, demo=demo, faulty=faulty, moshi=moshi)


def get_config(preset: str = "demo") -> ConfigDict:
    if preset not in STATES | STREAMS:
        raise ValueError(f"dpo_ln has no preset {preset!r}, there are "
                         f"{', '.join(STATES | STREAMS)}")
    started = preset.removesuffix("_dst")
    c = joint_dst.get_config(started if preset in STATES else "tiny")
    if preset in STATES:
        c.recipe = "dpo_ln"
        c.base = f"runs/{started}/joint"  # the folder of a stage of another run
    else:
        c.recipe, c.data_dir = "multistream", f"data/conversations_{preset}"
        c.order, c.base = ("base", "preference"), ""  # or the folder of a stage of another run
        c.log_every, c.save_every = 10, 200
        c.pretrained = {}
        del c.evaluation
    c.name = f"dpo_ln_{preset}"
    (STATES | STREAMS)[preset](c)
    return c
