"""Recordings: read, slice, resample, store as FLAC; features; measures of a voice.

Samples are float32 in [-1, 1), mono, 16 kHz, shape [samples], unless it says otherwise.
"""

import dataclasses
import functools
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import librosa
import numpy as np
import scipy  # its parts are imported where they are used: they take a second
import soundfile
import soxr

from speechdst.data.dialogue import SAMPLE_RATE, Audio, AudioRef, BadInput, Turn
from speechdst.files import aside

WINDOW, HOP, MELS = 400, 160, 80  # samples, samples, channels: 25 ms windows every 10 ms
SILENCE = 3e-4  # about -70 dBFS: what stays below it all the time carries no speech
PAUSES = 0.3, 0.6  # seconds of silence after a sentence, and where the speaker changes
OVERRUN = 0.25  # seconds by which annotated times may overrun the file, as rounding makes them


def load(ref: AudioRef) -> np.ndarray:
    """Reads the piece of a recording that `ref` names: float32 [samples], mono, 16 kHz.

    Raises `BadInput` if the file is missing, empty, cut off, no audio, MP3 under the name of a
    WAV, silent, without the channel or segment asked for, or not laid out as `ref` says.
    """
    path = Path(ref.path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", file=path) from error
    if size == 0:
        raise BadInput("the file is empty", file=path)
    if ref.key:
        samples, rate = _read_hdf5(ref)
    else:
        samples, rate = _read_file(ref, size)
    if not np.isfinite(samples).all():
        raise BadInput("there are samples that are not numbers", file=path, record=ref.key)
    if np.abs(samples).max() < SILENCE:
        raise BadInput(f"{_span(ref)} is silent", file=path, record=ref.key, field="audio")
    return soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32, copy=False)


def spoken_span(samples: np.ndarray) -> tuple[int, int]:
    """First and last+1 sample of what is spoken in a recording of one utterance, by energy.

    A frame of 25 ms is loud if it is within 30 dB of the loudest ones, and 8 dB above the softest
    ones where there is noise; what is below 100 Hz, where rooms hum and voices hardly are, does not
    count. Sounds of less than 60 ms with half a second of quiet around them are clicks. A margin of
    0.15 s is kept on both sides. The whole recording if nothing is left.
    """
    if len(samples) < WINDOW:
        return 0, len(samples)
    above = scipy.signal.sosfiltfilt(
        scipy.signal.butter(2, 100.0, "highpass", fs=SAMPLE_RATE, output="sos"), samples)
    frames = librosa.util.frame(above, frame_length=WINDOW, hop_length=HOP, axis=0)
    level = 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), 1) + 1e-12)
    low, high = np.percentile(level, (10, 98))
    loud = np.flatnonzero(level >= min(max(high - 30, low + 8), high - 15))
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > 1) + 1)
    ends = [-(10**6), *((r[0], r[-1]) for r in runs), 10**6]
    kept = [r for r, before, after in zip(runs, ends, ends[2:], strict=False)
            if len(r) >= 6 or r[0] - np.max(before) < 50 or np.min(after) - r[-1] < 50]
    if not kept:
        return 0, len(samples)
    margin = round(0.15 * SAMPLE_RATE)
    return (max(0, int(kept[0][0]) * HOP - margin),
            min(len(samples), int(kept[-1][-1]) * HOP + WINDOW + margin))


