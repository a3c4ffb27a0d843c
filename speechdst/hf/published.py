"""Published decoders by name: what of their config.json says what they are.

So a recipe knows its sizes before any checkpoint is at hand; the folder's own config.json is
checked against it when weights are loaded.
"""

from speechdst.data.dialogue import BadInput
from speechdst.hf.decoders import decoder_config
from speechdst.models.decoder import DecoderConfig


def _sizes(width, layers, heads, kv_heads, head_dim, mlp, vocabulary, tied) -> dict:
    return dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv_heads, head_dim=head_dim, intermediate_size=mlp,
                vocab_size=vocabulary, tie_word_embeddings=tied)


def _gemma2(*sizes) -> dict:
    return dict(model_type="gemma2", **_sizes(*sizes, 256000, True), query_pre_attn_scalar=256,
                sliding_window=4096, attn_logit_softcapping=50.0, final_logit_softcapping=30.0)


def _gemma3(*sizes, window, vocabulary, **more) -> dict:
    return dict(model_type="gemma3_text", **_sizes(*sizes, vocabulary, True),
                query_pre_attn_scalar=256, sliding_window=window, sliding_window_pattern=6,
                rope_theta=1e6, rope_local_base_freq=1e4, **more)


def _qwen2(*sizes) -> dict:
    return dict(model_type="qwen2", **_sizes(*sizes), rms_norm_eps=1e-6, rope_theta=1e6,
                use_sliding_window=False)


def _qwen3(*sizes) -> dict:
    return dict(model_type="qwen3", **_sizes(*sizes, 151936, True), rms_norm_eps=1e-6,
                rope_theta=1e6)


def _llama3(*sizes) -> dict:
    scaling = dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=8192)
    return dict(model_type="llama", **_sizes(*sizes, 128256, True), rms_norm_eps=1e-5,
                rope_theta=5e5, rope_scaling=scaling)


_LINEAR = dict(rope_scaling=dict(rope_type="linear", factor=8.0))
CONFIGS = {
    "olmo-1b": dict(model_type="olmo", clip_qkv=None, rope_theta=1e4,
                    **_sizes(2048, 16, 16, 16, 128, 8192, 50304, True)),
    "olmo2-1b": dict(model_type="olmo2", rms_norm_eps=1e-6, rope_theta=5e5,
                     **_sizes(2048, 16, 16, 16, 128, 8192, 100352, False)),
    "gemma2-2b": _gemma2(2304, 26, 8, 4, 256, 9216),
    "gemma2-9b": _gemma2(3584, 42, 16, 8, 256, 14336),
    "gemma3-1b": _gemma3(1152, 26, 4, 1, 256, 6912, window=512, vocabulary=262144),
    # The text parts of the multi-modal models.
    "gemma3-4b": _gemma3(2560, 34, 8, 4, 256, 10240, window=1024, vocabulary=262208, **_LINEAR),
    "gemma3-12b": _gemma3(3840, 48, 16, 8, 256, 15360, window=1024, vocabulary=262208, **_LINEAR),
    "qwen2.5-0.5b": _qwen2(896, 24, 14, 2, 64, 4864, 151936, True),
    "qwen2.5-1.5b": _qwen2(1536, 28, 12, 2, 128, 8960, 151936, True),
    "qwen2.5-3b": _qwen2(2048, 36, 16, 2, 128, 11008, 151936, True),
    "qwen2.5-7b": _qwen2(3584, 28, 28, 4, 128, 18944, 152064, False),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 8, 128, 3072),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 8, 128, 6144),
    "llama3.2-1b": _llama3(2048, 16, 32, 8, 64, 8192),
    "llama3.2-3b": _llama3(3072, 28, 24, 8, 128, 8192),
}


def decoder(name: str) -> DecoderConfig:
    """The config of a published decoder. Raises `BadInput` naming those that there are."""
    if name not in CONFIGS:
        raise BadInput(f"no decoder {name!r}, there are {', '.join(CONFIGS)}",
                       field="model.decoder")
    return decoder_config(CONFIGS[name], f"published decoder {name}")
