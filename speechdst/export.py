"""Export a run as one folder: safetensors, config, tokenizer, codec and a model card.

    python -m speechdst.export --config=configs/joint_dst.py:demo --workdir=runs/demo \
        --out=exported/demo

The folder is all that `speechdst.load` and `python -m speechdst.generate` need. LoRA is merged
into the kernels, or, with --nomerge, kept apart. Towers that came from Hugging Face checkpoints
go back to their layout: FOLDER/decoder loads in transformers, FOLDER/adapter in peft.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from safetensors.numpy import load_file, save_file

from speechdst import codec as codecs
from speechdst import sharding
from speechdst.card import card
from speechdst.command import run
from speechdst.config import codec_of, context_of, grammar_of, model_config
from speechdst.data.auxiliary_trees import TaskContext
from speechdst.data.dialogue import BadInput
from speechdst.data.grammar import Grammar
from speechdst.data.tokenizer import Tokenizer
from speechdst.decoding import duplex
from speechdst.decoding.respond import Responder
from speechdst.decoding.track import Tracker
from speechdst.files import aside, read_object, write_text
from speechdst.hf import decoders, encoders, towers
from speechdst.hf import lora as hf_lora
from speechdst.hf.decoders import read_config
from speechdst.models.lora import merge
from speechdst.models.multistream import MultiStreamLMConfig
from speechdst.training import state
from speechdst.training.checkpoint import fits, load_run

CONFIG = "speechdst.json"
FORMAT = 2  # 2: the scale of embeddings is written out


def save(folder: Path, params: dict, model: dict, tokenizer: Tokenizer, context: dict | None,
         decoding: dict, merged: bool = True, pretrained: Mapping[str, str] | None = None,
         codec: codecs.LogMelCodec | None = None) -> None:
    """Writes the weights, the tokenizer and, last, config.json.

    Args:
      params: our path -> array, of the whole model.
      model: the model's config as plain values; `context` (None: it has none), `decoding` likewise.
      merged: LoRA is added to its kernels, else kept apart.
      pretrained: tower -> folder of the checkpoint that it came from. Such a tower is written as
        a checkpoint of its own, in Hugging Face's layout, to FOLDER/encoder and FOLDER/decoder,
        LoRA that is kept apart to FOLDER/adapter, in peft's; all else to model.safetensors.
      codec: of a model that hears and speaks its codes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = {path: np.asarray(value) for path, value in params.items()}
    lora = model["decoder"]["transformer"]
    towers_of = {tower: at for tower, at in (pretrained or {}).items() if at}
    apart = {} if merged or "decoder" not in towers_of else {
        p.removeprefix("decoder/"): v for p, v in params.items() if hf_lora.is_lora(p)}
    built = model_config(model, tokenizer.size)
    if apart:
        hf_lora.save(folder / "adapter", apart, decoders.table(built.decoder), lora["lora_rank"],
                     lora["lora_alpha"], Path(towers_of["decoder"]).name)
        params = {p: v for p, v in params.items() if not hf_lora.is_lora(p)}
    elif merged and lora.get("lora_rank"):
        params = merge(params, lora["lora_rank"], lora["lora_alpha"])
        model = json.loads(json.dumps(model))
        model["decoder"]["transformer"] |= {"lora_rank": 0, "lora_alpha": 0.0}
    for tower, at in towers_of.items():
        own = {p.removeprefix(f"{tower}/"): v for p, v in params.items()
               if p.startswith(f"{tower}/")}
        params = {p: v for p, v in params.items() if not p.startswith(f"{tower}/")}
        saver = {"encoder": encoders.save, "decoder": decoders.save}[tower]
        saver(folder / tower, own, getattr(built, tower), read_config(at))
        if tower == "decoder":
            tokenizer.save(folder / tower)
    with aside(folder / "model.safetensors") as file:
        save_file({p: np.ascontiguousarray(v) for p, v in params.items()}, file)
    tokenizer.save(folder)
    if codec is not None:
        codec.save(folder / codecs.FILE)
    config = {"format": FORMAT, "model": model, "context": context, "decoding": decoding,
              "towers": sorted(towers_of), "adapter": bool(apart),
              "tokenizer": tokenizer.fingerprint, "codec": codec and codec.fingerprint}
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def load(folder: str | Path, tensor: int = 1) -> Tracker | Responder | duplex.Duplex:
    """What an exported folder holds: a tracker, a model of the auxiliary tasks, or a full-duplex
    one, its heads and columns split over `tensor` devices.

    Raises:
      BadInput: a file is missing or of another format, vocabulary or codec do not match, or a
        tensor is missing, extra or misshapen.
    """
    folder = Path(folder)
    config = read_object(folder / CONFIG, "export one with `python -m speechdst.export`")
    if config.get("format") != FORMAT:
        raise BadInput(f"format {config.get('format')!r}, expected {FORMAT}",
                       file=folder / CONFIG, field="format", mend="export the run again")
    tokenizer = Tokenizer.load(folder)
    if tokenizer.fingerprint != config["tokenizer"]:
        raise BadInput(f"the vocabulary is {tokenizer.fingerprint}, the model was trained with "
                       f"{config['tokenizer']}", file=folder,
                       mend="put back the tokenizer.model or tokenizer.json of the export")
    model = model_config(config["model"], tokenizer.size)
    _, shapes = state.abstract(model)
    where = sharding.parameters(shapes, sharding.make_mesh(
        tensor=tensor, devices=jax.devices()[:tensor]))
    as_computed = {p: jax.ShapeDtypeStruct(x.shape, model.dtype, sharding=where[p])
                   for p, x in shapes.items()}
    params = towers.load({t: str(folder / t) for t in config["towers"]}, model, as_computed)
    if config["adapter"]:
        own = {p.removeprefix("decoder/"): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where[p])
               for p, x in shapes.items() if hf_lora.is_lora(p)}
        lora = model.decoder.transformer
        adapter = hf_lora.load(folder / "adapter", own, decoders.table(model.decoder),
                               lora.lora_rank, lora.lora_alpha)
        params |= {f"decoder/{p}": v for p, v in adapter.items()}
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise BadInput("the weights are missing", file=weights, mend="export the run again")
    rest = load_file(weights)
    fits({p: v.shape for p, v in rest.items()},
         {p: x for p, x in shapes.items() if p not in params}, weights, mend="export the run again")
    params |= jax.device_put(rest, {p: where[p] for p in rest})
    decoding = config["decoding"]
    if isinstance(model, MultiStreamLMConfig):
        return duplex.make(params, model, tokenizer, _codec(folder, config["codec"]), rows=1,
                           **decoding)
    if "grammar" in decoding:
        decoding["grammar"] = Grammar.of(decoding["grammar"])
    context = context_of(config["context"])
    made = Responder if isinstance(context, TaskContext) else Tracker
    return made(params, model, tokenizer, context, **decoding)


