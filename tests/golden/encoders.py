"""What the golden files of the speech encoders are made of: configs, weights and clips by rule.

Nothing here needs torch or JAX: `make_encoders.py` feeds it to the reference, the tests to ours.
"""

import zlib

import numpy as np

# Tiny models in the words of Hugging Face's configs. Odd numbers of heads and of taps, one real
# stack of convolutions of either sort, clips that reach the logarithmic buckets and their end.
_CONVS = (
    dict(conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4),
    dict(conv_dim=[6, 10, 12], conv_kernel=[10, 3, 2], conv_stride=[5, 2, 2], conv_bias=True,
         num_conv_pos_embeddings=7, num_conv_pos_embedding_groups=5, num_buckets=32,
         max_bucket_distance=20),
    dict(conv_dim=[8, 6], conv_kernel=[10, 4], conv_stride=[5, 4], num_conv_pos_embeddings=128,
         num_conv_pos_embedding_groups=2),
)
_TOWERS = (
    dict(hidden_size=24, num_attention_heads=3, num_hidden_layers=3, intermediate_size=40),
    dict(hidden_size=20, num_attention_heads=5, num_hidden_layers=2, intermediate_size=36),
    dict(hidden_size=16, num_attention_heads=1, num_hidden_layers=2, intermediate_size=30),
)
SIZES = ((3337, 2001), (1003, 400), (18_000, 9001))  # samples of the longer and the shorter clip
WAVLM = {
    f"{kind}{i}": dict(
        model_type="wavlm", **convs, **tower, num_feat_extract_layers=len(convs["conv_dim"]),
        feat_extract_norm="layer" if kind == "large" else "group",
        do_stable_layer_norm=kind == "large")
    for kind in ("base", "large") for i, (convs, tower) in
    enumerate(zip(_CONVS, _TOWERS, strict=True))
}  # fmt: skip
WHISPER = {
    f"whisper{i}": dict(
        model_type="whisper", d_model=width, encoder_layers=layers, encoder_attention_heads=heads,
        encoder_ffn_dim=ffn, num_mel_bins=mels, max_source_positions=positions)
    for i, (width, layers, heads, ffn, mels, positions) in enumerate(
        ((24, 3, 3, 40, 80, 50), (20, 2, 5, 36, 128, 50), (16, 2, 1, 30, 80, 1500)))
}  # fmt: skip
CLIP = 10_017  # samples that the Whispers hear


def draw(name: str, shape) -> np.ndarray:
    """The weight of a Hugging Face tensor: float32, by its name alone, none of it special."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith(("norm.weight", "gru_rel_pos_const")):
        return 1 + np.float32(0.1) * x
    if name.endswith("original0"):  # norms: positive
        return np.float32(0.3) + np.float32(0.2) * np.abs(x)
    if name.endswith(".bias") or "embed_positions" in name:
        return np.float32(0.1) * x
    if "rel_attn_embed" in name:
        return x
    return x * np.float32(1.5 * np.prod(shape[1:]) ** -0.5)


def clip(samples: int, seed: int = 0) -> np.ndarray:
    """A sweep and noise around a level that is not zero: float32 [samples], 16 kHz."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * (300 + 700 * t) * t) + 0.05 * rng.standard_normal(samples)
    return (wave * (1 + np.sin(9 * t)) + 0.02).astype(np.float32)


def features(frames: int, mels: int) -> np.ndarray:
    """Something like log-mel features: float32 [frames, mels]."""
    return np.random.default_rng(3).standard_normal((frames, mels)).astype(np.float32)


def some(states: np.ndarray) -> np.ndarray:
    """Four vectors of [..., T, width], the first and the last among them."""
    return states[..., np.linspace(0, states.shape[-2] - 1, 4).astype(int), :]
