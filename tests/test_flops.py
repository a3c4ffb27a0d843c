"""Model FLOPs against XLA's own count, and what padding, windows and frozen towers do to them."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from speechdst import flops
from speechdst.config import model_config
from speechdst.data import frames
from speechdst.data.batch import stack
from speechdst.training import state

EVERYTHING = (r"",)
T, W = 128, 1024


def model(encoder="log_mel", layers=1, **connector):
    """One layer everywhere (XLA counts a scanned layer once), wide enough for products to be
    nearly all that is done."""
    tower = dict(width=W, layers=1, heads=4)
    encoders = {
        "log_mel": dict(transformer=tower, channels=80, strides=[2, 1], taps=[3, 5]),
        "wavlm": dict(kind="wavlm", width=W, layers=1, heads=4, mlp_width=4 * W,
                      conv_channels=[W] * 7, conv_norm="layer", pre_norm=True,
                      position_taps=16, position_groups=4),
        "whisper": dict(kind="whisper", width=W, layers=1, heads=4, mlp_width=4 * W)}
    return model_config(dict(
        encoder=encoders[encoder],
        connector=dict(transformer=tower, inputs=W, outputs=W, **connector),
        text_encoder=dict(transformer=tower, vocabulary=0, outputs=W, llm_width=W),
        decoder=dict(transformer=dict(width=W, layers=layers, heads=4, kv_heads=2,
                                      mlp_width=2 * W, gated=True, bias=False, rms=True,
                                      rope_theta=1e4, lora_rank=64, lora_alpha=1.0),
                     vocabulary=0, tied=False), ctc=True), 1024)


def stage(trainable=EVERYTHING, **weights):
    return ConfigDict(dict(trainable=trainable, weights=weights or {"speech": 1.0}))


def shapes(config, path="speech", size=48, rows=1):
    """An abstract batch of rows of T positions and three utterances of `size`."""
    shape = tiny.shape(path, config, positions=T, block=T // 2, tables=((3, size),))
    shape = dataclasses.replace(shape, channels=80)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype),
                        tiny.row([], shape))


def by_xla(config, batch, trainable, ctc=False):
    """FLOPs of what the model computes and differentiates, before any optimisation."""
    graph, parameters = state.abstract(config)
    train, frozen = state.split(parameters, trainable)

    def objective(train, frozen, batch):
        made = state.model_of(graph, train | frozen)
        encoded = [made.encode(t) if t.spoken else None for t in batch.tables]
        total = made.decoder.logits(made(batch, None, encoded)).sum()
        return total + (sum(made.ctc_head(x[0]).sum() for x in encoded) if ctc else 0)

    return jax.jit(jax.grad(objective)).lower(train, frozen, batch).cost_analysis()["flops"]


CASES = {
    "all, log-mel": ("log_mel", "speech", 400, EVERYTHING, dict(strides=[3, 2], taps=7)),
    "all, wavlm": ("wavlm", "speech", 16000, EVERYTHING, dict(strides=[3, 2], taps=7)),
    "all, whisper": ("whisper", "speech", 16000, EVERYTHING, dict(strides=[3, 2], taps=7)),
    "frozen encoder and LoRA": ("wavlm", "speech", 16000, (r"^connector", "lora"),
                                dict(strides=[3, 2], taps=7)),
    "frozen LLM": ("wavlm", "speech", 16000, (r"^encoder", r"^connector"),
                   dict(strides=[], stack=6)),
    "text encoder": ("log_mel", "words", 24, (r"^text_encoder",), dict(strides=[2], taps=3)),
    "all, words": ("log_mel", "words", 24, EVERYTHING, dict(strides=[2], taps=3)),
}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if "whisper" in name else []) for name in CASES])
def test_as_xla_counts(name):
    encoder, path, size, trainable, connector = CASES[name]
    config = model(encoder, **connector)
    batch = shapes(config, path, size)
    ctc = path == "speech" and trainable == EVERYTHING
    found = flops.step_flops(config, stage(trainable, **({"ctc": 1.0} if ctc else {"a": 1.0})),
                             {"a": batch})
    assert ("ctc_head" in found) == ctc and ("text_encoder" in found) == (path == "words")
    # The dense reference also computes what a causal row does not see.
    hidden = 4 * W * (T * T - T * (T + 1) // 2)
    np.testing.assert_allclose(sum(found.values()) + 3 * hidden,
                               by_xla(config, batch, trainable, ctc), rtol=0.03)


def test_layers_and_rows_multiply():
    one, four = model(strides=[2], taps=3), model(layers=4, strides=[2], taps=3)
    count = lambda m, rows=1: flops.step_flops(m, stage(), {"a": shapes(m, rows=rows)})
    assert count(four)["decoder"] == 4 * count(one)["decoder"]
    assert count(four)["encoder"] == count(one)["encoder"]
    assert count(one, 3) == {tower: 3 * n for tower, n in count(one).items()}


def test_arrays_count_what_they_hold_and_branches_see_what_they_see():
    config = tiny.config()
    tree = tiny.builder("text_history", model=config).trees(
        tiny.dialogue(np.random.default_rng(0), 3))
    small, large = (tiny.row(tree, tiny.shape(model=config, positions=p, tables=((u, 64),)))
                    for p, u in ((512, 4), (1024, 9)))
    both = [flops.step_flops(config, stage(), {"a": x}) for x in (small, large)]
    assert both[0] == both[1], "padding counts nothing"
    full = flops.step_flops(config, stage(), {"a": jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), small)})
    assert all(full[tower] > n for tower, n in both[0].items())

    # All pairs of the reference's mask, one by one.
    q, k = np.ogrid[:512, :512]
    trunk, fork, own, there = (x[0][:, None] for x in (
        small.trunk_start, small.fork, small.branch_start, small.tree >= 0))
    seen = (((k >= trunk) & (k < fork)) | ((k >= own) & (k <= q))) & there
    near = seen & (small.positions[0][:, None] - small.positions[0] < 9)
    c = config.decoder.transformer
    for windows, pairs in (((), 2 * seen.sum()), ((0, 9), seen.sum() + near.sum())):
        changed = dataclasses.replace(config, decoder=dataclasses.replace(
            config.decoder, transformer=dataclasses.replace(c, windows=windows)))
        part = next(p for p in flops._parts(changed, small, False)
                    if p.path == "decoder/transformer")
        assert part.attention == 4 * c.heads * c.head_dim * pairs


def test_chips_by_the_name_of_the_device():
    assert flops.chip_of("TPU v5 lite") == "v5e" and flops.chip_of("TPU v5p") == "v5p"
    assert flops.chip_of("NVIDIA H100 80GB HBM3") == "h100" and flops.chip_of("cpu") is None


def test_streams_as_xla_counts():
    """With the depth Transformer, each step of which has weights of its own, and without."""
    tower = dict(gated=True, bias=False, rms=True)
    q, depth = 4, 512
    config = model_config(dict(
        kind="multistream", decoder=dict(transformer=dict(
            width=W, layers=1, heads=4, mlp_width=2 * W, rope_theta=1e4, **tower),
            vocabulary=0, tied=False, initial=True),
        depth=dict(width=depth, layers=1, heads=4, mlp_width=2 * depth, steps=q, **tower),
        codebooks=q, card=512, delays=[0, 1, 1, 1]), 1024)
    streams = frames.Streams(config.stream_delays, config.initial)
    tree = frames.FrameTree(np.zeros((T, 1 + 2 * q), np.int32), loss=True)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                         stack([frames.pack([tree], streams, T, T // 2)]))
    graph, parameters = state.abstract(config)

    def objective(params, batch, audio):
        made = state.model_of(graph, params)
        hidden = made(batch)
        total = made.decoder.logits(hidden).sum()
        if audio:
            total += made.depth.logits(made.code_vectors(batch, hidden)).sum()
        return total

    hidden = 4 * W * (T * T - T * (T + 1) // 2)  # what a causal row does not see
    for audio, weights in ((0, {"preference": 1.0}), (1, {"text": 1.0, "audio": 1.0})):
        found = flops.step_flops(config, stage(**weights), {"a": batch})
        assert ("depth" in found) == bool(audio)
        counted = jax.jit(jax.grad(objective), static_argnums=2).lower(
            parameters, batch, audio).cost_analysis()["flops"]
        np.testing.assert_allclose(sum(found.values()) + 3 * hidden, counted, rtol=0.03)
