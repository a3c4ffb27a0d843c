"""The spoken dialogue model: the towers composed, nothing else."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from speechdst.models import attention
from speechdst.models.audio_encoder.log_mel_encoder import LogMelEncoder, LogMelEncoderConfig
from speechdst.models.audio_encoder.wavlm import WavLM, WavLMConfig
from speechdst.models.audio_encoder.whisper import Whisper, WhisperConfig
from speechdst.models.connector import Connector, ConnectorConfig
from speechdst.models.decoder import Decoder, DecoderConfig
from speechdst.models.lora import Linear
from speechdst.models.text_encoder import TextEncoder, TextEncoderConfig
from speechdst.models.transformer import valid

ENCODERS = {c.kind: made for c, made in (
    (LogMelEncoderConfig, LogMelEncoder), (WavLMConfig, WavLM), (WhisperConfig, Whisper))}


@dataclasses.dataclass(frozen=True)
class DialogueLMConfig:
    """`encoder`: in a config file its `kind` tells which ("log_mel" if there is none); `ctc`: a
    CTC head on it, for presets that train it from scratch; `text_encoder`: None for recipes that
    train on speech alone; `attention`: how the decoder computes it, of `attention.PATHS`, empty:
    what the platform does best."""

    kind: ClassVar[str] = "dialogue"

    encoder: LogMelEncoderConfig | WavLMConfig | WhisperConfig
    connector: ConnectorConfig
    text_encoder: TextEncoderConfig | None
    decoder: DecoderConfig
    ctc: bool = False
    dtype: str = "float32"
    attention: str = ""

    def __post_init__(self):
        if self.attention not in attention.PATHS:
            raise ValueError(f"attention is {self.attention!r}, none of {attention.PATHS}")
        if self.text_encoder and self.text_encoder.llm_width not in (
                0, self.decoder.transformer.width):
            raise ValueError(f"text_encoder.llm_width is {self.text_encoder.llm_width}, the "
                             f"decoder is {self.decoder.transformer.width} wide")
        if self.connector.inputs != self.encoder.width:
            raise ValueError(f"connector.inputs is {self.connector.inputs}, the encoder's vectors "
                             f"have {self.encoder.width} channels")

    def make(self, rngs: nnx.Rngs) -> "DialogueLM":
        return DialogueLM(self, rngs)

    def soft_length(self, kind: str, size: int) -> int:
        """Soft positions of an utterance: `size` is in frames ("speech"), samples ("waveform"),
        encoder vectors ("encoded") or tokens ("words")."""
        if kind == "words":
            return size
        if kind == "encoded":
            return self.connector.length(size)
        return self.connector.length(self.encoder.length(size))


class DialogueLM(nnx.Module):
    def __init__(self, config: DialogueLMConfig, rngs: nnx.Rngs):
        self.config = config
        self.encoder = ENCODERS[config.encoder.kind](config.encoder, rngs)
        self.connector = Connector(config.connector, rngs)
        self.text_encoder = (
            None if config.text_encoder is None else TextEncoder(config.text_encoder, rngs))
        self.decoder = Decoder(config.decoder, rngs)
        # One class more than the vocabulary: the blank, last.
        self.ctc_head = Linear(config.encoder.width, config.decoder.vocabulary + 1,
                               bias=True, rngs=rngs) if config.ctc else None

    @property
    def dtype(self):
        return jnp.dtype(self.config.dtype)

    def encode(self, table):
        """The speech encoder over a table: ([R * U, vectors, width], lengths [R * U])."""
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        lengths = flat(table.lengths)
        if table.encoded is not None:
            return valid(flat(table.encoded).astype(self.dtype), lengths), lengths
        if table.waveform is not None:
            return self.encoder(flat(table.waveform), lengths, self.dtype)
        return self.encoder(flat(table.features.astype(self.dtype)), lengths)

    def soft(self, batch, key=None, encoded=None):
        """The soft vectors of every row, [R, S, width]: the tables' one behind the other.

        `encoded`: the results of `encode` per speech table, where they are at hand.
        """
        parts = []
        for i, table in enumerate(batch.tables):
            if table.words is not None:
                words, lengths = table.words.reshape(-1, table.words.shape[-1]), table.lengths
                x = self.text_encoder(words, lengths.reshape(-1),
                                      None if key is None else jax.random.fold_in(key, i),
                                      self.dtype, self.decoder.embed)
                x, _ = self.connector.shared(x, lengths.reshape(-1))
            else:
                x, _ = self.connector.speech(*(encoded[i] if encoded else self.encode(table)))
            parts.append(x.reshape(table.lengths.shape[0], -1, x.shape[-1]))
        return jnp.concatenate(parts, 1) if parts else None

    def embed(self, batch, key=None, encoded=None):
        """Decoder input [R, T, width]: token embeddings, soft vectors at soft positions."""
        x = self.decoder.embed(batch.tokens, self.dtype)
        soft = self.soft(batch, key, encoded)
        if soft is None:
            return x
        filled = jnp.take_along_axis(soft, jnp.maximum(batch.soft, 0)[..., None], 1)
        filled = self.decoder.soft(filled)
        return jnp.where(batch.soft[..., None] >= 0, filled, x)

    def __call__(self, batch, key=None, encoded=None):
        """Final hidden vectors [R, T, width]; logits are `decoder.logits(hidden)`.

        `key`: randomness of training (text masking); None in evaluation.
        """
        attend = attention.over(batch, self.config.attention)
        return self.decoder(self.embed(batch, key, encoded), batch.positions, attend)[0]
