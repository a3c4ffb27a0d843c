"""WavLM checkpoints of Hugging Face: their config and where our parameters stand in them."""

from speechdst.data.dialogue import BadInput
from speechdst.hf.table import CONV1D, LINEAR, Table, Tensor, prefixed
from speechdst.models.audio_encoder.wavlm import WavLMConfig

# Regular expressions of tensors that are in such checkpoints and that nothing here needs: the
# vector that replaces masked frames in its own pretraining, and what task heads add outside of
# "wavlm.". Any other tensor that the table does not name is an error.
IGNORED = (r"^(wavlm\.)?masked_spec_embed$",
           r"^(lm_head|projector|classifier|layer_weights|tdnn|objective)\b",
           r"^feature_extractor\.(weight|bias)$")


def config(values: dict, preprocessor: dict | None = None, file="config.json") -> WavLMConfig:
    """Our config from config.json and, where it is at hand, preprocessor_config.json.

    Without the latter, clips are normalised if the convolutions have LayerNorms, as in the large
    model. Raises `BadInput` for another family and for settings that are not supported.
    """
    expected = {"model_type": "wavlm", "hidden_act": "gelu", "feat_extract_activation": "gelu",
                "add_adapter": False}
    for field, value in expected.items():
        if (found := values.get(field, None if field == "model_type" else value)) != value:
            raise BadInput(f"{found!r}, expected {value!r}", file=file, field=field,
                           mend="name the folder of a WavLM model")
    get = values.get
    layer = get("feat_extract_norm", "group") == "layer"
    normalize = (preprocessor or {}).get("do_normalize", layer)
    try:
        return WavLMConfig(
            width=get("hidden_size", 768), layers=get("num_hidden_layers", 12),
            heads=get("num_attention_heads", 12), mlp_width=get("intermediate_size", 3072),
            conv_channels=tuple(get("conv_dim", (512,) * 7)),
            taps=tuple(get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))),
            strides=tuple(get("conv_stride", (5, 2, 2, 2, 2, 2, 2))),
            conv_bias=get("conv_bias", False), conv_norm=get("feat_extract_norm", "group"),
            pre_norm=get("do_stable_layer_norm", False),
            position_taps=get("num_conv_pos_embeddings", 128),
            position_groups=get("num_conv_pos_embedding_groups", 16),
            buckets=get("num_buckets", 320), max_distance=get("max_bucket_distance", 800),
            epsilon=get("layer_norm_eps", 1e-5), normalize=bool(normalize))
    except ValueError as error:
        raise BadInput(str(error), file=file) from error


def _norm(ours: str, theirs: str) -> Table:
    return {f"{ours}/scale": Tensor(f"{theirs}.weight"), f"{ours}/bias": Tensor(f"{theirs}.bias")}


def _linear(ours: str, theirs: str) -> Table:
    return {f"{ours}/kernel": Tensor(f"{theirs}.weight", LINEAR),
            f"{ours}/bias": Tensor(f"{theirs}.bias")}


def table(config: WavLMConfig) -> Table:
    """Our flat parameter path -> tensor, of the bare model or in a task head's."""
    result: Table = {}
    for i in range(len(config.conv_channels)):
        name = f"feature_extractor.conv_layers.{i}"
        result[f"convs/{i}/kernel"] = Tensor(f"{name}.conv.weight", CONV1D)
        if config.conv_bias:
            result[f"convs/{i}/bias"] = Tensor(f"{name}.conv.bias")
        if i == 0 or config.conv_norm == "layer":
            result |= _norm(f"conv_norms/{i}", f"{name}.layer_norm")
    result |= _norm("project_norm", "feature_projection.layer_norm")
    result |= _linear("project", "feature_projection.projection")
    # Weight norm has two spellings: torch's parametrization, and the older one of the hub's files.
    conv = "encoder.pos_conv_embed.conv"
    result |= {
        "position_conv/magnitude": Tensor(f"{conv}.parametrizations.weight.original0", CONV1D,
                                          (f"{conv}.weight_g",)),
        "position_conv/direction": Tensor(f"{conv}.parametrizations.weight.original1", CONV1D,
                                          (f"{conv}.weight_v",)),
        "position_conv/bias": Tensor(f"{conv}.bias"),
        # Looked up once: only the first layer has it.
        "relative_bias": Tensor("encoder.layers.0.attention.rel_attn_embed.weight")}
    layer = "encoder.layers.{i}"
    for ours, theirs in (("q", "attention.q_proj"), ("k", "attention.k_proj"),
                         ("v", "attention.v_proj"), ("o", "attention.out_proj"),
                         ("bias_gate", "attention.gru_rel_pos_linear"),
                         ("up", "feed_forward.intermediate_dense"),
                         ("down", "feed_forward.output_dense")):
        result |= _linear(f"blocks/{ours}", f"{layer}.{theirs}")
    result["blocks/gate_scale"] = Tensor(f"{layer}.attention.gru_rel_pos_const")
    result |= _norm("blocks/attention_norm", f"{layer}.layer_norm")
    result |= _norm("blocks/mlp_norm", f"{layer}.final_layer_norm")
    return prefixed(result | _norm("norm", "encoder.layer_norm"), "", "wavlm.")
