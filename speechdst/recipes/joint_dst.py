"""Joint speech and text training for dialogue state tracking (arXiv 2511.22503)."""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from speechdst import encode, standin
from speechdst.config import context_of
from speechdst.data import loader
from speechdst.data.auxiliary_trees import builder_of
from speechdst.data.contexts import TreeBuilder
from speechdst.data.prepared import Prepared
from speechdst.data.tokenizer import Tokenizer
from speechdst.evaluation.states import evaluate
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.steps import joint_dst

__all__ = ["USE", "WHAT", "evaluate", "loaders", "make_step", "stand_in"]

WHAT = "A spoken dialogue state tracker: speech in, dialogue state out, as JSON."
USE = """tracker = speechdst.load("THIS FOLDER")
for turn in tracker("call.wav"): print(turn.speaker, turn.text, turn.state)"""


def loaders(config: ConfigDict, stage: ConfigDict, tokenizer: Tokenizer, model: DialogueLMConfig,
            params: dict, pairs: Callable[[TreeBuilder, ConfigDict], TreeBuilder] | None = None
            ) -> dict[str, loader.Loader]:
    """The loaders of a stage by batch name; with `encoded` speech is read as the frozen encoder
    of `params` left it (`python -m speechdst.prepare --features`). A batch, or one of its sources,
    may say `share`: only so much of the conversations, drawn by the seed (of a source also 0).
    `pairs`: (builder, batch of the config) -> a builder that makes pairs of its answers."""
    made = {}
    for i, (name, spec) in enumerate(sorted(stage.batches.items())):
        encoded = stage.get("encoded", False) and spec.context.path == "speech"
        builder = builder_of(context_of(spec.context), tokenizer, model,
                             encode.hearing(model) if encoded else None)
        builder = pairs(builder, spec) if pairs else builder
        sources = []
        for s in spec.sources:
            prepared = Prepared(Path(config.data_dir) / s["data"])
            dialogues = (encode.dialogues(prepared, s["split"], model, params, stage.trainable)
                         if encoded else prepared.dialogues(s["split"]))
            share = s.get("share", spec.get("share", 1.0))
            part = loader.part(prepared.ids(s["split"]), share, config.seed) if share < 1 else None
            sources.append(loader.Source(dialogues, s["weight"], part))
        made[name] = loader.make(
            sources, builder, positions=spec.positions, rows=spec.rows,
            seed=config.seed + 1000 * i, block=spec.block, buckets=spec.buckets,
            channels=model.encoder.width if encoded else model.encoder.channels,
            spec_augment=dict(spec.spec_augment), workers=config.loader_workers,
            pairs=pairs is not None)
        for source, plan in zip(spec.sources, made[name].plans, strict=True):
            print(f"  {name} from {source['data']}/{source['split']}: {plan.summary()}")
    return made


def stand_in(config: ConfigDict, stage: ConfigDict, tokenizer: standin.StandInTokenizer,
             model: DialogueLMConfig, folder: Path, loaders: Callable = loaders
             ) -> dict[str, loader.Loader]:
    """`loaders` over silent dialogues of SpokenWOZ's shape, made in `folder`."""
    return loaders(standin.prepare(config, stage, folder), stage, tokenizer, model, {})


def make_step(graph, stage: ConfigDict, **jit):
    return joint_dst.make_step(
        graph, stage, {name: spec.loss for name, spec in stage.batches.items()}, **jit)
