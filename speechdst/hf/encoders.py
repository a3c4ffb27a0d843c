"""Speech encoders of Hugging Face: a folder of config.json and safetensors in and out."""

import dataclasses
import json
from pathlib import Path

from speechdst.data.dialogue import BadInput
from speechdst.files import read_object, write_text
from speechdst.hf import checkpoint, wavlm, whisper
from speechdst.hf.decoders import read_config
from speechdst.models.audio_encoder.wavlm import WAVLM_BASE, WAVLM_LARGE, WavLMConfig
from speechdst.models.audio_encoder.whisper import SIZES, WhisperConfig

EncoderConfig = WavLMConfig | WhisperConfig
FAMILIES = {"wavlm": wavlm, "whisper": whisper}
PUBLISHED: dict[str, EncoderConfig] = {
    "wavlm-base": WAVLM_BASE, "wavlm-base-plus": WAVLM_BASE, "wavlm-large": WAVLM_LARGE,
    **{f"whisper-{name}": config for name, config in SIZES.items()}}
# What a recipe may choose freely: these change what is fed or how it is computed, not the weights.
_OURS = ("normalize", "leak_padding", "window", "remat")


def encoder(name: str) -> EncoderConfig:
    """The config of a published encoder. Raises `BadInput` naming those that there are."""
    if name not in PUBLISHED:
        raise BadInput(f"no encoder {name!r}, there are {', '.join(PUBLISHED)}",
                       field="model.encoder")
    return PUBLISHED[name]


def encoder_config(folder: str | Path) -> EncoderConfig:
    """The encoder of a checkpoint's folder.

    Raises:
      BadInput: no config.json, another family, or settings that are not supported.
    """
    file = Path(folder) / "config.json"
    values = read_config(folder)
    if values.get("model_type") not in FAMILIES:
        raise BadInput(f"{values.get('model_type')!r} is no speech encoder that we have, expected "
                       f"one of {', '.join(FAMILIES)}", file=file, field="model_type",
                       mend="use a checkpoint of one of these families")
    if values["model_type"] == "whisper":
        return whisper.config(values, file=file)
    return wavlm.config(values, _preprocessor(Path(folder)), file)


def _preprocessor(folder: Path) -> dict | None:
    path = folder / "preprocessor_config.json"
    return read_object(path) if path.exists() else None


def check(found: EncoderConfig, expected: EncoderConfig, file: str | Path) -> None:
    """Raises `BadInput` naming what the checkpoint's encoder and the recipe's differ in."""
    flat = lambda c: {"kind": c.kind} | {
        k: v for k, v in dataclasses.asdict(c).items() if k not in _OURS}
    a, b = flat(found), flat(expected)
    if differ := [f"{k} {a.get(k)!r} instead of {b[k]!r}" for k in b if a.get(k) != b[k]]:
        raise BadInput(f"the checkpoint is of another model: {'; '.join(differ[:5])}", file=file,
                       mend="point at the checkpoint of the model that the recipe names")


def load(folder: str | Path, config: EncoderConfig, template: dict, progress: bool = False) -> dict:
    """Parameters of the encoder of `config` from a folder.

    Args: template: path -> shape, dtype and sharding, of the paths of the family's table.
    Raises: `BadInput` as `encoder_config`, `check` and `checkpoint.load` do; nothing was loaded.
    """
    check(encoder_config(folder), config, Path(folder) / "config.json")
    family = FAMILIES[config.kind]
    return checkpoint.load(folder, family.table(config), template, family.IGNORED,
                           progress=progress)


def save(folder: str | Path, params: dict, config: EncoderConfig, values: dict, dtype=None) -> None:
    """Writes an encoder's folder: safetensors and config.json.

    Args:
      values: the config.json that the encoder came with.
      dtype: of the tensors, None: as the parameters are.

    Of Whisper the encoder alone is written, under the names that it has in the whole model.
    """
    family = FAMILIES[config.kind]
    check(family.config(values), config, "config.json")
    checkpoint.save(folder, params, family.table(config), dtype)
    # The vector for masked frames was not kept, so the reference must not look for it.
    kept = values | {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    if config.kind == "wavlm":
        kept["architectures"] = ["WavLMModel"]
    write_text(Path(folder) / "config.json", json.dumps(kept, indent=2) + "\n")
