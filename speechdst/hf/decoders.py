"""Decoders of Hugging Face: config.json to `DecoderConfig`, and where each parameter stands.

Families by `model_type`: llama (3.x), qwen2 (Qwen 2.5), qwen3, olmo, olmo2, gemma2, gemma3_text,
and the text part of gemma3. Layouts were read from the reference implementation, transformers
4.57 and 5.23.
"""

import json
from pathlib import Path

from speechdst.data.dialogue import BadInput
from speechdst.files import read_object, write_text
from speechdst.hf import checkpoint
from speechdst.hf.table import LINEAR, Table, Tensor
from speechdst.models.decoder import DecoderConfig
from speechdst.models.transformer import TransformerConfig

# What a config.json leaves out has these values (the reference's own).
_GEMMA = dict(rms_norm_eps=1e-6, tie_word_embeddings=True, head_dim=256, num_attention_heads=8,
              num_key_value_heads=4, query_pre_attn_scalar=256, sliding_window=4096,
              hidden_activation="gelu_pytorch_tanh")
DEFAULTS = {
    "llama": dict(rms_norm_eps=1e-6),
    "qwen2": dict(rms_norm_eps=1e-6, max_window_layers=28),
    "qwen3": dict(rms_norm_eps=1e-6, max_window_layers=28, head_dim=128),
    "olmo": {},
    "olmo2": dict(rms_norm_eps=1e-5),
    "gemma2": _GEMMA | dict(vocab_size=256000, attn_logit_softcapping=50.0,
                            final_logit_softcapping=30.0, sliding_window_pattern=2),
    "gemma3_text": _GEMMA | dict(vocab_size=262208, sliding_window_pattern=6,
                                 rope_theta=1e6, rope_local_base_freq=1e4),
}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh",
                "gelu_pytorch_tanh": "gelu_tanh"}
# Settings that change what is computed and that no model of these families needs so far.
_UNSUPPORTED = ("attention_bias", "mlp_bias", "use_bidirectional_attention", "quantization_config")


def read_config(folder: str | Path) -> dict:
    """The config.json of a checkpoint's folder. Raises `BadInput` if there is none."""
    return read_object(Path(folder) / "config.json",
                       "point at the folder of a downloaded checkpoint")


def decoder_config(values: dict, file: str | Path = "") -> DecoderConfig:
    """The decoder that a config.json describes (without LoRA).

    Raises:
      BadInput: another family, a setting is missing, or it asks for something we do not compute.
    """
    values, family = text_part(values), values.get("model_type")
    family = "gemma3_text" if family == "gemma3" else family
    if family not in DEFAULTS:
        raise BadInput(f"{family!r} is no family that we have, expected one of "
                       f"{', '.join(DEFAULTS)}", file=file, field="model_type",
                       mend="use a checkpoint of one of these families")
    c = DEFAULTS[family] | {k: v for k, v in values.items() if v is not None}
    # An explicit null switches a cap off; it does not ask for the default.
    c |= {k: 0.0 for k in ("attn_logit_softcapping", "final_logit_softcapping")
          if k in values and values[k] is None}
    for name in _UNSUPPORTED:
        if c.get(name):
            raise BadInput(f"is {c[name]!r}, which we do not compute", file=file, field=name,
                           mend="use another checkpoint")
    gemma = family.startswith("gemma")
    activation = c.get("hidden_activation" if gemma else "hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        raise BadInput(f"{activation!r}, expected one of {', '.join(_ACTIVATIONS)}", file=file,
                       field="hidden_act")
    try:
        width, heads = c["hidden_size"], c["num_attention_heads"]
        transformer = TransformerConfig(
            width=width, layers=c["num_hidden_layers"], heads=heads,
            kv_heads=c.get("num_key_value_heads") or heads, head_dim=c.get("head_dim") or 0,
            mlp_width=c["intermediate_size"], gated=True, activation=_ACTIVATIONS[activation],
            bias=False, qkv_bias=family == "qwen2", rms=family != "olmo",
            norm_affine=family != "olmo", norm_offset=float(gemma),
            norm_epsilon=float(c.get("rms_norm_eps", 1e-5)), pre_norm=family != "olmo2",
            post_norm=gemma or family == "olmo2",
            qk_norm={"qwen3": "head", "gemma3_text": "head", "olmo2": "full"}.get(family, ""),
            clip_qkv=float(c.get("clip_qkv", 0.0)),
            query_scale=float(c["query_pre_attn_scalar"]) ** -0.5 if gemma else 0.0,
            score_cap=float(c.get("attn_logit_softcapping", 0.0)),
            windows=_windows(family, c), **_rope(c, file))
        return DecoderConfig(
            transformer, vocabulary=c["vocab_size"], tied=bool(c.get("tie_word_embeddings")),
            embedding_scale=float(width) ** 0.5 if gemma else 1.0,
            # Up to transformers 4 soft vectors of Gemma 2 are scaled as well. The published speech
            # models were trained so.
            scale_soft=family == "gemma2", logit_cap=float(c.get("final_logit_softcapping", 0.0)))
    except KeyError as error:
        raise BadInput("missing", file=file, field=str(error.args[0]),
                       mend="take the whole config.json of the checkpoint") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"not a config of {family} ({error})", file=file) from error


