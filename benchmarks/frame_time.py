"""How long a frame of live conversation takes at batch 1, against the 80 ms that it lasts.

    python -m benchmarks.frame_time                  # the small size, seconds on a laptop
    python -m benchmarks.frame_time --size=moshi     # 7B + 600M, published shapes, 16 GB
    python -m benchmarks.frame_time --size=tiny --frames=20

Weights are drawn. A step of the temporal Transformer over its whole cache and the steps of the
depth Transformer are one compiled program; every frame is waited for, as a listener would. The
codec's time is not in it. The last line is one JSON object, times in milliseconds.
"""

import json
import time

import jax
import numpy as np
from absl import flags

from speechdst.command import run
from speechdst.decoding import frames
from speechdst.models.decoder import DecoderConfig
from speechdst.models.multistream import MOSHI, MultiStreamLMConfig
from speechdst.models.transformer import TransformerConfig
from speechdst.training import state

FRAME_MS = 80.0


def config(width: int, layers: int, depth_width: int, depth_layers: int,
           vocabulary: int) -> MultiStreamLMConfig:
    """The published architecture at another size, float32."""
    tower = dict(gated=True, bias=False, rms=True, norm_epsilon=1e-8)
    return MultiStreamLMConfig(
        DecoderConfig(TransformerConfig(width, layers, width // 64, rope_theta=10_000.0,
                                        mlp_width=width * 11 // 4, **tower),
                      vocabulary, tied=False, initial=True),
        TransformerConfig(depth_width, depth_layers, depth_width // 32, steps=8, final_norm=False,
                          mlp_width=depth_width * 11 // 4, **tower))


SIZES = {"tiny": config(64, 2, 32, 1, 512), "small": config(512, 8, 256, 4, 8000), "moshi": MOSHI}


def measure(model: MultiStreamLMConfig, count: int, slots: int) -> dict:
    """Times of `count` frames one after the other, the first (which compiles) apart."""
    graph, shapes = state.abstract(model)
    draw = jax.jit(lambda: {
        path: jax.random.normal(jax.random.key(i), x.shape, model.dtype) * 0.02
        for i, (path, x) in enumerate(shapes.items())})
    params = jax.block_until_ready(draw())
    rng = np.random.default_rng(0)
    user = rng.integers(0, model.card, (count + 1, 1, model.codebooks)).astype(np.int32)
    forced = frames.free(1, model.codebooks)
    now, took = frames.start(model, 1, slots), []
    for heard in user:
        began = time.perf_counter()
        now, said = frames.step(params, now, heard, forced, graph=graph)
        jax.block_until_ready((now, said))
        took.append(1000 * (time.perf_counter() - began))
    compiling, *took = took
    return {"parameters": sum(x.size for x in params.values()), "slots": slots, "frames": count,
            "compile_s": compiling / 1000, "median_ms": float(np.median(took)),
            "p99_ms": float(np.percentile(took, 99)), "worst_ms": max(took),
            "late": sum(t > FRAME_MS for t in took), "frame_ms": FRAME_MS,
            "device": jax.devices()[0].device_kind}


def main(argv):
    del argv
    result = {"size": _SIZE.value, **measure(SIZES[_SIZE.value], _FRAMES.value, _SLOTS.value)}
    for name, value in result.items():
        print(f"{name:12} {value:,.2f}" if isinstance(value, float) else f"{name:12} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    _SIZE = flags.DEFINE_enum("size", "small", list(SIZES), "Size of the model.")
    _FRAMES = flags.DEFINE_integer("frames", 100, "Frames that are timed.")
    _SLOTS = flags.DEFINE_integer("slots", 3000, "Frames that the cache holds (4 minutes).")
    run(main)
