"""How many parameters a recipe has, and how many each of its stages trains."""

import math

from ml_collections import ConfigDict
from rich.table import Table

from speechdst.config import model_config, tokenizer_of
from speechdst.training import state


def counts(c: ConfigDict) -> Table:
    """Parameters by tower, and how many of them each stage trains; nothing is allocated."""
    size = c.model.decoder.vocabulary or tokenizer_of(c).size
    _, shapes = state.abstract(model_config(c.model, size))
    towers = {"LoRA": lambda p: "lora" in p} | {
        name: lambda p, name=name: p.startswith(name + "/") and "lora" not in p
        for name in sorted({path.split("/")[0] for path in shapes})} | {"all": lambda p: True}
    columns = {"all": shapes} | {
        name: state.split(shapes, c.stages[name].trainable)[0] for name in c.order}
    table = Table(title=f"{c.name}: parameters, and those that each stage trains",
                  title_justify="left")
    for name in ("", *columns):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for tower, belongs in towers.items():
        table.add_row(tower, *(f"{sum(math.prod(x.shape) for p, x in of.items() if belongs(p)):,}"
                               for of in columns.values()))
    return table