def placed(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with their `start` in one recording of all that is heard, one after the other."""
    result, at = [], 0
    for i, turn in enumerate(turns):
        if turn.audio is not None:
            turn = dataclasses.replace(turn, start=at / SAMPLE_RATE)
            same = i + 1 < len(turns) and turns[i + 1].speaker == turn.speaker
            at += turn.audio.samples + round(PAUSES[not same] * SAMPLE_RATE)
        result.append(turn)
    return result


def joined(turns: Sequence[Turn]) -> np.ndarray:
    """The one recording of turns that are `placed`, with silence between them."""
    heard = [(round(t.start * SAMPLE_RATE), decode(t.audio)) for t in turns if t.audio is not None]
    whole = np.zeros(max((at + len(samples) for at, samples in heard), default=0), np.float32)
    for at, samples in heard:
        whole[at : at + len(samples)] = samples
    return whole


def silent(turn: Turn) -> Turn:
    """The same turn without a sound: what is spoken is silence of the same length."""
    audio, features = turn.audio, turn.features
    if audio is not None:
        audio = encode(np.zeros(audio.samples, np.int16), audio.voice)
    if features is not None:
        nothing = np.zeros(len(features) * HOP, np.float32)
        features = log_mel(nothing, features.shape[1]).astype(features.dtype)
    return dataclasses.replace(turn, audio=audio, features=features)


def _span(ref: AudioRef) -> str:
    if not ref.start and ref.end is None:
        return "the recording"
    end = "the end" if ref.end is None else f"{ref.end:.2f} s"
    return f"the segment from {ref.start:.2f} s to {end}"


def _bounds(ref: AudioRef, frames: int, rate: int) -> tuple[int, int]:
    """First and last+1 frame of the segment; `BadInput` if it is empty or outside the file."""
    seconds = frames / rate
    end = seconds if ref.end is None else ref.end
    if not (0 <= ref.start < seconds and ref.start < end <= seconds + OVERRUN):
        raise BadInput(f"{_span(ref)} is empty or outside the recording of {seconds:.2f} s",
                       file=ref.path, record=ref.key, field="start, end")  # fmt: skip
    first, last = round(ref.start * rate), min(round(end * rate), frames)
    if last <= first:
        raise BadInput(f"{_span(ref)} is shorter than one sample", file=ref.path, record=ref.key)
    return first, last


def _channel(ref: AudioRef, channels: int) -> int:
    """The channel to take; `BadInput` if the file has other channels than expected."""
    if ref.channels is not None and channels != ref.channels:
        raise BadInput(f"{channels} channels, expected {ref.channels}", file=ref.path)
    if ref.channel is None and channels != 1:
        raise BadInput(f"{channels} channels, expected a mono file", file=ref.path,
                       mend="mix it down or name the channel")  # fmt: skip
    channel = ref.channel or 0
    if not 0 <= channel < channels:
        raise BadInput(f"there is no channel {channel}, the file has {channels}", file=ref.path)
    return channel


def _read_file(ref: AudioRef, size: int) -> tuple[np.ndarray, int]:
    path = Path(ref.path)
    try:
        with soundfile.SoundFile(path) as file:
            if path.suffix.lower() == ".wav" and "MPEG" in f"{file.format} {file.subtype}":
                raise BadInput("named .wav but MP3 inside", file=path,
                               mend="decode it to PCM, or give it the suffix .mp3")  # fmt: skip
            channel = _channel(ref, file.channels)
            if file.format in ("WAV", "WAVEX"):
                _refuse_cut_wav(path, size)
            if file.frames == 0:
                raise BadInput("there are no samples in the file", file=path)
            first, last = _bounds(ref, file.frames, file.samplerate)
            file.seek(first)
            samples = file.read(last - first, dtype="float32", always_2d=True)
            rate = file.samplerate
    except soundfile.LibsndfileError as error:
        raise BadInput(f"not audio, or cut off ({error.error_string})", file=path,
                       mend="fetch or convert the file again") from error  # fmt: skip
    if len(samples) < last - first:
        raise BadInput(f"cut off: {len(samples)} frames can be read of {last - first}", file=path,
                       mend="fetch the file again")  # fmt: skip
    return np.ascontiguousarray(samples[:, channel]), rate


def _refuse_cut_wav(path: Path, size: int) -> None:
    """libsndfile believes the size of a WAV file, not its header; the header tells of a loss."""
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return
        file.seek(12)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            if head[:4] != b"data":
                file.seek(length + length % 2, os.SEEK_CUR)
                continue
            there = size - file.tell()
            # Writers to a pipe leave 0 or a huge number as the length they cannot know.
            if there < length < 0x7FFFF000:
                raise BadInput(f"cut off: the header tells of {length} bytes, {there} are there",
                               file=path, mend="fetch the file again")  # fmt: skip
            return


def _read_hdf5(ref: AudioRef) -> tuple[np.ndarray, int]:
    """The group `key` with a dataset `audio` (or the dataset `key`): int16 or float, 16 kHz.

    An attribute `sample_rate` of either tells of another rate.
    """
    try:
        with h5py.File(ref.path, "r") as file:
            node = file[ref.key]
            data = node["audio"] if isinstance(node, h5py.Group) else node
            rate = int(data.attrs.get("sample_rate", node.attrs.get("sample_rate", SAMPLE_RATE)))
            if data.ndim != 1 or not len(data):
                raise BadInput(f"shape {data.shape}, expected some samples of one channel",
                               file=ref.path, record=ref.key)  # fmt: skip
            _channel(ref, 1)
            first, last = _bounds(ref, len(data), rate)
            samples = data[first:last]
    except KeyError as error:
        raise BadInput(f"no such audio ({error.args[0]})", file=ref.path, record=ref.key) from error
    except OSError as error:
        raise BadInput("not an HDF5 file, or cut off", file=ref.path, record=ref.key,
                       mend="fetch the file again") from error  # fmt: skip
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / 32768, rate
    if not np.issubdtype(samples.dtype, np.floating):
        raise BadInput(f"samples of type {samples.dtype}, expected int16 or float",
                       file=ref.path, record=ref.key)  # fmt: skip
    return samples.astype(np.float32), rate


def encode(samples: np.ndarray, voice: str = "") -> Audio:
    """Stores float or int16 [samples] (mono, 16 kHz) as 16-bit FLAC; int16 survives exactly."""
    if samples.dtype != np.int16:
        samples = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return Audio(buffer.getvalue(), len(samples), voice)


def write_stereo(path: Path, left: np.ndarray, right: np.ndarray) -> None:
    """16-bit FLAC if `path` ends so, else WAV, of two float32 channels at 16 kHz, the shorter one
    followed by silence."""
    both = np.zeros((max(len(left), len(right)), 2), np.float32)
    both[: len(left), 0], both[: len(right), 1] = left, right
    with aside(path) as temporary:
        soundfile.write(temporary, both, SAMPLE_RATE, subtype="PCM_16",
                        format="FLAC" if path.suffix == ".flac" else "WAV")


def decode(audio: Audio) -> np.ndarray:
    """Inverse of `encode`: float32 [samples]; raises `BadInput` if the bytes are damaged."""
    try:
        samples, rate = soundfile.read(io.BytesIO(audio.flac), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise BadInput(f"stored audio is damaged ({error.error_string})",
                       mend="prepare the data again") from error  # fmt: skip
    if samples.shape != (audio.samples,) or rate != SAMPLE_RATE:
        raise BadInput(f"stored audio has shape {samples.shape} at {rate} Hz, expected "
                       f"({audio.samples},) at {SAMPLE_RATE} Hz",
                       mend="prepare the data again")  # fmt: skip
    return samples


@functools.cache
def mel_filters(mels: int = MELS) -> np.ndarray:
    """The mel filter bank: float32 [mels, 201], Slaney's scale and area normalisation."""
    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=WINDOW, n_mels=mels, norm="slaney")


