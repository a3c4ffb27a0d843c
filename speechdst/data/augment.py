"""Augmentation: of waveforms in preparation, of features in the loader (SpecAugment).

Waveforms are float32 [samples] at 16 kHz; every function takes its own numpy generator where it
draws, so that an example's augmentation depends on the seed that its caller gives it.
"""

import dataclasses
import math
from collections.abc import Callable

import librosa
import numpy as np
import scipy

from speechdst.data.dialogue import SAMPLE_RATE, BadInput

Range = tuple[float, float]


def noise(samples: np.ndarray, snr: float, rng: np.random.Generator, color: str = "white"):
    """Adds noise at `snr` dB below the signal's power; `color` is white or pink (1/f)."""
    drawn = rng.standard_normal(len(samples))
    if color == "pink":
        spectrum = np.fft.rfft(drawn)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        drawn = np.fft.irfft(spectrum, len(samples))
    elif color != "white":
        raise BadInput(f"unknown color {color!r}, expected white or pink", field="noise.color")
    power = np.mean(np.square(samples, dtype=np.float64)) / 10 ** (snr / 10)
    scale = math.sqrt(power / max(np.mean(drawn**2), 1e-20))
    return (samples + scale * drawn).astype(np.float32)


def telephone(samples: np.ndarray, low: float = 300.0, high: float = 3400.0) -> np.ndarray:
    """The telephone band: keeps `low` to `high` Hz; without delay, as many samples."""
    band = scipy.signal.butter(5, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
    padding = min(len(samples) - 1, SAMPLE_RATE // 20)
    return scipy.signal.sosfiltfilt(band, samples, padlen=padding).astype(np.float32)


def speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Plays `factor` times as fast, tempo and pitch together; [samples / factor].

    Source: Ko et al. 2015, "Audio Augmentation for Speech Recognition", section 2.
    """
    return librosa.resample(
        samples, orig_sr=SAMPLE_RATE, target_sr=SAMPLE_RATE / factor, res_type="soxr_hq"
    )


def tempo(samples: np.ndarray, factor: float, window: int = 2048) -> np.ndarray:
    """Speaks `factor` times as fast at the same pitch (phase vocoder over a `window` of samples,
    shorter for single words); [samples / factor]."""
    # `effects.time_stretch` of librosa 1.0 warns, at every call, of how it calls itself.
    stretched = librosa.phase_vocoder(librosa.stft(samples, n_fft=window), rate=factor)
    return librosa.istft(stretched, length=round(len(samples) / factor))


def pitch(samples: np.ndarray, semitones: float) -> np.ndarray:
    """Shifts the pitch, at the same tempo; as many samples."""
    factor = 2 ** (semitones / 12)
    return librosa.util.fix_length(speed(tempo(samples, 1 / factor), factor), size=len(samples))


def gain(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Louder (or, below 0, softer); what then leaves [-1, 1] is clipped."""
    return np.clip(samples * np.float32(10 ** (decibels / 20)), -1.0, 1.0)


def reverberation(
    samples: np.ndarray, seconds: float, rng: np.random.Generator, wet: float = 0.3
) -> np.ndarray:
    """A room of reverberation time `seconds` (decay by 60 dB), at the power of the dry signal.

    The impulse response is the direct sound and exponentially decaying noise of `wet` times its
    energy (Polack's model). As many samples: the tail beyond the end is cut.
    """
    count = max(1, int(seconds * SAMPLE_RATE))
    tail = rng.standard_normal(count) * 10 ** (-3 * np.arange(count) / count)
    tail *= math.sqrt(wet / max(np.sum(tail**2), 1e-20))
    response = np.concatenate([[1.0], tail])
    out = scipy.signal.fftconvolve(samples, response)[: len(samples)]
    power = np.mean(np.square(samples, dtype=np.float64)) / max(np.mean(out**2), 1e-20)
    return (out * math.sqrt(power)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a configuration says of an augmentation: ranges to draw from, choices, and how."""

    ranges: dict[str, Range]
    apply: Callable
    choices: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


_KINDS = {  # in the order of applying: the speaker, the room, the noise in it, the line
    "speed": _Kind({"factor": (0.9, 1.1)}, lambda x, rng, factor: speed(x, factor)),
    "tempo": _Kind({"factor": (0.9, 1.1)}, lambda x, rng, factor: tempo(x, factor)),
    "pitch": _Kind({"semitones": (-2.0, 2.0)}, lambda x, rng, semitones: pitch(x, semitones)),
    "reverberation": _Kind(
        {"seconds": (0.1, 0.5), "wet": (0.1, 0.5)},
        lambda x, rng, seconds, wet: reverberation(x, seconds, rng, wet),
    ),
    "noise": _Kind(
        {"snr": (5.0, 25.0)},
        lambda x, rng, snr, color: noise(x, snr, rng, color),
        {"color": ("white", "pink")},
    ),
    "telephone": _Kind({}, lambda x, rng: telephone(x)),
    "gain": _Kind({"decibels": (-10.0, 3.0)}, lambda x, rng, decibels: gain(x, decibels)),
}


class Augment:
    """Augmentations with probabilities, from a configuration such as

        {"noise": {"probability": 0.5, "snr": (5, 20), "color": "pink"}, "telephone": 0.2}

    A bare number is the probability; every range left out has a default; a name left out is off.
    They are applied in a fixed order, whatever the order in the configuration.
    """

    def __init__(self, config: dict):
        """Raises `BadInput` for unknown names and for numbers outside their domain."""
        self._steps: list[tuple[str, float, dict]] = []
        if unknown := sorted(set(config) - set(_KINDS)):
            raise BadInput(f"unknown augmentations {unknown}", field="augment",
                           mend=f"there are {sorted(_KINDS)}")  # fmt: skip
        for name, kind in _KINDS.items():
            if name not in config:
                continue
            given = config[name]
            given = dict(given) if hasattr(given, "keys") else {"probability": given}
            probability = given.pop("probability", 1.0)
            if not isinstance(probability, int | float) or not 0 <= probability <= 1:
                raise BadInput(f"{probability!r} is no probability",
                               field=f"augment.{name}.probability")  # fmt: skip
            allowed = kind.ranges | kind.choices
            if unknown := sorted(set(given) - set(allowed)):
                raise BadInput(f"unknown settings {unknown}", field=f"augment.{name}",
                               mend=f"there are {['probability', *allowed]}")  # fmt: skip
            settings = {
                key: _range(given.get(key, default), f"augment.{name}.{key}")
                for key, default in kind.ranges.items()
            }
            for key, known in kind.choices.items():
                chosen = given.get(key, known)
                chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
                if not chosen or not set(chosen) <= set(known):
                    raise BadInput(f"{chosen} is not among {known}", field=f"augment.{name}.{key}")
                settings[key] = chosen
            if "factor" in settings and settings["factor"][0] <= 0:
                raise BadInput("a factor must be above 0", field=f"augment.{name}.factor")
            self._steps.append((name, float(probability), settings))

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments float32 [samples]; `speed` and `tempo` change how many there are."""
        for name, probability, settings in self._steps:
            # Drawn always, so that one probability does not shift what the others draw.
            happens = rng.random() < probability
            own = np.random.default_rng(rng.integers(2**63))
            if happens:
                drawn = {
                    key: own.choice(v).item() if isinstance(v[0], str) else own.uniform(*v)
                    for key, v in settings.items()
                }
                samples = _KINDS[name].apply(samples, own, **drawn)
        return np.ascontiguousarray(samples, np.float32)


def _range(given, field: str) -> Range:
    """A (lowest, highest) pair; one number stands for itself."""
    try:
        low, high = (given, given) if isinstance(given, int | float) else given
        low, high = float(low), float(high)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{given!r} is neither a number nor a pair", field=field) from error
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise BadInput(f"{given!r} is no range from low to high", field=field)
    return low, high


def mask_features(
    features: np.ndarray,
    rng: np.random.Generator,
    *,
    time_masks: int = 2,
    time_width: int = 40,
    time_share: float = 0.2,
    channel_masks: int = 2,
    channel_width: int = 15,
    **warps: float,
) -> np.ndarray:
    """SpecAugment's masks on [frames, channels]: spans of frames and of channels become the mean.
    With `warps` the features are first as `warp_features` makes them.

    Each mask is up to `time_width` frames (and `time_share` of the clip) or `channel_width`
    channels wide. Returns a copy of the same type. Source: Park et al. 2019, section 2; the bound
    by the clip's length is from Park et al. 2020, "SpecAugment on Large Scale Datasets".
    """
    masked = warp_features(features, rng, **warps) if warps else features.copy()
    fill = features.mean(dtype=np.float32).astype(features.dtype) if features.size else 0
    frames, channels = features.shape
    widest = min(time_width, int(time_share * frames))
    for _ in range(time_masks):
        width = int(rng.integers(widest + 1))
        start = int(rng.integers(frames - width + 1))
        masked[start : start + width] = fill
    for _ in range(channel_masks):
        width = int(rng.integers(min(channel_width, channels) + 1))
        start = int(rng.integers(channels - width + 1))
        masked[:, start : start + width] = fill
    return masked


def warp_features(
    features: np.ndarray,
    rng: np.random.Generator,
    *,
    time_warp: float = 0.0,
    vocal_tract: float = 0.0,
    colour: float = 0.0,
    floor: float = 0.0,
) -> np.ndarray:
    """Log-mel features [frames, channels] as another speaker in another room might have made them;
    as many frames, a copy of the same type.

    Args:
      time_warp: how much faster or slower each half second may be, share.
      vocal_tract: by how much the channels may be stretched, share (Jaitly and Hinton 2013, "Vocal
        Tract Length Perturbation").
      colour: deviation of a smooth gain over the channels, in deviations of the features.
      floor: share of the frames' and channels' values below which noise may lie, at most.
    """
    x = features.astype(np.float32)
    frames, channels = x.shape
    if not frames:
        return features.copy()
    if time_warp:
        pace = np.cumsum(1 + rng.uniform(-time_warp, time_warp, frames // 50 + 1))
        ends = np.linspace(0, frames, len(pace) + 1)
        at = np.interp(np.arange(frames), ends, np.append(0, pace / pace[-1]) * frames)
        x = _between(x, at)
    if vocal_tract:
        x = _between(x.T, np.arange(channels) * (1 + rng.uniform(-vocal_tract, vocal_tract))).T
    spread = x.std()
    if colour:
        x = x + np.interp(np.arange(channels), np.linspace(0, channels - 1, 5),
                          rng.normal(0, colour * spread, 5))
    if floor and rng.random() < 0.5:
        level = np.quantile(x, rng.uniform(0, floor)) + rng.normal(0, 0.2 * spread, x.shape)
        x = np.logaddexp(4 * x, 4 * level) / 4
    return x.astype(features.dtype)


def _between(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of x at places that need not be whole, float [n]; the last one beyond the end."""
    at = np.clip(at, 0, len(x) - 1)
    low = at.astype(int)
    share = (at - low)[:, None]
    return x[low] * (1 - share) + x[np.minimum(low + 1, len(x) - 1)] * share
