"""Audio codecs: waveform to a few discrete codes a frame, and back.

`Codec` is the interface that the multi-stream model's data and decoding use. `LogMelCodec` is the
one that is built in: a residual vector quantiser (Zeghidour et al. 2021, arXiv 2107.03312, section
III-C) of log-mel patches, its codebooks found by k-means in seconds on a laptop, with a Griffin-Lim
vocoder. It is for trying recipes out; it is intelligible, not pleasant.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import librosa
import numpy as np
import safetensors.numpy
import scipy

from speechdst.data.dialogue import SAMPLE_RATE, BadInput
from speechdst.files import aside
from speechdst.hf.files import header

FILE = "codec.safetensors"  # its name in prepared data and in exported folders
FFT, HOP, MELS, COLUMNS = 1024, 256, 64, 5  # samples, samples, channels, columns of a frame
FLOOR = -80.0  # dB; what is quieter is silence
ANALYSIS = np.array([SAMPLE_RATE, FFT, HOP, MELS, COLUMNS, FLOOR], np.float32)


class Codec(Protocol):
    """`codebooks` codes of `card` entries for each of `frame_rate` frames a second, the first
    codebook the coarsest; `fingerprint` says which codec codes belong to."""

    sample_rate: int
    frame_rate: float
    codebooks: int
    card: int
    fingerprint: str

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """float32 [samples] in [-1, 1) -> int32 [codebooks, frames]; a last frame that the samples
        do not fill is filled with silence."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int32 [codebooks, frames] -> float32 [frames * sample_rate / frame_rate]."""
        ...


class LogMelCodec:
    """`tables` float32 [codebooks, card, 320]: entries of 5 columns of 64 mel channels in dB."""

    sample_rate = SAMPLE_RATE
    frame_rate = SAMPLE_RATE / (HOP * COLUMNS)  # 12.5

    def __init__(self, tables: np.ndarray):
        self.tables = tables
        self.codebooks, self.card, _ = tables.shape
        self.fingerprint = hashlib.sha256(self._bytes()).hexdigest()[:16]

    @staticmethod
    def train(recordings: Sequence[np.ndarray], codebooks: int = 8, card: int = 256,
              seed: int = 0, rounds: int = 12) -> "LogMelCodec":
        """k-means of what the codebooks before have left; the same recordings (float32 [samples])
        and seed give the same codec.

        Raises:
          BadInput: fewer different frames than a codebook has entries.
        """
        left = np.unique(np.concatenate([patches(x) for x in recordings]), axis=0)
        if len(left) < card:
            raise BadInput(f"{len(left)} different frames for {card} entries", field="card",
                           mend="more speech, or a smaller codebook")
        rng, tables = np.random.default_rng(seed), []
        for _ in range(codebooks):
            with warnings.catch_warnings():  # an entry that loses all its frames stays where it is
                warnings.filterwarnings("ignore", "One of the clusters is empty")
                table, nearest = scipy.cluster.vq.kmeans2(
                    left, card, iter=rounds, minit="points", rng=rng, missing="warn",
                    check_finite=False)
            tables.append(table)
            left = left - table[nearest]
        return LogMelCodec(np.stack(tables).astype(np.float32))

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        left, codes = patches(waveform), []
        for table in self.tables:
            nearest = scipy.cluster.vq.vq(left, table, check_finite=False)[0]
            codes.append(nearest)
            left = left - table[nearest]
        return np.array(codes, np.int32).reshape(self.codebooks, -1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """As `Codec.decode`; raises `BadInput` for codes of another codec's shape or size."""
        if codes.ndim != 2 or len(codes) != self.codebooks or not (
                (codes >= 0) & (codes < self.card)).all():
            raise BadInput(f"codes {codes.shape}, expected [{self.codebooks}, frames] from 0 to "
                           f"{self.card - 1}", field="codes", mend="use the codec that made them")
        if not codes.shape[1]:
            return np.zeros(0, np.float32)
        entries = self.tables[np.arange(self.codebooks)[:, None], codes].sum(0)
        power = librosa.db_to_power(entries.reshape(-1, MELS).T)
        power[power <= librosa.db_to_power(FLOOR) * 2] = 0
        magnitude = np.pad(spectrum(power), ((0, 0), (0, 1)))  # the column behind the last frame
        samples = librosa.griffinlim(magnitude, n_iter=32, hop_length=HOP, n_fft=FFT, init=None,
                                     length=codes.shape[1] * COLUMNS * HOP)
        return np.clip(samples, -1, 1).astype(np.float32)

    def save(self, path: Path) -> None:
        with aside(path) as temporary:
            temporary.write_bytes(self._bytes())

    @staticmethod
    def load(path: Path) -> "LogMelCodec":
        """Raises `BadInput` if there is no such file, or it is not one that `save` has written."""
        tensors = header(Path(path))
        if set(tensors) != {"tables", "analysis"} or not np.array_equal(
                tensors["analysis"].read(), ANALYSIS):
            raise BadInput("not a codec of this version", file=path,
                           mend="train it again, and encode again what it has encoded")
        return LogMelCodec(tensors["tables"].read())

    def _bytes(self) -> bytes:
        return safetensors.numpy.save({"tables": self.tables, "analysis": ANALYSIS})


def patches(waveform: np.ndarray) -> np.ndarray:
    """float32 [samples] -> log-mel in dB, float32 [frames, 5 * 64]; column c of a recording is
    centred at sample 256 c."""
    frames = -(-len(waveform) // (HOP * COLUMNS))
    padded = np.pad(waveform, (0, frames * HOP * COLUMNS - len(waveform)))
    if not frames:
        return np.zeros((0, COLUMNS * MELS), np.float32)
    mel = librosa.feature.melspectrogram(y=padded, sr=SAMPLE_RATE, n_fft=FFT, hop_length=HOP,
                                         n_mels=MELS, pad_mode="constant")
    db = librosa.power_to_db(mel, ref=1.0, amin=10 ** (FLOOR / 10), top_db=None)
    return np.ascontiguousarray(db[:, : frames * COLUMNS].T).reshape(frames, -1)


def spectrum(power: np.ndarray, rounds: int = 60) -> np.ndarray:
    """Mel power [64, columns] -> a magnitude spectrum that has it, float32 [513, columns].

    Least squares without negative values by multiplicative updates (Lee and Seung 2001, theorem 1),
    a tenth of the time of librosa's `mel_to_stft`, which looks for the last digit.
    """
    filters = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=FFT, n_mels=MELS)
    wanted = filters.T @ power.astype(np.float32)
    found = wanted
    for _ in range(rounds):
        found = found * wanted / np.maximum(filters.T @ (filters @ found), np.float32(1e-20))
    return np.sqrt(found)


def distance(codec: Codec, waveform: np.ndarray) -> float:
    """Log-mel distance in dB (root mean square over columns and channels) of a recording to what
    comes back from the codec, measured where the recording is not silent."""
    before = patches(waveform)
    after = patches(codec.decode(codec.encode(waveform)))[: len(before)]
    loud = before > FLOOR + 1
    return float(np.sqrt(((np.maximum(after, FLOOR) - before)[loud] ** 2).mean()))
