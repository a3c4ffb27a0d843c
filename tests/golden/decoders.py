"""What the golden files of the decoders are made of: configs, weights and inputs by rule.

Nothing here needs torch or JAX: `make_decoders.py` feeds it to the reference, the tests to ours.
"""

import zlib

import numpy as np

VOCABULARY, LENGTH = 61, 23
SHOWN = (0, 6, 13, 22)  # positions whose outputs are stored


def _sizes(width, layers, heads, kv_heads, head_dim, mlp, tied, **more) -> dict:
    return dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv_heads, intermediate_size=mlp, vocab_size=VOCABULARY,
                tie_word_embeddings=tied, max_position_embeddings=64,
                **dict(head_dim=head_dim) if head_dim else {}, **more)


def _llama3(factor, context) -> dict:
    return dict(rope_scaling=dict(
        rope_type="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=context))


# Windows are shorter than the input, caps and clips at the size of what they bound, and the
# original context of Llama's scaling as short as the input, so that all are felt.
_GEMMA2 = dict(rms_norm_eps=1e-6, attn_logit_softcapping=1.5, final_logit_softcapping=2.0)
_GEMMA3 = dict(rms_norm_eps=1e-6, rope_theta=5e4, rope_local_base_freq=100.0)
CASES = {
    "llama": (
        _sizes(24, 3, 3, 1, 8, 40, True, rope_theta=5e4, rms_norm_eps=1e-5, **_llama3(8.0, 64)),
        _sizes(20, 2, 5, 5, 4, 36, False, rope_theta=1e4, rms_norm_eps=1e-6),
        _sizes(24, 2, 6, 3, 4, 30, False, rope_theta=100.0, rms_norm_eps=1e-5,
               rope_scaling=dict(rope_type="linear", factor=4.0)),
    ),
    "qwen2": (
        _sizes(24, 3, 3, 1, 0, 40, True, rope_theta=1e6, rms_norm_eps=1e-6),
        _sizes(20, 2, 5, 5, 0, 36, False, rope_theta=1e4, rms_norm_eps=1e-6),
        _sizes(24, 4, 6, 3, 0, 30, True, rope_theta=1e4, rms_norm_eps=1e-5,
               use_sliding_window=True, sliding_window=7, max_window_layers=2),
    ),
    "qwen3": (
        _sizes(24, 3, 3, 1, 10, 40, True, rope_theta=1e6, rms_norm_eps=1e-6),
        _sizes(20, 2, 5, 5, 6, 36, False, rope_theta=1e4, rms_norm_eps=1e-6),
        _sizes(24, 2, 6, 2, 8, 30, True, rope_theta=1e4, rms_norm_eps=1e-5),
    ),
    "olmo": (
        _sizes(24, 3, 3, 3, 0, 40, True, rope_theta=1e4),
        _sizes(20, 2, 5, 5, 0, 36, False, rope_theta=1e4, clip_qkv=0.4),
        _sizes(24, 2, 6, 3, 0, 30, False, rope_theta=5e5, clip_qkv=1.0),
    ),
    "olmo2": (
        _sizes(24, 3, 3, 1, 0, 40, False, rope_theta=5e5, rms_norm_eps=1e-6),
        _sizes(20, 2, 5, 5, 0, 36, True, rope_theta=1e4, rms_norm_eps=1e-5),
        _sizes(24, 2, 6, 3, 0, 30, False, rope_theta=1e4, rms_norm_eps=1e-6),
    ),
    "gemma2": (
        _sizes(24, 3, 3, 1, 10, 40, True, query_pre_attn_scalar=7, sliding_window=5, **_GEMMA2),
        _sizes(20, 2, 5, 5, 8, 36, False, query_pre_attn_scalar=8, sliding_window=9, **_GEMMA2),
        _sizes(24, 4, 6, 3, 4, 30, True, query_pre_attn_scalar=256, sliding_window=1,
               **_GEMMA2 | dict(attn_logit_softcapping=None, final_logit_softcapping=None)),
    ),
    "gemma3_text": (
        _sizes(24, 4, 3, 1, 10, 40, True, query_pre_attn_scalar=7, sliding_window=5,
               sliding_window_pattern=3, **_GEMMA3),
        _sizes(20, 2, 5, 5, 8, 36, False, query_pre_attn_scalar=8, sliding_window=9,
               sliding_window_pattern=2, **_GEMMA3),
        _sizes(24, 3, 6, 2, 4, 30, True, query_pre_attn_scalar=4, sliding_window=3,
               sliding_window_pattern=2, **_GEMMA3,
               rope_scaling=dict(rope_type="linear", factor=8.0)),
    ),
}
NAMES = [f"{family}{i}" for family, cases in CASES.items() for i in range(len(cases))]


def values(name: str) -> dict:
    """The config.json of a case, e.g. of "llama0"."""
    return dict(model_type=name[:-1], **CASES[name[:-1]][int(name[-1])])


def draw(name: str, shape) -> np.ndarray:
    """The weight of a Hugging Face tensor: float32, by its name alone, none of it special."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("norm.weight"):
        return np.float32(0.8) + np.float32(0.2) * x
    if name.endswith(".bias"):
        return np.float32(0.3) * x
    return x * np.float32(1.5 * shape[-1] ** -0.5)


def tokens() -> np.ndarray:
    """Input ids, int64 [1, LENGTH]."""
    return np.random.default_rng(1).integers(0, VOCABULARY, (1, LENGTH))


def soft(width: int) -> np.ndarray:
    """Soft vectors for positions 3 to 9, float32 [1, 6, width]."""
    return np.random.default_rng(2).standard_normal((1, 6, width)).astype(np.float32)
