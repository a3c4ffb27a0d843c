import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speechdst.data import speech
from speechdst.models.audio_encoder.log_mel import frame_lengths, log_mel

LENGTHS = (400, 559, 560, 3999, 8000, 16_000)


def clip(length, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(length) / 16_000
    tone = np.sin(2 * np.pi * (200 + 300 * t) * t) * rng.uniform(0.05, 0.5)
    return (tone + 0.01 * rng.normal(size=length)).astype(np.float32)


def batch(garbage, width=16_000):
    rng = np.random.default_rng(1)
    rows = np.stack([garbage(rng, width) for _ in LENGTHS]).astype(np.float32)
    for i, length in enumerate(LENGTHS):
        rows[i, :length] = clip(length, i)
    return rows


GARBAGE = {
    "zeros": lambda rng, n: np.zeros(n),
    "noise": lambda rng, n: rng.normal(size=n) * 100,
    "nan": lambda rng, n: np.full(n, np.nan),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_every_clip_gets_its_own_features_whatever_the_padding(kind):
    features, frames = jax.jit(log_mel)(batch(GARBAGE[kind]), jnp.array(LENGTHS))
    assert features.shape == (len(LENGTHS), 100, 80) and features.dtype == jnp.float32
    for i, length in enumerate(LENGTHS):
        alone = speech.log_mel(clip(length, i))
        assert frames[i] == len(alone) == length // 160
        np.testing.assert_allclose(features[i, : len(alone)], alone, atol=1e-4)
        assert not np.asarray(features[i, len(alone) :]).any()


def test_garbage_and_batch_width_change_neither_features_nor_gradient():
    lengths = jnp.array(LENGTHS)
    clean, noisy = batch(GARBAGE["zeros"]), batch(GARBAGE["noise"])
    np.testing.assert_array_equal(log_mel(clean, lengths)[0], log_mel(noisy, lengths)[0])
    wide = np.pad(noisy, ((0, 0), (0, 4000)), constant_values=7.0)
    np.testing.assert_allclose(
        log_mel(wide, lengths)[0][:, :100], log_mel(noisy, lengths)[0], atol=1e-6
    )

    gradient = jax.grad(lambda x: log_mel(x, lengths)[0].sum())(noisy)
    beyond = np.arange(16_000)[None] >= np.array(LENGTHS)[:, None]
    assert not np.asarray(gradient)[beyond].any() and np.isfinite(gradient).all()


def test_rows_without_a_clip_are_zero():
    features, frames = log_mel(np.full((2, 1600), np.nan, np.float32), jnp.array([0, 0]))
    assert not np.asarray(features).any() and not frames.any()
    assert list(frame_lengths(jnp.array([0, 159, 160]))) == [0, 0, 1]


def test_silence_and_the_larger_bank():
    wave = np.zeros((1, 1600), np.float32)
    features, _ = log_mel(wave, jnp.array([1600]), mels=128)
    np.testing.assert_allclose(features[0], speech.log_mel(wave[0], mels=128), atol=1e-4)
