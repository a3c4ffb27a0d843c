"""The tiny preset of every recipe, over a few simulated dialogues that a noise speaks, or over
frames at random."""

import dataclasses
import functools
import runpy
import tempfile
import zlib
from pathlib import Path

import numpy as np
import tiny
from ml_collections import ConfigDict

from speechdst import prepare
from speechdst.config import model_config, tokenizer_of
from speechdst.recipes import recipe_of
from speechdst.standin import StandInTokenizer
from speechdst.training import optimizer, state

# What is trained -> config file, its tiny preset, and the stage that holds most of it.
STAGES = {"joint_dst": ("joint_dst", "tiny", "joint"), "auxiliary": ("auxiliary", "tiny", "tasks"),
          "dpo_ln": ("dpo_ln", "tiny_dst", "preference"), "streams": ("dpo_ln", "tiny", "base"),
          "replies": ("dpo_ln", "tiny", "preference")}


def noise(text: str, voice) -> np.ndarray:
    """A synthesiser that is quick: int16 [samples]."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    return rng.integers(-9000, 9000, 4800 + 80 * len(text.split()), np.int16)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step takes: see `speechdst.recipes`; `batches` by name, numpy."""

    config: ConfigDict
    stage: ConfigDict
    model: object
    params: dict
    batches: dict

    @property
    def tx(self):
        return optimizer.make(self.stage.optimizer, self.stage.steps)

    def step(self, **jit):
        graph, _ = state.abstract(self.model)
        return recipe_of(self.config).make_step(
            graph, self.stage, compiler_options=tiny.QUICK, **jit)


@functools.cache
def recipe(name: str, rows: int) -> Recipe:
    file, preset, stage = STAGES[name]
    config = runpy.run_path(f"{Path(__file__).parents[1]}/configs/{file}.py")["get_config"](preset)
    stage = config.stages[stage]
    for batch in stage.batches.values():
        batch.rows = rows
    # Warm at once, so that a step moves the parameters.
    stage.optimizer.warmup = 1
    with tempfile.TemporaryDirectory() as folder:
        config.data_dir = folder
        if config.recipe == "multistream":
            tokenizer = StandInTokenizer(config.tokenizer.size)
            model = model_config(config.model, tokenizer.size)
            loaders = recipe_of(config).stand_in(config, stage, tokenizer, model, Path(folder))
        else:
            model, loaders = _spoken(config, stage)
        batches = {key: next(iter(loader)) for key, loader in loaders.items()}
    return Recipe(config, stage, model, tiny.parameters(model), batches)


def _spoken(config: ConfigDict, stage: ConfigDict):
    """Model and loaders over a few dialogues, which are prepared."""
    for spec in config.prepare.values():
        for split in spec.splits.values():
            split.dialogues = 4
        if spec.speech != "none":
            spec.speech = f"{__name__}:noise"
    prepare.run(config, processes=0)
    tokenizer = tokenizer_of(config)
    model = model_config(config.model, tokenizer.size)
    return model, recipe_of(config).loaders(config, stage, tokenizer, model,
                                            tiny.parameters(model))
