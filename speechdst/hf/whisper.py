"""Whisper checkpoints of Hugging Face: their config and where our encoder stands in them."""

from speechdst.data.dialogue import BadInput
from speechdst.hf.table import CONV1D, LINEAR, Table, Tensor, prefixed
from speechdst.models.audio_encoder.whisper import WhisperConfig

# Regular expressions of tensors that nothing here needs: the decoder, its output projection, and
# what audio classification adds. Any other tensor that the table does not name is an error.
IGNORED = (r"^(model\.)?decoder\.", r"^proj_out\.", r"^(projector|classifier|layer_weights)\b")


def config(values: dict, window: str = "short", file="config.json") -> WhisperConfig:
    """Our config from config.json; `window` is ours to choose (see `WhisperConfig`).

    Raises `BadInput` for another family and for settings that are not supported.
    """
    for field, value in (("model_type", "whisper"), ("activation_function", "gelu")):
        if (found := values.get(field, None if field == "model_type" else value)) != value:
            raise BadInput(f"{found!r}, expected {value!r}", file=file, field=field,
                           mend="name the folder of a Whisper model")
    get = values.get
    try:
        return WhisperConfig(
            width=get("d_model", 384), layers=get("encoder_layers", 4),
            heads=get("encoder_attention_heads", 6), mlp_width=get("encoder_ffn_dim", 1536),
            mels=get("num_mel_bins", 80), positions=get("max_source_positions", 1500),
            window=window)
    except ValueError as error:
        raise BadInput(str(error), file=file) from error


def table(config: WhisperConfig) -> Table:
    """Our flat parameter path -> tensor, of a whole Whisper, headless or not, or its encoder."""
    layer = "layers.{i}"
    result: Table = {"positions": Tensor("embed_positions.weight")}
    for i in range(2):
        result |= {f"convs/{i}/kernel": Tensor(f"conv{i + 1}.weight", CONV1D),
                   f"convs/{i}/bias": Tensor(f"conv{i + 1}.bias")}
    for ours, theirs in (("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"),
                         ("v", "self_attn.v_proj"), ("o", "self_attn.out_proj"),
                         ("up", "fc1"), ("down", "fc2")):
        result[f"blocks/{ours}/kernel"] = Tensor(f"{layer}.{theirs}.weight", LINEAR)
        if ours != "k":
            result[f"blocks/{ours}/bias"] = Tensor(f"{layer}.{theirs}.bias")
    for ours, theirs in (("blocks/attention_norm", f"{layer}.self_attn_layer_norm"),
                         ("blocks/mlp_norm", f"{layer}.final_layer_norm"),
                         ("norm", "layer_norm")):
        result |= {f"{ours}/scale": Tensor(f"{theirs}.weight"),
                   f"{ours}/bias": Tensor(f"{theirs}.bias")}
    return prefixed(result, "model.encoder.", "encoder.", "")
