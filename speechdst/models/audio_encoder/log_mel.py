"""Whisper's log-mel front end in JAX, for batches of clips of different lengths.

The same features as `speechdst.data.speech.log_mel` gives for each clip alone: what lies in the
padding changes nothing, not even through the reflected end or the clip-wise maximum.
"""

import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np

SAMPLE_RATE, WINDOW, HOP = 16_000, 400, 160  # Hz, samples, samples


@functools.cache
def _filters(mels: int) -> np.ndarray:
    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=WINDOW, n_mels=mels, norm="slaney").T


@functools.cache
def _fourier() -> np.ndarray:
    """The windowed discrete Fourier transform as a matrix [400, 2 * 201]: cosines, then sines.

    A product with it runs on the matrix units of an accelerator, which an FFT of 400 does not.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    phase = 2 * np.pi / WINDOW * np.outer(np.arange(WINDOW), np.arange(WINDOW // 2 + 1))
    both = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    return (window[:, None] * both).astype(np.float32)


def frame_lengths(lengths: jax.Array) -> jax.Array:
    """Frames of clips of `lengths` samples (int): one for each full 10 ms."""
    return lengths // HOP


def log_mel(samples: jax.Array, lengths: jax.Array, mels: int = 80) -> tuple[jax.Array, jax.Array]:
    """Log-mel features of a batch: Whisper (Radford et al. 2022, section 2.2).

    samples: float [batch, samples], 16 kHz; lengths: int [batch], the valid samples of each row,
    at least one window (400) or 0 for a row without a clip.
    Returns float32 [batch, samples // 160, mels], zero from each clip's last frame on, and the
    frames of each clip, int [batch].
    """
    width = samples.shape[1]
    frames = width // HOP
    half = WINDOW // 2
    # Each padded position takes its sample, reflected at 0 and at the clip's own last sample.
    last = jnp.maximum(lengths[:, None] - 1, 0)
    position = jnp.abs(jnp.arange(-half, width + half)[None])
    position = last - jnp.abs(last - position)
    inside = position >= 0  # beyond a whole reflection there is only padding
    padded = jnp.take_along_axis(samples, jnp.clip(position, 0, width - 1), axis=1)
    padded = jnp.where(inside & (lengths[:, None] > 0), padded, 0.0).astype(jnp.float32)

    index = HOP * jnp.arange(frames)[:, None] + jnp.arange(WINDOW)[None]
    # Full precision: the accelerators' default for float32 products is bfloat16 or less.
    multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    spectrum = multiply(padded[:, index], _fourier())
    cosines, sines = jnp.split(spectrum, 2, axis=-1)
    mel = multiply(cosines**2 + sines**2, _filters(mels))

    log = jnp.log10(jnp.maximum(mel, 1e-10))
    counts = frame_lengths(lengths)
    valid = (jnp.arange(frames)[None] < counts[:, None])[..., None]
    loudest = jnp.max(jnp.where(valid, log, -10.0), axis=(1, 2), keepdims=True)
    log = jnp.maximum(log, loudest - 8.0)
    return jnp.where(valid, (log + 4.0) / 4.0, 0.0), counts
