"""Evaluate a run: decode its evaluation split, score it, write predictions and scores.

    python -m speechdst.evaluate --config=configs/joint_dst.py:demo --workdir=runs/demo

What is measured is the recipe's: see `speechdst/evaluation`. Everything is written below
WORKDIR/evaluation. Another prepared data set is evaluated with --config.evaluation.data=NAME
--config.evaluation.split=SPLIT. Decodes over the mesh of the config and, started as training is,
on many hosts.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from speechdst import distributed
from speechdst.command import run
from speechdst.recipes import recipe_of


def main(argv):
    del argv
    c = _CONFIG.value
    distributed.start()
    recipe_of(c).evaluate(c, Path(_WORKDIR.value), _STAGE.value, _ORACLE.value)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "The recipe the run was trained with.", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
    _STAGE = flags.DEFINE_string("stage", "", "The stage to evaluate; empty: the last.")
    _ORACLE = flags.DEFINE_bool("oracle", True, "Also score the text oracle, where there is one.")
    run(main)
