"""The built-in codec: frames, determinism, what more codebooks buy, bad input."""

import functools

import numpy as np
import pytest

from speechdst.codec import LogMelCodec, distance, patches
from speechdst.data.dialogue import BadInput
from speechdst.data.tts import Voice, espeak


@functools.cache
def said(text: str, voice: str = "en-us+f2") -> np.ndarray:
    return espeak(text, Voice(voice)).astype(np.float32) / 32768


@functools.cache
def codec() -> LogMelCodec:
    return LogMelCodec.train(
        [said("i want a cheap hotel in the north with four stars", v)
         for v in ("en-us+f2", "en-us+m3", "en+m1")], codebooks=4, card=32, rounds=5)


def test_frames_last_eighty_milliseconds():
    assert codec().frame_rate == 12.5
    for samples, frames in ((0, 0), (1, 1), (1280, 1), (1281, 2), (16_000, 13)):
        codes = codec().encode(0.1 * np.ones(samples, np.float32))
        assert codes.shape == (4, frames) and codes.dtype == np.int32
        assert codec().decode(codes).shape == (frames * 1280,)
        assert codec().decode(codes).dtype == np.float32


def test_what_was_said_is_still_there():
    """Every codebook brings the log-mel nearer; what comes back is far nearer than other speech."""
    waveform = said("a cheap hotel with four stars")
    target, left = patches(waveform), []
    codes = codec().encode(waveform)
    for n in range(1, 5):
        entries = codec().tables[np.arange(n)[:, None], codes[:n]].sum(0)
        left.append(np.sqrt(((entries - target) ** 2).mean()))
    assert left == sorted(left, reverse=True) and left[-1] < 0.8 * left[0]
    heard = distance(codec(), waveform)
    other = patches(np.roll(waveform, len(waveform) // 3))
    loud = target > -79
    assert heard < 0.6 * np.sqrt(((other - target)[loud] ** 2).mean())
    assert heard < 12.0  # dB
    silence = codec().decode(codec().encode(np.zeros(6400, np.float32)))
    assert np.abs(silence).max() < 0.02 * np.abs(waveform).max()


def test_it_is_the_same_each_time_and_from_its_file(tmp_path):
    texts = [said("yes please", v) for v in ("en-us+f2", "en+m1")]
    make = lambda seed: LogMelCodec.train(texts, codebooks=2, card=8, seed=seed, rounds=3)
    one, two, other = make(0), make(0), make(1)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    one.save(tmp_path / "codec.safetensors")
    read = LogMelCodec.load(tmp_path / "codec.safetensors")
    assert read.fingerprint == one.fingerprint
    codes = one.encode(texts[0])
    np.testing.assert_array_equal(read.encode(texts[0]), codes)
    np.testing.assert_array_equal(read.decode(codes), one.decode(codes))


def test_bad_input_is_named(tmp_path):
    with pytest.raises(BadInput, match="more speech"):
        LogMelCodec.train([np.zeros(16_000, np.float32)], card=8)
    codes = codec().encode(said("yes please"))
    for wrong in (codes[:3], codes + 32, codes - 32, codes[0]):
        with pytest.raises(BadInput, match="the codec that made them"):
            codec().decode(wrong)
    path = tmp_path / "codec.safetensors"
    with pytest.raises(BadInput, match="cannot be read"):
        LogMelCodec.load(path)
    codec().save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadInput, match="cut off"):
        LogMelCodec.load(path)
