"""What `train --dry_run` counts."""

import importlib.util
import math
from pathlib import Path

import jax
import pytest

from speechdst.config import model_config
from speechdst.training import state
from speechdst.training.counts import counts

spec = importlib.util.spec_from_file_location(
    "recipe", Path(__file__).parents[2] / "configs" / "joint_dst.py")
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)


@pytest.mark.parametrize("preset", sorted(recipe.PRESETS))
def test_counts_without_a_tokenizer_or_memory(preset):
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