def text_part(values: dict) -> dict:
    """What a config.json says of the language model: of gemma3 its `text_config`."""
    if values.get("model_type") != "gemma3":
        return values
    shared = ("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    own = {k: values[k] for k in shared if k in values}
    return {**(values.get("text_config") or {}), **own, "model_type": "gemma3_text"}


def _windows(family: str, c: dict) -> tuple[int, ...]:
    """The window of every layer, 0: none; empty if no layer has one."""
    layers, window = range(c["num_hidden_layers"]), c.get("sliding_window") or 0
    if family.startswith("qwen") and not c.get("use_sliding_window"):
        window = 0
    if kinds := c.get("layer_types"):
        if len(kinds) != len(layers):
            raise ValueError(f"{len(kinds)} layer_types for {len(layers)} layers")
        local = [kind == "sliding_attention" for kind in kinds]
    elif family.startswith("qwen"):
        local = [i >= c["max_window_layers"] for i in layers]
    elif family.startswith("gemma"):
        local = [(i + 1) % c["sliding_window_pattern"] > 0 for i in layers]
    else:
        return ()
    return tuple(window if x else 0 for x in local) if window and any(local) else ()


def _rope(c: dict, file) -> dict:
    """Rotary settings, as transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters) write
    them; Gemma 3 has one set for layers with a window and one for the others."""
    own = c.get("rope_parameters") or {}
    local = own.get("sliding_attention") or {}
    own = own.get("full_attention") or own
    scaling = c.get("rope_scaling") or own
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    numbers = {"default": (), "linear": ("factor",),
               "llama3": ("factor", "low_freq_factor", "high_freq_factor",
                          "original_max_position_embeddings")}
    if kind not in numbers or local.get("rope_type", "default") != "default":
        raise BadInput(f"rotary scaling {kind!r}, expected one of {', '.join(numbers)}", file=file,
                       field="rope_scaling", mend="use a checkpoint without it")
    return dict(rope_theta=float(own.get("rope_theta", c.get("rope_theta", 1e4))),
                rope_local_theta=float(local.get("rope_theta", c.get("rope_local_base_freq", 0))),
                rope_scaling=tuple(float(scaling[n]) for n in numbers[kind]))


def table(config: DecoderConfig) -> Table:
    """Our parameter paths (of `Decoder`) -> tensors. The families share their names; the config
    says which of them there are, and which norm stands where."""
    t = config.transformer
    # Before and after attention, then before and after the MLP.
    norms = {(True, False): ("input", "", "post_attention", ""),
             (False, True): ("", "post_attention", "", "post_feedforward"),
             (True, True): ("input", "post_attention", "pre_feedforward", "post_feedforward")}
    places = ("attention_norm", "attention_post_norm", "mlp_norm", "mlp_post_norm")
    entries = {"embedding": "embed_tokens.weight"}
    layer: dict[str, str] = {}
    if t.norm_affine:
        entries["transformer/norm/scale"] = "norm.weight"
        layer |= {f"{place}/scale": f"{name}_layernorm.weight" for place, name in zip(
            places, norms[t.pre_norm, t.post_norm], strict=True) if name}
    if t.qk_norm:
        layer |= {f"{x}_norm/scale": f"self_attn.{x}_norm.weight" for x in "qk"}
    for x in "qkvo":
        layer[f"{x}/kernel"] = f"self_attn.{x}_proj.weight"
    if t.qkv_bias:
        layer |= {f"{x}/bias": f"self_attn.{x}_proj.bias" for x in "qkv"}
    for x in ("gate", "up", "down"):
        layer[f"{x}/kernel"] = f"mlp.{x}_proj.weight"
    entries |= {f"transformer/blocks/{path}": f"layers.{{i}}.{name}"
                for path, name in layer.items()}
    made = {path: _tensor(f"model.{name}", LINEAR if path.endswith("/kernel") else None)
            for path, name in entries.items()}
    if not config.tied:
        made["lm_head/kernel"] = _tensor("lm_head.weight", LINEAR)
    return made


def _tensor(name: str, axes) -> Tensor:
    """With the names that multi-modal models (`language_model`) and bare towers give it."""
    bare = name.removeprefix("model.")
    return Tensor(name, axes, (f"language_model.{name}", f"model.language_model.{bare}", bare))


def ignored(config: DecoderConfig) -> tuple[str, ...]:
    """Tensors that checkpoints may hold beside the decoder's: buffers of old versions, a copy of
    tied embeddings, the vision part of multi-modal models."""
    tied = (r"(^|\.)lm_head\.weight$",) if config.tied else ()
    return (*tied, r"\.rotary_emb\.inv_freq$",
            r"^(model\.)?(vision_tower|multi_modal_projector)\.")


def check(found: DecoderConfig, expected: DecoderConfig, file: str | Path) -> None:
    """Raises `BadInput` naming what the checkpoint's decoder and the recipe's differ in; LoRA and
    rematerialisation are the recipe's alone."""
    own = ("lora_rank", "lora_alpha", "remat")
    flat = lambda c: {k: v for k, v in {**vars(c), **vars(c.transformer)}.items()
                      if k != "transformer" and k not in own}
    a, b = flat(found), flat(expected)
    if differ := [f"{k} {a[k]!r} instead of {b[k]!r}" for k in a if a[k] != b[k]]:
        raise BadInput(f"the checkpoint is of another model: {'; '.join(differ[:5])}", file=file,
                       mend="point at the checkpoint of the model that the recipe names")


def load(folder: str | Path, config: DecoderConfig, template: dict, progress: bool = False) -> dict:
    """Parameters of `Decoder` (without LoRA) from a folder of config.json and safetensors.

    Args: template: path -> shape, dtype and sharding, of the paths of `table(config)`.
    Raises: `BadInput` as `decoder_config`, `check` and `checkpoint.load` do; nothing was loaded.
    """
    file = Path(folder) / "config.json"
    check(decoder_config(read_config(folder), file), config, file)
    return checkpoint.load(folder, table(config), template, ignored(config), progress=progress)


def save(folder: str | Path, params: dict, config: DecoderConfig, values: dict, dtype=None,
         shard_bytes: int = 5_000_000_000) -> None:
    """Writes a decoder's folder: safetensors and config.json.

    Args:
      params: of `Decoder`, with LoRA merged (`models.lora.merge`).
      values: the config.json that the decoder came with.
      dtype: of the tensors, None: as the parameters are.
    """
    from_values = decoder_config(values, "config.json")
    check(from_values, config, "config.json")
    dtype = dtype or params["embedding"].dtype
    checkpoint.save(folder, params, table(config), dtype, shard_bytes=shard_bytes)
    kept = {k: v for k, v in text_part(values).items() if k not in ("torch_dtype", "_name_or_path")}
    kept |= {"architectures": [ARCHITECTURES[kept["model_type"]]], "dtype": str(dtype),
             "torch_dtype": str(dtype)}
    write_text(Path(folder) / "config.json", json.dumps(kept, indent=2) + "\n")


ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM",
                 "qwen3": "Qwen3ForCausalLM", "olmo": "OlmoForCausalLM",
                 "olmo2": "Olmo2ForCausalLM", "gemma2": "Gemma2ForCausalLM",
                 "gemma3_text": "Gemma3ForCausalLM"}
