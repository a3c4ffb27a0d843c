"""Tiny dialogue models over every speech encoder, and dialogues with recordings for them."""

import dataclasses
import functools

import numpy as np
import tiny

from speechdst.data import speech
from speechdst.models.audio_encoder.wavlm import WavLMConfig
from speechdst.models.audio_encoder.whisper import WhisperConfig

_WAVLM = dict(width=20, layers=2, heads=5, mlp_width=24, conv_channels=(4,) * 7, position_taps=6,
              position_groups=5, buckets=16, max_distance=12)
_WHISPER = dict(width=18, layers=2, heads=3, mlp_width=24, positions=40)
ENCODERS = {
    "wavlm_base": WavLMConfig(**_WAVLM),
    "wavlm_large": WavLMConfig(**_WAVLM, conv_norm="layer", pre_norm=True, normalize=True),
    "whisper_short": WhisperConfig(**_WHISPER),
    "whisper_pad30": WhisperConfig(**_WHISPER, window="pad30"),
}


@functools.cache
def config(encoder: str):
    """`tiny.config` over one of `ENCODERS`."""
    model, encoder = tiny.config(), ENCODERS[encoder]
    return dataclasses.replace(model, encoder=encoder, connector=dataclasses.replace(
        model.connector, inputs=encoder.width))


def dialogue(rng: np.random.Generator, users: int = 3, name: str = "d0"):
    """`tiny.dialogue`, every user turn with a recording of 0.1 to 0.7 s."""
    made = tiny.dialogue(rng, users, name=name)
    turns = []
    for turn in made.turns:
        if turn.speaker == "user":
            wave = 0.2 * rng.standard_normal(int(rng.integers(1600, 11_000)))
            turn = dataclasses.replace(turn, features=None, audio=speech.encode(wave))
        turns.append(turn)
    return dataclasses.replace(made, turns=tuple(turns))
