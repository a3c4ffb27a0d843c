"""What the golden file of the multi-stream model is made of: sizes, weights and inputs by rule.

Nothing here needs torch or JAX: `make_moshi.py` feeds it to the reference, the test to ours.
"""

import numpy as np
from golden.decoders import draw

VOCABULARY, CARD, CODEBOOKS, LENGTH = 31, 13, 4, 9
WIDTH, LAYERS, HEADS, MLP = 32, 2, 4, 24
DEPTH_WIDTH, DEPTH_LAYERS, DEPTH_HEADS, DEPTH_MLP = 16, 2, 2, 12


def tokens() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text [1, LENGTH + 1] (initial token first), audio that is read [1, LENGTH, 2Q] (initial
    codes first), own audio that is predicted [1, LENGTH, Q]."""
    rng = np.random.default_rng(4)
    text = rng.integers(0, VOCABULARY, (1, LENGTH + 1))
    read = rng.integers(0, CARD, (1, LENGTH, 2 * CODEBOOKS))
    text[:, 0], read[:, 0] = VOCABULARY, CARD
    return text, read, rng.integers(0, CARD, (1, LENGTH, CODEBOOKS))


def stream_table(k: int) -> np.ndarray:
    """The input embedding of audio stream k."""
    return draw(f"embed_tokens.{k}.weight", (CARD + 1, WIDTH))


def parameters() -> dict[str, np.ndarray]:
    """Ours, of the reference's tensors by their names."""

    def blocks(prefix: str, width: int, layers: int, mlp: int, steps: tuple[int, ...]) -> dict:
        turned = lambda name, *shape: draw(f"{prefix}.{name}", (*steps, *shape)).swapaxes(-1, -2)
        made: dict[str, list] = {}
        for i in range(layers):
            fc1 = turned(f"layers.{i}.mlp.fc1.weight", 2 * mlp, width)
            one = {f"{p}/kernel": turned(f"layers.{i}.self_attn.{p}_proj.linear.weight", width,
                                         width) for p in "qkvo"}
            one |= {"gate/kernel": fc1[..., :mlp], "up/kernel": fc1[..., mlp:],
                    "down/kernel": turned(f"layers.{i}.mlp.fc2.weight", width, mlp)}
            one |= {f"{ours}/scale": draw(f"{prefix}.layers.{i}.{theirs}.weight", (width,))
                    for ours, theirs in (("attention_norm", "input_layernorm"),
                                         ("mlp_norm", "post_attention_layernorm"))}
            for path, x in one.items():
                made.setdefault(path, []).append(x)
        return {path: np.stack(x) for path, x in made.items()}

    q, dw = CODEBOOKS, DEPTH_WIDTH
    temporal = blocks("model", WIDTH, LAYERS, MLP, ())
    depth = blocks("depth_decoder", dw, DEPTH_LAYERS, DEPTH_MLP, (q,))
    d = lambda name, *shape: draw(f"depth_decoder.{name}", shape)
    return {
        "decoder/embedding": draw("model.embed_tokens.weight", (VOCABULARY + 1, WIDTH)),
        "decoder/lm_head/kernel": draw("lm_head.weight", (VOCABULARY, WIDTH)).T,
        "decoder/transformer/norm/scale": draw("model.norm.weight", (WIDTH,)),
        "audio/embedding": np.stack([stream_table(k) for k in range(2 * q)]),
        "depth/text/embedding": d("text_embed_tokens.weight", VOCABULARY + 1, dw)[None],
        "depth/audio/embedding": np.stack(
            [d(f"embed_tokens.{k}.weight", CARD + 1, dw) for k in range(q - 1)]),
        "depth/project/kernel": d("input_projections.weight", q, dw, WIDTH).swapaxes(1, 2),
        "depth/lm_head/kernel": d("lm_heads.weight", q, CARD, dw).swapaxes(1, 2),
        **{f"decoder/transformer/blocks/{path}": x for path, x in temporal.items()},
        **{f"depth/transformer/blocks/{path}": x for path, x in depth.items()},
    }
