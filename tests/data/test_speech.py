import math

import h5py
import numpy as np
import pytest
import soundfile

from speechdst.data import speech
from speechdst.data.dialogue import Audio, AudioRef, BadInput


def sine(seconds=1.0, hz=200.0, rate=16_000, level=0.5):
    t = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def refused(match, path, **kwargs):
    with pytest.raises(BadInput, match=match) as error:
        speech.load(AudioRef(str(path), **kwargs))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_reads_segment_channel_and_resamples(tmp_path):
    path = tmp_path / "a.wav"
    left, right = sine(2, 300, 8000), sine(2, 700, 8000)
    soundfile.write(path, np.stack([left, right], 1), 8000)
    samples = speech.load(AudioRef(str(path), start=0.5, end=1.5, channel=1, channels=2))
    assert samples.dtype == np.float32 and samples.shape == (16_000,)
    assert np.abs(np.fft.rfft(samples)).argmax() == 700
    clipped = speech.load(AudioRef(str(path), start=1.0, end=2.1, channel=0))
    assert clipped.shape == (16_000,)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_reads_formats(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, sine(), 16_000)
    assert abs(speech.pitch(speech.load(AudioRef(str(path)))) - 200) < 2


def test_missing_empty_and_foreign_files(tmp_path):
    refused("cannot be read", tmp_path / "none.wav")
    path = tmp_path / "a.wav"
    path.write_bytes(b"")
    refused("the file is empty", path)
    path.write_bytes(b"no audio at all" * 10)
    refused("not audio, or cut off", path)
    soundfile.write(path, np.zeros(0, np.float32), 16_000)
    refused("no samples", path)
    soundfile.write(path, sine(), 16_000, format="MP3")
    refused("MP3 inside", path)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_cut_off_files(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).normal(size=32_000) * 0.1
    soundfile.write(path, noise, 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused("cut off", path)


def test_silence_channels_and_segments(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([sine(), np.zeros(16_000, np.float32)], 1), 16_000)
    refused("is silent", path, channel=1)
    refused("2 channels, expected a mono file", path)
    refused("2 channels, expected 1", path, channels=1, channel=0)
    refused("no channel 2", path, channel=2)
    for start, end in ((1.5, None), (0.0, 2.0), (-1.0, 0.5), (0.6, 0.4), (0.5, 0.5)):
        refused("outside the recording of 1.00 s", path, channel=0, start=start, end=end)
    soundfile.write(path, np.full(1000, np.nan), 16_000, subtype="FLOAT")
    refused("not numbers", path)


def test_hdf5(tmp_path):
    path = tmp_path / "a.hd5"
    with h5py.File(path, "w") as file:
        file["turn 1/audio"] = (sine() * 32767).astype(np.int16)
        file["turn 3/other"] = np.zeros(3)
        file["turn 5/audio"] = np.zeros(0, np.int16)
    samples = speech.load(AudioRef(str(path), key="turn 1"))
    np.testing.assert_allclose(samples, sine(), atol=1e-4)
    assert len(speech.load(AudioRef(str(path), key="turn 1", start=0.25, end=0.5))) == 4000
    refused("no such audio", path, key="turn 2")
    refused("no such audio", path, key="turn 3")
    refused("some samples", path, key="turn 5")
    path.write_bytes(b"x" * 100)
    refused("not an HDF5 file", path, key="turn 1")


def test_encode_decode():
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    audio = speech.encode(samples, "m1")
    assert audio.voice == "m1" and audio.samples == 5000 and audio.flac[:4] == b"fLaC"
    back = speech.decode(audio)
    np.testing.assert_array_equal(back * 32768, samples)
    np.testing.assert_array_equal(speech.decode(speech.encode(back)), back)
    loud = speech.decode(speech.encode(np.array([2.0, -2.0, 0.5], np.float32)))
    np.testing.assert_allclose(loud, [1, -1, 0.5], atol=1e-4)
    for broken in (audio.flac[:30], b"", audio.flac[:3000]):
        with pytest.raises(BadInput, match="stored audio"):
            speech.decode(Audio(broken, 5000))


def whisper_by_definition(samples):
    """Whisper's front end written out in float64, frame by frame."""
    padded = np.pad(samples.astype(np.float64), 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    rows = [
        np.abs(np.fft.rfft(padded[160 * i : 160 * i + 400] * window)) ** 2
        for i in range(len(samples) // 160)
    ]
    log = np.log10(np.maximum(np.stack(rows) @ speech.mel_filters().T.astype(np.float64), 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


@pytest.mark.parametrize("samples", [400, 1599, 16_000])
def test_log_mel_is_whispers(samples):
    wave = sine(2)[:samples] + 0.01 * np.random.default_rng(1).normal(size=samples)
    features = speech.log_mel(wave.astype(np.float32))
    assert features.shape == (samples // 160, 80) and features.dtype == np.float32
    np.testing.assert_allclose(features, whisper_by_definition(wave), atol=2e-4)


def test_log_mel_of_whispers_larger_bank_and_of_too_little():
    assert speech.log_mel(sine(), mels=128).shape == (100, 128)
    with pytest.raises(BadInput, match="at least one window"):
        speech.log_mel(sine()[:399])


def test_mel_filters_are_slaneys():
    """Each triangle has area 1 over Hz; the lowest 1 kHz is linear in steps of 200/3 Hz."""
    bank = speech.mel_filters()
    assert bank.shape == (80, 201)
    np.testing.assert_allclose(bank[45:].sum(1) * 40, 1.0, atol=0.05)
    assert np.all(np.diff(bank.argmax(1)) >= 0)


@pytest.mark.parametrize("hz", [90, 150, 240])
def test_pitch(hz):
    wave = sum(sine(1, hz * k, level=0.3 / k) for k in range(1, 6))
    wave[8000:] = 1e-4 * np.random.default_rng(0).normal(size=8000)
    assert abs(speech.pitch(wave.astype(np.float32)) - hz) < 3


def test_pitch_and_rate_of_nothing():
    assert math.isnan(speech.pitch(np.zeros(16_000, np.float32)))
    assert math.isnan(speech.pitch(sine()[:100]))
    assert speech.speaking_rate(6, 2.0) == 180 and math.isnan(speech.speaking_rate(1, 0))


@pytest.mark.parametrize("noise", [0.0, 1e-3, 8e-3])
@pytest.mark.parametrize("rumble", [0.0, 0.2])
def test_spoken_span_is_what_is_loud(noise, rumble):
    rng = np.random.default_rng(0)
    samples = rng.normal(0, noise, 5 * 16_000) if noise else np.zeros(5 * 16_000)
    t = np.arange(len(samples)) / 16_000
    samples += rumble * np.sin(2 * np.pi * 2 * t) ** 2 * np.sin(2 * np.pi * 20 * t)
    samples[40_000:52_000] += rng.normal(0, 0.1, 12_000)
    samples[54_000:60_000] += rng.normal(0, 0.05, 6_000)
    samples[1_000:1_200] += 0.5  # a click
    start, end = speech.spoken_span(samples.astype(np.float32))
    margin = 0.15 * 16_000
    assert abs(start - (40_000 - margin)) < 500 and abs(end - (60_000 + margin)) < 500


def test_spoken_span_of_short_and_of_even_recordings_is_all():
    assert speech.spoken_span(np.zeros(100, np.float32)) == (0, 100)
    even = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert speech.spoken_span(even) == (0, 16_000)
