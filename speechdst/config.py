"""From ml_collections configs to the dataclasses of the code, and a run's saved config."""

import dataclasses
import json
import types
import typing
from pathlib import Path

from ml_collections import ConfigDict

from speechdst import codec
from speechdst.data.auxiliary_trees import TaskContext
from speechdst.data.contexts import Context
from speechdst.data.dialogue import BadInput
from speechdst.data.grammar import Grammar
from speechdst.data.tokenizer import Tokenizer
from speechdst.files import write_text
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.models.multistream import MultiStreamLMConfig


def build(cls, values: dict, where: str = "model"):
    """A (nested) config dataclass from plain values; an unknown or missing name is an error."""
    if isinstance(cls, types.UnionType):  # one of several dataclasses: `kind` tells which
        kinds = {getattr(c, "kind", ""): c for c in typing.get_args(cls) if c is not type(None)}
        values = dict(values)
        kind = values.pop("kind", next(iter(kinds)))
        if kind not in kinds:
            raise BadInput(f"{kind!r}, expected one of {sorted(kinds)}", field=f"{where}.kind")
        cls = kinds[kind]
    hints = {n: hint for n, hint in typing.get_type_hints(cls).items()
             if n in {f.name for f in dataclasses.fields(cls)}}
    if unknown := set(values) - set(hints):
        raise BadInput(f"unknown setting {sorted(unknown)}, there are {sorted(hints)}", field=where)
    made = {}
    for name, value in values.items():
        kind = hints[name]
        if value is not None and (
                dataclasses.is_dataclass(kind) or isinstance(kind, types.UnionType)):
            value = build(kind, value, f"{where}.{name}")
        elif isinstance(value, list):
            value = tuple(value)
        made[name] = value
    try:
        return cls(**made)
    except (TypeError, ValueError) as error:
        raise BadInput(str(error), field=where) from error


def model_config(values: ConfigDict | dict,
                 vocabulary: int) -> DialogueLMConfig | MultiStreamLMConfig:
    """The model of a config by its `kind` ("dialogue" if there is none), its vocabulary that of the
    tokenizer. A config may name a larger one: embeddings of published models have rows that are no
    token."""
    values = values.to_dict() if isinstance(values, ConfigDict) else json.loads(json.dumps(values))
    for tower in ("decoder", "text_encoder"):
        if values.get(tower) is None:
            continue
        if 0 < values[tower]["vocabulary"] < vocabulary:
            raise BadInput(f"the config says {values[tower]['vocabulary']} and the tokenizer has "
                           f"{vocabulary} tokens", field=f"model.{tower}.vocabulary",
                           mend="use the tokenizer that the model was trained with")
        values[tower]["vocabulary"] = values[tower]["vocabulary"] or vocabulary
    return build(DialogueLMConfig | MultiStreamLMConfig, values)


def tokenizer_of(config: ConfigDict) -> Tokenizer:
    """The tokenizer that the config names, or the one that `prepare` trained."""
    return Tokenizer.load(config.tokenizer.path or Path(config.data_dir) / "tokenizer.model")


def codec_of(config: ConfigDict) -> codec.LogMelCodec:
    """The audio codec that the config names, or the one that `prepare` trained."""
    return codec.LogMelCodec.load(config.codec.path or Path(config.data_dir) / codec.FILE)


def context_of(values: ConfigDict | dict) -> Context:
    kind = TaskContext if values["kind"] in TaskContext.kinds else Context
    return build(kind, dict(values), "context")


def grammar_of(config: ConfigDict) -> Grammar | None:
    """The grammar of all that is said (`evaluation.grammar`, its folder); None: there is none."""
    root = config.evaluation.get("grammar", "")
    return Grammar.read(Path(root)) if root else None


def axes_of(config: ConfigDict, stage: ConfigDict) -> dict:
    """How a stage shares the devices (`sharding.make_mesh`): as its own `mesh` says, else as the
    whole run does."""
    return dict(stage.get("mesh", config.mesh))


def saved_steps(stage: Path) -> list[int]:
    """The steps of a stage's finished checkpoints, sorted."""
    return sorted(int(p.name) for p in (stage / "steps").glob("*") if p.name.isdigit())


def steps_of(stage: Path) -> int:
    """Steps of a stage's latest finished checkpoint; 0: none."""
    return max(saved_steps(stage), default=0)


def keep(path: Path, config: ConfigDict) -> None:
    """Keeps the config beside the run, for the report."""
    write_text(path, json.dumps(json.loads(config.to_json()), indent=1) + "\n")
