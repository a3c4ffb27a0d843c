"""The multi-stream model: published shapes, special tokens, what each loss depends on."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import tiny_streams
from golden import moshi as golden
from test_neighbours import close

from speechdst import sharding
from speechdst.config import build
from speechdst.data import frames
from speechdst.data.batch import stack
from speechdst.data.dialogue import BadInput
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.models.multistream import MOSHI, MultiStreamLMConfig
from speechdst.training import state

# The published checkpoint has 7,767,037,761 parameters, of which Mimi, its codec, has 79,308,609.
PUBLISHED = 7_767_037_761 - 79_308_609
# Tensors of the public checkpoint and where they stand here, [layers, steps, inputs, outputs].
SHAPES = {
    "decoder/embedding": (32_001, 4096),
    "decoder/lm_head/kernel": (4096, 32_000),
    "decoder/transformer/blocks/q/kernel": (32, 4096, 4096),
    "decoder/transformer/blocks/gate/kernel": (32, 4096, 11_264),
    "decoder/transformer/blocks/down/kernel": (32, 11_264, 4096),
    "decoder/transformer/norm/scale": (4096,),
    "audio/embedding": (16, 2049, 4096),
    "depth/text/embedding": (1, 32_001, 1024),
    "depth/audio/embedding": (7, 2049, 1024),
    "depth/project/kernel": (8, 4096, 1024),
    "depth/transformer/blocks/q/kernel": (6, 8, 1024, 1024),
    "depth/transformer/blocks/up/kernel": (6, 8, 1024, 2816),
    "depth/transformer/blocks/mlp_norm/scale": (6, 1024),
    "depth/lm_head/kernel": (8, 1024, 2048),
}


@pytest.fixture(scope="module")
def published():
    return state.abstract(MOSHI)[1]


def test_the_published_size_has_the_published_parameters(published):
    assert sum(math.prod(x.shape) for x in published.values()) == PUBLISHED
    for path, shape in SHAPES.items():
        assert published[path].shape == shape, path


def test_the_published_parameters_are_split_by_the_rules(published):
    mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
    whole = {path for path, x in published.items()
             if x.ndim > 1 and not any(sharding.spec(path, x.shape, mesh))}
    assert all(path.endswith("norm/scale") for path in whole), whole


def test_kind_tells_which_model_a_config_is_of():
    assert isinstance(tiny_streams.config(), MultiStreamLMConfig)
    assert isinstance(tiny.config(), DialogueLMConfig)
    values = dataclasses.asdict(tiny_streams.config())
    for wrong, name in (({"codebooks": 4}, "delays"), ({"kind": "mono"}, "mono"),
                        ({"decoder": values["decoder"] | {"initial": False}}, "initial"),
                        ({"depth": values["depth"] | {"steps": 2}}, "steps")):
        with pytest.raises(BadInput, match=name):
            build(DialogueLMConfig | MultiStreamLMConfig,
                  {"kind": "multistream"} | values | wrong)


def conversation(seed=0, frames_=40):
    rng = np.random.default_rng(seed)
    return frames.FrameTree(tiny_streams.drawn(rng, frames_), loss=True)


def test_text_loss_knows_neither_target_codes_nor_depth():
    run = tiny_streams.gradient(tiny_streams.config())
    batch = tiny_streams.row([conversation()])
    (loss, _), grads = run(batch, 1.0, 0.0)
    other = dataclasses.replace(batch, code_targets=(batch.code_targets + 1) % 11)
    (same, _), others = run(other, 1.0, 0.0)
    assert loss == same > 0
    for path, g in grads.items():
        np.testing.assert_array_equal(others[path], g)
        assert bool(np.any(g)) != path.startswith("depth/"), path
    _, grads = run(batch, 0.0, 1.0)
    assert all(np.any(g) for path, g in grads.items() if path != "decoder/lm_head/kernel")


def test_nothing_is_learnt_from_what_is_not_there():
    """The zero token is no target; with every stream zero but the text there is no audio loss."""
    tree = conversation()
    silent = tree.trunk.copy()
    silent[:, 1:] = frames.ZERO
    run = tiny_streams.gradient(tiny_streams.config())
    (_, pairs), grads = run(tiny_streams.row([dataclasses.replace(tree, trunk=silent)]), 1.0, 1.0)
    assert pairs["audio"] == (0.0, 0.0)
    known = int((silent[:, 0] != frames.ZERO).sum())
    assert pairs["words"][1] + pairs["padding"][1] == known
    assert pairs["text"][1] == pairs["words"][1] + 0.5 * pairs["padding"][1]
    # Only the initial tokens of the audio streams were read.
    assert not np.any(grads["audio/embedding"][:, :-1])
    assert np.any(grads["audio/embedding"][:, -1])


def test_audio_weighs_codebooks_as_told():
    (_, pairs), _ = tiny_streams.gradient(tiny_streams.config())(
        tiny_streams.row([conversation()]), 1.0, 1.0)
    for i in range(2):
        np.testing.assert_allclose(
            pairs["audio"][i], 10 * pairs["semantic"][i] + pairs["acoustic"][i], rtol=1e-6)


def test_frames_are_deaf_to_neighbours():
    """Also to garbage in the padding, text and audio."""
    run = tiny_streams.gradient(tiny_streams.config())
    tree, other = conversation(1, 17), conversation(2, 23)
    silent = dataclasses.replace(other, loss=False)
    (loss, pairs), grads = run(tiny_streams.row([tree]), 1.0, 1.0)
    for i, forest in enumerate(([tree], [silent, tree], [tree, silent])):
        batch = tiny_streams.row(forest)
        rng, padding = np.random.default_rng(i), batch.tree < 0
        wild = lambda x, rng=rng, padding=padding: np.where(
            padding.reshape(*padding.shape, *(1,) * (x.ndim - 2)),
            rng.integers(0, 11, x.shape), x).astype(np.int32)
        batch = dataclasses.replace(batch, **{
            name: wild(getattr(batch, name))
            for name in ("tokens", "targets", "positions", "codes", "code_targets")})
        (found, found_pairs), found_grads = run(batch, 1.0, 1.0)
        np.testing.assert_allclose(found, loss, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found_pairs, pairs)
        tiny.assert_same_gradients(found_grads, grads, relative=1e-5)


def test_logits_stand_at_the_frames_they_are_of():
    """Against Moshi's rule: roll back by the delay, and the end of a codebook is not valid."""
    model = tiny_streams.config()
    graph, _ = state.abstract(model)

    @jax.jit
    def run(params, batch):
        m = state.model_of(graph, params)
        hidden = m(batch)
        return m.logits(batch), m.depth.logits(m.code_vectors(batch, hidden))

    tree = conversation(3, 20)
    (text, audio, valid), placed = run(tiny.parameters(model), tiny_streams.row([tree], 32, 32))
    assert text.shape == (1, 32, 24)
    for q, delay in enumerate(tiny_streams.DELAYS):
        ends = 20 - delay
        expected = np.zeros(32, bool)
        expected[:ends] = tree.trunk[:ends, 1 + q] != frames.ZERO
        np.testing.assert_array_equal(valid[0, :, q], expected)
        close(audio[0, :ends, q], placed[0, delay:20, q])