def log_mel(samples: np.ndarray, mels: int = MELS) -> np.ndarray:
    """Log-mel features as Whisper computes them: float32 [samples // 160, mels].

    Power spectrogram (25 ms Hann windows every 10 ms, reflected ends, last frame dropped), mel
    filters, log10 clipped to 8 below the clip's maximum, then (x + 4) / 4. Source: Radford et al.
    2022, section 2.2. Raises `BadInput` for less than one window (400 samples).
    """
    if len(samples) < WINDOW:
        raise BadInput(f"{len(samples)} samples, expected at least one window ({WINDOW})",
                       field="audio")  # fmt: skip
    spectrum = librosa.stft(
        np.asarray(samples, np.float32), n_fft=WINDOW, hop_length=HOP, window="hann",
        center=True, pad_mode="reflect",
    )[:, : len(samples) // HOP]  # fmt: skip
    mel = mel_filters(mels) @ np.abs(spectrum) ** 2
    log = np.log10(np.maximum(mel, 1e-10))
    log = np.maximum(log, log.max() - 8.0)
    return np.ascontiguousarray((log.T + 4.0) / 4.0)


def pitch(samples: np.ndarray, lowest: float = 60.0, highest: float = 400.0) -> float:
    """Median fundamental frequency in Hz of the louder voiced frames, nan if there are none.

    The autocorrelation of each frame over that of its window (Boersma 1993). librosa's `yin` is
    not used: its compiled kernel is cached on disk, and workers that compile it at the same time
    leave a cache that crashes every later process.
    """
    frame, hop = 1024, 512
    if len(samples) < frame or np.abs(samples).max() < SILENCE:
        return math.nan
    window = np.hanning(frame).astype(np.float32)
    frames = librosa.util.frame(samples, frame_length=frame, hop_length=hop, axis=0)
    loudness = np.sqrt((frames**2).mean(1))
    frames = frames[loudness >= 0.1 * loudness.max()]
    frames = (frames - frames.mean(1, keepdims=True)) * window
    shortest, longest = int(SAMPLE_RATE / highest), int(SAMPLE_RATE / lowest)
    size = 1296  # at least frame + longest + 2, a product of small primes
    power = lambda x: np.fft.irfft(np.abs(np.fft.rfft(x, size)) ** 2, size)[..., : longest + 2]
    own = power(window)
    correlation = power(frames)
    correlation = correlation / np.maximum(correlation[:, :1], 1e-12) / (own / own[0])
    inner = correlation[:, shortest : longest + 1]
    peaks = ((inner > correlation[:, shortest - 1 : longest])
             & (inner >= correlation[:, shortest + 1 : longest + 2]))
    strength = np.where(peaks, inner, 0)
    best = strength.max(1, keepdims=True)
    # A whole period more correlates as well: the first peak that is nearly as high is the period.
    lag = np.argmax(strength >= 0.9 * best, 1) + shortest
    voiced = best[:, 0] > 0.5
    rows, lag = np.arange(len(lag))[voiced], lag[voiced]
    if not len(rows):
        return math.nan
    before, at, after = (correlation[rows, lag + i] for i in (-1, 0, 1))
    shift = 0.5 * (before - after) / np.minimum(before - 2 * at + after, -1e-12)
    return float(np.median(SAMPLE_RATE / (lag + shift)))


def speaking_rate(words: int, seconds: float) -> float:
    """Words a minute; nan for an empty recording."""
    return 60.0 * words / seconds if seconds > 0 else math.nan