def _codec(folder: Path, fingerprint: str) -> codecs.LogMelCodec:
    found = codecs.LogMelCodec.load(folder / codecs.FILE)
    if found.fingerprint != fingerprint:
        raise BadInput(f"the codec is {found.fingerprint}, the model was trained with "
                       f"{fingerprint}", file=folder / codecs.FILE,
                       mend="put back the codec of the export")
    return found


def main(argv):
    del argv
    c, workdir = _CONFIG.value, Path(_WORKDIR.value)
    tokenizer, _, params = load_run(c, workdir, _STAGE.value, step=_STEP.value)
    out, e, values = Path(_OUT.value), c.evaluation, json.loads(c.model.to_json())
    context, decoding, codec = None, {}, None
    if values.get("kind") == MultiStreamLMConfig.kind:
        codec, decoding = codec_of(c), e.decoding.to_dict() | {"overflow": c.text_overflow}
    else:
        context = e.context.to_dict()
        decoding = {name: e[name] for name in ("beam", "max_new", "pause") if name in e}
        if (grammar := grammar_of(c)) is not None:
            decoding["grammar"] = dataclasses.asdict(grammar)
    save(out, params, values, tokenizer, context, decoding, _MERGE.value, c.pretrained, codec)
    write_text(out / "README.md", card(c, workdir))
    size = sum(f.stat().st_size for f in out.rglob("*.safetensors"))
    print(f"exported {out} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "The recipe the run was trained with.", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
    _OUT = flags.DEFINE_string("out", None, "The folder to write.", required=True)
    _STAGE = flags.DEFINE_string("stage", "", "The stage to export; empty: the last.")
    _STEP = flags.DEFINE_integer("step", 0, "A checkpoint of the stage; 0: the last.")
    _MERGE = flags.DEFINE_bool("merge", True, "Merge LoRA into the kernels.")
    run(main)