def test_it_is_the_model_that_transformers_has():
    """Hidden vectors, text logits, and the codes' logits of every frame (tests/golden)."""
    g = golden
    tower = dict(gated=True, bias=False, rms=True, norm_epsilon=1e-8)
    model = build(DialogueLMConfig | MultiStreamLMConfig, dict(
        kind="multistream", codebooks=g.CODEBOOKS, card=g.CARD, delays=[0] * g.CODEBOOKS,
        decoder=dict(vocabulary=g.VOCABULARY, tied=False, initial=True, transformer=dict(
            width=g.WIDTH, layers=g.LAYERS, heads=g.HEADS, mlp_width=g.MLP, rope_theta=1e4,
            **tower)),
        depth=dict(width=g.DEPTH_WIDTH, layers=g.DEPTH_LAYERS, heads=g.DEPTH_HEADS,
                   mlp_width=g.DEPTH_MLP, steps=g.CODEBOOKS, final_norm=False, **tower)))
    text, read, predicted = (x.astype(np.int32) for x in g.tokens())
    empty = frames.FrameTree(np.zeros((g.LENGTH, 1 + 2 * g.CODEBOOKS), np.int32))
    streams = frames.Streams(model.stream_delays, model.initial)
    batch = dataclasses.replace(
        stack([frames.pack([empty], streams, g.LENGTH, g.LENGTH)]), tokens=text[:, :-1],
        targets=text[:, 1:], codes=read, code_targets=predicted)
    graph, shapes = state.abstract(model)
    params = g.parameters()
    assert {p: x.shape for p, x in params.items()} == {p: x.shape for p, x in shapes.items()}
    run = jax.jit(lambda params, batch: (lambda m: (m(batch), *m.logits(batch)))(
        state.model_of(graph, params)), compiler_options=tiny.QUICK)
    hidden, words, codes, _ = run(params, batch)
    with np.load(Path(golden.__file__).with_name("moshi.npz")) as stored:
        for found, name in ((hidden, "hidden"), (words, "text"), (codes, "audio")):
            close(found[0], stored[name])
