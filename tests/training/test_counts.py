"""What `train --dry_run` counts."""

import importlib
import math
from pathlib import Path

import jax
import pytest

from speechdst.config import model_config
from speechdst.training import state
from speechdst.training.counts import counts

PRESETS = {
    "joint_dst": (
        *("tiny", "demo", "multiwoz", "gemma3_1b", "gemma3_4b", "gemma3_12b", "olmo_1b"),
        *("stacking_olmo_1b", "stacking_gemma2_9b", "spoken_history_olmo2_1b"),
    ),
    "auxiliary": tuple(f"{name}{arm}" for name in ("tiny", "demo", "published")
                       for arm in ("", "_single_task")),
}  # fmt: skip


@pytest.mark.parametrize(("recipe", "preset"), [(r, p) for r in PRESETS for p in PRESETS[r]])
def test_counts_without_a_tokenizer_or_memory(recipe, preset, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    recipe = importlib.import_module(f"configs.{recipe}")
    assert preset.removesuffix("_single_task") in recipe.PRESETS
    c = recipe.get_config(preset)
    c.model.decoder.vocabulary = c.model.decoder.vocabulary or 100
    table = counts(c)
    titles = [str(column.header) for column in table.columns]
    assert titles == ["", "all", *c.order]
    rows = {cells[0]: [int(x.replace(",", "")) for x in cells[1:]]
            for cells in zip(*(column.cells for column in table.columns), strict=True)}
    model = model_config(c.model, c.model.decoder.vocabulary)
    drawn = jax.eval_shape(lambda: state.create(model, 0))
    assert rows["all"][0] == sum(math.prod(x.shape) for x in drawn.values())
    towers = [v for k, v in rows.items() if k != "all"]
    assert rows["all"] == [sum(column) for column in zip(*towers, strict=True)]
    for stage, trained in zip(c.order, rows["all"][1:], strict=True):
        assert 0 < trained < rows["all"][0], stage
