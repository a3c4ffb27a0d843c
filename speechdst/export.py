"""Export a run as one folder: safetensors, config, tokenizer.

    python -m speechdst.export --config=configs/joint_dst.py:demo --workdir=runs/demo \
        --out=exported/demo

The folder is all that `speechdst.load` and `python -m speechdst.generate` need. LoRA is merged
into the kernels, or, with --nomerge, kept apart.
"""

import json
import os
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from safetensors.numpy import load_file, save_file

from speechdst.command import run
from speechdst.config import context_of, model_config
from speechdst.data.dialogue import BadInput
from speechdst.data.tokenizer import Tokenizer
from speechdst.decoding.track import Tracker
from speechdst.files import write_text
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.models.lora import merge
from speechdst.training import state
from speechdst.training.checkpoint import fits, load_run

FORMAT = 2  # 2: the scale of embeddings is written out


def save(folder: Path, params: dict, model: dict, tokenizer: Tokenizer, context: dict,
         decoding: dict, merged: bool = True) -> None:
    """Writes model.safetensors, the tokenizer and, last, config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = model["decoder"]["transformer"]["lora_rank"]
    if merged and rank:
        params = merge(params, rank, model["decoder"]["transformer"]["lora_alpha"])
        model = json.loads(json.dumps(model))
        model["decoder"]["transformer"] |= {"lora_rank": 0, "lora_alpha": 0.0}
    aside = folder / "model.safetensors.tmp"
    save_file({p: np.ascontiguousarray(v) for p, v in params.items()}, aside)
    os.replace(aside, folder / "model.safetensors")
    tokenizer.save(folder)
    config = {"format": FORMAT, "model": model, "context": context, "decoding": decoding,
              "tokenizer": tokenizer.fingerprint}
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")


def load(folder: str | Path) -> Tracker:
    """The tracker of an exported folder.

    Raises:
      BadInput: a file is missing or of another format, the vocabulary does not match, or a tensor
        is missing, extra or misshapen.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise BadInput("no exported model there", file=folder,
                       mend="export one with `python -m speechdst.export`") from None
    except ValueError as error:
        raise BadInput(f"not JSON ({error})", file=folder / "config.json") from error
    if config.get("format") != FORMAT:
        raise BadInput(f"format {config.get('format')!r}, expected {FORMAT}",
                       file=folder / "config.json", field="format")
    tokenizer = Tokenizer.load(folder)
    if tokenizer.fingerprint != config["tokenizer"]:
        raise BadInput(f"the vocabulary is {tokenizer.fingerprint}, the model was trained with "
                       f"{config['tokenizer']}", file=folder,
                       mend="put back the tokenizer.model or tokenizer.json of the export")
    model: DialogueLMConfig = model_config(config["model"], tokenizer.size)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise BadInput("the weights are missing", file=weights, mend="export the run again")
    params = load_file(weights)
    _, shapes = state.abstract(model)
    fits({p: v.shape for p, v in params.items()}, shapes, weights, mend="export the run again")
    return Tracker(jax.device_put(params), model, tokenizer, context_of(config["context"]),
                   **config["decoding"])


def main(argv):
    del argv
    c, workdir = _CONFIG.value, Path(_WORKDIR.value)
    tokenizer, _, params = load_run(c, workdir, _STAGE.value)
    e, values = c.evaluation, json.loads(c.model.to_json())
    save(Path(_OUT.value), {p: np.asarray(v) for p, v in params.items()}, values, tokenizer,
         json.loads(e.context.to_json()), {"beam": e.beam, "max_new": e.max_new}, _MERGE.value)
    size = (Path(_OUT.value) / "model.safetensors").stat().st_size
    print(f"exported {_OUT.value} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "The recipe the run was trained with.", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
    _OUT = flags.DEFINE_string("out", None, "The folder to write.", required=True)
    _STAGE = flags.DEFINE_string("stage", "", "The stage to export; empty: the last.")
    _MERGE = flags.DEFINE_bool("merge", True, "Merge LoRA into the kernels.")
    run(main)
