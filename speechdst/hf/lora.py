"""LoRA in peft's adapter format: adapter_config.json and adapter_model.safetensors."""

import json
from pathlib import Path

from speechdst.data.dialogue import BadInput
from speechdst.files import read_object, write_text
from speechdst.hf import checkpoint
from speechdst.hf.table import LINEAR, Table, Tensor

CONFIG, STEM = "adapter_config.json", "adapter_model"
# Settings of peft that change what an adapter computes; we have none of them.
_OFF = {"use_dora": False, "use_rslora": False, "fan_in_fan_out": False, "rank_pattern": {},
        "alpha_pattern": {}, "modules_to_save": None, "layers_to_transform": None,
        "layer_replication": None, "trainable_token_indices": None, "target_parameters": None,
        "bias": "none"}


def is_lora(path: str) -> bool:
    """Whether a parameter belongs to the adapter."""
    return path.rpartition("/")[2] in ("lora_a", "lora_b")


def table(base: Table, params) -> Table:
    """The table of the LoRA parameters among the paths `params`, by the table of their kernels."""
    made = {}
    for path in params:
        name, _, last = path.rpartition("/")
        if last in ("lora_a", "lora_b"):
            kernel = base[f"{name}/kernel"]
            rename = lambda n, last=last: (f"base_model.model.{n.removesuffix('.weight')}."
                                           f"lora_{last[-1].upper()}.weight")
            made[path] = Tensor(rename(kernel.name), LINEAR, tuple(map(rename, kernel.aliases)))
    return made


def save(folder: str | Path, params: dict, base: Table, rank: int, alpha: float,
         base_model: str) -> None:
    """Writes the LoRA parameters among `params` as an adapter that peft loads.

    Args:
      base: the table of the tower that they belong to.
      base_model: name or folder of the model that the adapter is for.
    """
    chosen = {p: v for p, v in params.items() if is_lora(p)}
    own = table(base, chosen)
    checkpoint.save(folder, chosen, own, stem=STEM)
    modules = sorted({t.name.split(".")[-3] for t in own.values()})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model,
              "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "target_modules": modules,
              "inference_mode": True, "bias": "none", "fan_in_fan_out": False}
    write_text(Path(folder) / CONFIG, json.dumps(config, indent=2) + "\n")


def load(folder: str | Path, template: dict, base: Table, rank: int, alpha: float,
         progress: bool = False) -> dict:
    """The LoRA parameters of an adapter, as `template` (their paths alone) says.

    Raises:
      BadInput: not a LoRA adapter, another rank or alpha, a variant that we do not compute, or
        tensors are missing, extra or misshapen.
    """
    path = Path(folder) / CONFIG
    config = read_object(path, "point at the folder of a peft adapter")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise BadInput(f"is {kind!r}, expected 'LORA'", file=path, field="peft_type")
    for name, value in (("r", rank), ("lora_alpha", alpha)):
        if config.get(name) != value:
            raise BadInput(f"is {config.get(name)!r}, this model has {value!r}", file=path,
                           field=name, mend="set lora_rank and lora_alpha as the adapter's")
    for name, off in _OFF.items():
        if (config.get(name) or off) != off:
            raise BadInput(f"is {config[name]!r}, which we do not compute", file=path, field=name)
    return checkpoint.load(folder, table(base, template), template, stem=STEM, progress=progress)
