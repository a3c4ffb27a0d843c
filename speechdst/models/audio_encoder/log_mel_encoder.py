"""A log-mel Transformer speech encoder in Whisper's shape (arXiv 2212.04356, section 2.2)."""

import dataclasses

import jax
from flax import nnx

from speechdst.models.lora import fan_in
from speechdst.models.transformer import (
    Transformer,
    TransformerConfig,
    attend_within,
    sinusoids,
    valid,
)


@dataclasses.dataclass(frozen=True)
class LogMelEncoderConfig:
    """`strides` of the two convolutions of width 3; Whisper's (1, 2) gives 50 vectors/s."""

    transformer: TransformerConfig
    channels: int = 80
    strides: tuple[int, int] = (1, 2)

    def length(self, frames):
        """Output vectors for `frames` log-mel frames (ints or integer arrays)."""
        for stride in self.strides:
            frames = -(-frames // stride)
        return frames


class Conv(nnx.Module):
    """1-D convolution; kernel float32 [taps, inputs, outputs], `padding` zeros on either side."""

    def __init__(self, inputs: int, outputs: int, taps: int, stride: int, padding: int,
                 rngs: nnx.Rngs):
        self.kernel = nnx.Param(fan_in(rngs.params(), (taps, inputs, outputs)))
        self.bias = nnx.Param(jax.numpy.zeros(outputs))
        self.stride, self.padding = stride, padding

    def __call__(self, x):
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...].astype(x.dtype), (self.stride,), [(self.padding, self.padding)],
            dimension_numbers=("NWC", "WIO", "NWC"))
        return y + self.bias[...].astype(x.dtype)


class LogMelEncoder(nnx.Module):
    """features [N, frames, channels], lengths [N] -> ([N, vectors, width], lengths [N])."""

    def __init__(self, config: LogMelEncoderConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.transformer.width
        self.conv1 = Conv(config.channels, width, 3, config.strides[0], 1, rngs)
        self.conv2 = Conv(width, width, 3, config.strides[1], 1, rngs)
        self.transformer = Transformer(config.transformer, rngs)

    def __call__(self, features, lengths):
        x = valid(features, lengths)
        for conv, stride in zip((self.conv1, self.conv2), self.config.strides, strict=True):
            lengths = -(-lengths // stride)
            # Behind the end every layer must see zeros, as it would if the batch ended there.
            x = valid(jax.nn.gelu(conv(x)), lengths)
        x = x + sinusoids(x.shape[1], x.shape[2]).astype(x.dtype)
        return self.transformer(x, attend_within(lengths))[0], lengths
