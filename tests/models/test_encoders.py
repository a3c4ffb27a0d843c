"""WavLM and Whisper: sizes, lengths, and what they must not hear."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from golden import encoders, encoders_ours

from speechdst.data import speech
from speechdst.data.dialogue import BadInput
from speechdst.hf import encoders as encoder_files
from speechdst.hf import wavlm as hf_wavlm
from speechdst.hf import whisper as hf_whisper
from speechdst.models.audio_encoder.wavlm import (
    WAVLM_LARGE,
    WavLM,
    WavLMConfig,
    normalized,
    relative_buckets,
)
from speechdst.models.audio_encoder.whisper import Whisper, WhisperConfig
from speechdst.models.dialogue_lm import ENCODERS
from speechdst.models.transformer import sinusoids
from speechdst.training import state

WAVLM = {
    "base": (hf_wavlm.config(encoders.WAVLM["base0"]), hf_wavlm, WavLM),
    "large": (hf_wavlm.config(encoders.WAVLM["large1"]), hf_wavlm, WavLM),
}
WHISPER = {
    window: (hf_whisper.config(encoders.WHISPER["whisper1"], window), hf_whisper, Whisper)
    for window in ("short", "pad30")
}
MODELS = WAVLM | WHISPER
# With 30 s of padding it is the same Whisper behind another window.
EACH = [pytest.param(name, marks=pytest.mark.slow if name == "pad30" else []) for name in MODELS]


@functools.cache
def module(name, call=lambda m, *x: m(*x)):
    config, hf, cls = MODELS[name]
    params = encoders_ours.drawn(hf.table(config), encoders_ours.shapes(cls, config)[1])
    return encoders_ours.ask(cls, config, params, call), params


def close(found, expected, relative=1e-5):
    scale = float(np.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(found, expected, atol=relative * scale, rtol=0)


# Parameters of the released models; WavLM's count there has the vector of masked frames.
PUBLISHED = {"wavlm-base": 94_381_936 - 768, "wavlm-base-plus": 94_381_936 - 768,
             "wavlm-large": 315_453_120 - 1024, "whisper-tiny": 8_208_384,
             "whisper-base": 20_590_592, "whisper-small": 88_154_112,
             "whisper-medium": 307_216_384, "whisper-large": 636_784_640,
             "whisper-large-v2": 636_784_640, "whisper-large-v3": 636_968_960,
             "whisper-large-v3-turbo": 636_968_960}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    config = encoder_files.encoder(name)
    _, shapes = encoders_ours.shapes(ENCODERS[config.kind], config)
    assert sum(int(np.prod(x.shape)) for x in shapes.values()) == PUBLISHED[name]
    assert encoder_files.FAMILIES[config.kind].table(config).keys() == shapes.keys()
    with pytest.raises(BadInput, match="wavlm-large"):
        encoder_files.encoder("hubert")


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("kind", ["huge", "nan"])
def test_a_clip_does_not_hear_its_neighbours(name, kind):
    run, _ = module(name)
    config = MODELS[name][0]
    rng = np.random.default_rng(0)
    clips = [encoders.clip(n, n) for n in (400, 721, 2403, 6001)]
    alone = []
    for wave in clips:
        x, lengths = run(wave[None], np.array([len(wave)]))
        assert lengths[0] == config.length(len(wave)) > 0
        alone.append(x[0, : lengths[0]])
    slots, width = 6, 7000
    batch = {"huge": 1e3 * rng.standard_normal((slots, width)),
             "nan": np.full((slots, width), np.nan)}[kind].astype(np.float32)
    sizes = np.zeros(slots, np.int32)
    for i, wave in zip((4, 0, 3, 2), clips, strict=True):
        batch[i, : len(wave)], sizes[i] = wave, len(wave)
    x, lengths = run(batch, sizes)
    assert np.isfinite(x).all() and not lengths[[1, 5]].any()
    for i, expected in zip((4, 0, 3, 2), alone, strict=True):
        close(x[i, : lengths[i]], expected)


@pytest.mark.parametrize("name", EACH)
def test_gradients_do_not_hear_the_padding(name):
    """Also NaN behind the end, which a product with zero would not stop."""
    config, _, cls = MODELS[name]
    graph, _ = encoders_ours.shapes(cls, config)
    _, params = module(name)
    sizes = np.array([2403, 900, 0])

    def objective(params, samples):
        x, lengths = state.model_of(graph, params)(samples, sizes)
        inside = jnp.arange(x.shape[1]) < lengths[:, None]
        return jnp.where(inside[..., None], jnp.sin(3 * x), 0).sum()

    gradient = jax.jit(jax.grad(objective), compiler_options=tiny.QUICK)
    silent = np.zeros((3, 2403), np.float32)
    for i, n in enumerate(sizes):
        silent[i, :n] = encoders.clip(n, i)
    wild = np.where(np.arange(2403) < sizes[:, None], silent, np.nan)
    found, expected = gradient(params, wild), gradient(params, silent)
    tiny.assert_same_gradients(found, expected, relative=1e-5)
    trained = {p for p, g in expected.items() if np.abs(g).max() > 0}
    assert trained == set(params) - {"positions"}


@pytest.mark.parametrize("name", EACH)
def test_lengths_are_as_planned(name):
    config, _, cls = MODELS[name]
    graph, shapes = encoders_ours.shapes(cls, config)
    sizes = [0, 400, 401, 719, 720, 721, 4801, 16_000]
    run = lambda p, n: state.model_of(graph, p)(jnp.zeros((len(sizes), 16_000)), n)
    out, lengths = jax.eval_shape(run, shapes, jnp.array(sizes))
    assert out.shape[1] == config.length(16_000) and lengths.shape == (len(sizes),)
    find, _ = module(name, lambda m, n: m(jnp.zeros((len(n), 16_000)), n)[1])
    assert find(np.array(sizes)).tolist() == [config.length(n) for n in sizes]
    assert config.least == 400 or name == "large"


def test_wavlm_frames_are_the_published_ones():
    assert [WAVLM_LARGE.length(n) for n in (0, 399, 400, 16_000, 480_000)] == [0, 0, 1, 49, 1499]
    assert WAVLM_LARGE.least == 400


def test_relative_buckets_are_the_published_ones():
    buckets = relative_buckets(1000, 320, 800)
    golden = {-900: 159, -160: 104, -80: 80, -79: 79, -1: 1, 0: 0, 1: 161, 79: 239, 80: 240,
              160: 264, 400: 295, 799: 319, 999: 319}
    assert {d: int(buckets[999 + d]) for d in golden} == golden


def test_normalisation_is_over_the_valid_samples():
    clips = [encoders.clip(n, n) for n in (500, 900)]
    batch = np.full((2, 1000), np.nan, np.float32)
    for row, wave in zip(batch, clips, strict=True):
        row[: len(wave)] = wave
    found = np.asarray(normalized(batch, np.array([500, 900])))
    for row, wave in zip(found, clips, strict=True):
        expected = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        np.testing.assert_allclose(row[: len(wave)], expected, atol=1e-5)
        assert not row[len(wave):].any()


def test_silence_normalises_to_silence():
    found = normalized(np.full((1, 400), 0.25, np.float32), np.array([400]))
    np.testing.assert_allclose(found, 0, atol=1e-3)


def test_whisper_hears_what_preparation_would_store():
    """"short" features are those of the clip alone."""
    run, _ = module("short", lambda m, *x: m.features(*x))
    wave = encoders.clip(4017)
    features, frames = run(np.pad(wave, (0, 900))[None], np.array([4017]))
    alone = speech.log_mel(wave, mels=128)
    assert frames[0] == len(alone) == 25
    np.testing.assert_allclose(features[0, :25], alone, atol=1e-4)


@pytest.mark.parametrize(("mels", "first", "most", "mean"), [
    (80, (0.98328, 0.98662, 0.99715), 1.43820, -0.557658), (128, None, 1.48535, -0.511269)])
def test_whisper_pads_with_silence_as_published(mels, first, most, mean):
    """Known features of one second of 0.5 sin(440 Hz) in a window of 30 s."""
    config = WhisperConfig(width=2, layers=1, heads=1, mels=mels, window="pad30")
    params = encoders_ours.drawn(hf_whisper.table(config),
                                 encoders_ours.shapes(Whisper, config)[1])
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    run = encoders_ours.ask(Whisper, config, params, lambda m, *x: m.features(*x))
    features, frames = run(wave[None], np.array([16_000]))
    assert features.shape == (1, 3000, mels) and frames[0] == 3000
    np.testing.assert_allclose([features.max(), features.mean()], [most, mean], atol=2e-4)
    if first:
        np.testing.assert_allclose(features[0, 0, :3], first, atol=2e-4)
        np.testing.assert_allclose(features[0, 50, 10], 1.34874, atol=2e-4)


def test_whisper_refuses_what_it_has_no_positions_for():
    run, _ = module("pad30")
    with pytest.raises(ValueError, match="at most 16000"):
        run(np.zeros((1, 16_001), np.float32), np.array([16_001]))


def test_whispers_positions_start_as_its_sinusoids():
    """Known values of the released tables, width 384."""
    s = np.asarray(sinusoids(1500, 384))
    np.testing.assert_allclose(s[1, :3], [0.8415, 0.8151, 0.7883], atol=1e-4)
    np.testing.assert_allclose(s[1, 192:195], [0.5403, 0.5793, 0.6153], atol=1e-4)
    np.testing.assert_allclose([s[1499, 0], s[1499, 383]], [-0.4442, 0.9888], atol=2e-4)


def test_bfloat16_and_recomputation_change_little_and_nothing():
    for name in ("large", "short"):
        config, _, cls = MODELS[name]
        run, params = module(name)
        wave, length = encoders.clip(2403)[None], np.array([2403])
        expected, _ = run(wave, length)
        again = encoders_ours.ask(cls, dataclasses.replace(config, remat=True), params)
        close(again(wave, length)[0], expected, 1e-6)
        half, _ = module(name, lambda m, *x: m(*x, dtype=jnp.bfloat16))
        found, _ = half(wave, length)
        assert found.dtype == jnp.bfloat16
        close(found.astype(np.float32), expected, 0.1)


@pytest.mark.parametrize(("cls", "values", "words"), [
    (WavLMConfig, dict(conv_norm="batch"), "conv_norm"),
    (WavLMConfig, dict(heads=7), "7 heads"),
    (WhisperConfig, dict(window="pad10"), "pad10"),
    (WhisperConfig, dict(heads=5), "5 heads"),
])
def test_impossible_configs_are_named(cls, values, words):
    with pytest.raises(ValueError, match=words):
        cls(**values)
