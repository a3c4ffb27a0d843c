"""Whole dialogue models over WavLM and Whisper: recordings in, the contracts of every model."""

import dataclasses

import jax
import numpy as np
import pytest
import test_tree_equals_separate as separate
import tiny
import tiny_encoders

from speechdst.config import model_config
from speechdst.data import loader, speech
from speechdst.data.batch import stack
from speechdst.data.contexts import Context, Hearing, TreeBuilder
from speechdst.data.dialogue import BadInput, Turn
from speechdst.data.tree import pack
from speechdst.decoding.track import Tracker
from speechdst.training import state

MOST = 12_800  # samples that the tiny Whispers hear
ENCODERS = pytest.mark.parametrize("encoder", [
    pytest.param(name, marks=[] if name == "wavlm_base" else pytest.mark.slow)
    for name in tiny_encoders.ENCODERS])


def shape(model, **kwargs):
    return tiny.shape(model=model, tables=((8, MOST),), **kwargs)


def trained(model, trees):
    (total, pairs), grads = tiny.gradient(model)(
        tiny.parameters(model), tiny.row(trees, shape(model)), 0.5)
    return np.array([total, *pairs["loss"], *pairs["ctc"]]), grads


@pytest.mark.slow
@ENCODERS
def test_tree_equals_its_answers_one_by_one(encoder):
    model = tiny_encoders.config(encoder)
    (tree,) = tiny.builder("text_history", model=model).trees(
        tiny_encoders.dialogue(np.random.default_rng(5), 4))
    apart = separate.added([trained(model, [t]) for t in tiny.alone(tree)])
    assert apart[0][2] > 10 and apart[0][4] > 0, "there is something to predict and to recognise"
    separate.assert_same(trained(model, [tree]), apart)


@ENCODERS
def test_the_whole_model_is_deaf_to_neighbours(encoder):
    model = tiny_encoders.config(encoder)
    rng = np.random.default_rng(1)
    build = tiny.builder("spoken_history", model=model)
    tree, *others = (build.trees(tiny_encoders.dialogue(rng, 2))[0] for _ in range(3))
    graph, _ = state.abstract(model)
    run = jax.jit(lambda p, batch: state.model_of(graph, p)(batch), compiler_options=tiny.QUICK)
    small = shape(model, positions=192, block=192)
    alone = run(tiny.parameters(model), stack([pack([tree], small)]))[
        0, : np.sum(pack([tree], small)["tree"] == 0)]
    for forest, fill in (([tree], np.nan), ([others[0], tree, others[1]], 1e6)):
        batch = stack([pack(forest, shape(model))])
        (table,) = batch.tables
        behind = np.arange(MOST) >= table.lengths[..., None]
        batch = dataclasses.replace(batch, tables=(dataclasses.replace(
            table, waveform=np.where(behind, np.float32(fill), table.waveform)),))
        found = run(tiny.parameters(model), batch)[0][batch.tree[0] == forest.index(tree)]
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


@ENCODERS
def test_rows_are_planned_and_loaded(encoder):
    model = tiny_encoders.config(encoder)
    rng = np.random.default_rng(2)
    dialogues = [tiny_encoders.dialogue(rng, 2, f"d{i}") for i in range(6)]
    build = tiny.builder("text_history", model=model)
    made = loader.make([loader.Source(dialogues)], build, positions=256, rows=1, seed=0, block=64,
                       threads=0)
    assert {t.kind for t in made.shape.tables} == {"waveform"}
    batch = next(iter(made))
    seconds = sum(t.audio.seconds for d in dialogues for t in d.turns if t.audio)
    assert 0 < loader.count(batch)["frames"] / 100 <= seconds
    for table, planned in zip(batch.tables, made.shape.tables, strict=True):
        assert table.waveform.shape == (1, planned.count, planned.size)
        assert planned.size % 160 == 0 and table.waveform.dtype == np.float32


def test_log_mel_masks_are_refused_for_waveforms():
    build = tiny.builder("text_history", model=tiny_encoders.config("wavlm_base"))
    with pytest.raises(BadInput, match="spec_augment"):
        loader.make([], build, positions=256, rows=1, seed=0, spec_augment={"time_masks": 1})


@pytest.mark.parametrize("encoder", [
    pytest.param("wavlm_large", marks=pytest.mark.slow), "whisper_short"])
def test_dialogues_are_tracked(encoder):
    model = tiny_encoders.config(encoder)
    tracker = Tracker(tiny.parameters(model), model, tiny.tokenizer(), Context("text_history"),
                      max_new=4, rows=2)
    heard = tiny_encoders.dialogue(np.random.default_rng(3), 2)
    found = list(tracker.track([heard]))
    assert [turn for _, turn, _, _ in found] == [0, 2]


def test_clips_that_an_encoder_cannot_hear():
    """Left out of training; named when they are to be tracked."""
    model = tiny_encoders.config("whisper_short")
    hearing = Hearing.of(model.encoder)
    assert (399 in hearing, 400 in hearing, MOST in hearing, MOST + 1 in hearing) == (
        False, True, True, False)
    build = TreeBuilder(Context("text_history"), tiny.tokenizer(), model.soft_length, hearing)
    said = lambda n: Turn("user", "four stars", state={}, audio=speech.encode(np.full(n, 0.1)))
    assert [build.usable(said(n)) for n in (399, 400, MOST, MOST + 1)] == [
        False, True, True, False]
    with pytest.raises(BadInput, match="clips of 400 samples to 12800 samples"):
        build.prompt([said(MOST + 1)])
    with pytest.raises(BadInput, match="keep_audio"):
        build.prompt([Turn("user", "hm", features=np.zeros((9, 80), np.float16))])


def test_the_encoder_of_a_config_is_told_by_its_kind():
    values = lambda encoder, inputs: dict(
        encoder=encoder, text_encoder=dict(transformer=dict(width=8, layers=1, heads=2),
                                           vocabulary=0, outputs=8),
        connector=dict(transformer=dict(width=8, layers=1, heads=2), inputs=inputs, outputs=8),
        decoder=dict(transformer=dict(width=8, layers=1, heads=2), vocabulary=0))
    made = model_config(values(dict(kind="wavlm", width=32, heads=4), 32), 10)
    assert made.encoder.kind == "wavlm" and made.encoder.layers == 12
    tower = dict(transformer=dict(width=8, layers=1, heads=2))
    assert model_config(values(tower, 8), 10).encoder.kind == "log_mel"
    for encoder, inputs, words in (
            (dict(kind="hubert"), 32, "hubert"), (dict(kind="whisper"), 32, "384 channels"),
            (dict(kind="wavlm", mels=80), 768, "unknown setting"),
            (dict(kind="wavlm", heads=5), 768, "5 heads")):
        with pytest.raises(BadInput, match=words):
            model_config(values(encoder, inputs), 10)
