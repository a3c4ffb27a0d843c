"""Published decoders have the published numbers of parameters, to the unit; nothing is computed."""

import jax
import numpy as np
import pytest
from flax import nnx

from speechdst.data.dialogue import BadInput
from speechdst.hf import decoders, published
from speechdst.hf.checkpoint import their_shape
from speechdst.models.decoder import Decoder
from speechdst.models.transformer import TransformerConfig, frequencies
from speechdst.training.state import flatten

PARAMETERS = {
    "olmo-1b": 1_176_764_416,
    "olmo2-1b": 1_484_916_736,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 3_880_263_168,
    "gemma3-12b": 11_766_034_176,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
}


def shapes(config):
    return flatten(nnx.state(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0)))))


@pytest.mark.parametrize("name", published.CONFIGS)
def test_number_of_parameters(name):
    config = published.decoder(name)
    found = shapes(config)
    assert sum(int(np.prod(x.shape)) for x in found.values()) == PARAMETERS[name]
    table = decoders.table(config)
    assert set(table) == set(found), "every parameter has its place in a checkpoint"
    assert {len(their_shape(t, found[path].shape)) for path, t in table.items()} <= {1, 2}


def test_an_unknown_name_lists_the_known():
    with pytest.raises(BadInput, match=r"no decoder 'gpt'.*olmo-1b.*llama3.2-3b"):
        published.decoder("gpt")


def test_rotary_frequencies_of_llama_3():
    """Values of the reference implementation, transformers 4.57.1."""
    one, three = (frequencies(published.decoder(n).transformer)[0] for n in (
        "llama3.2-1b", "llama3.2-3b"))
    for f, at, expected in ((one, 1, 0.6636013), (one, 16, 4.2955671e-4), (one, 18, 1.9461639e-5),
                            (one, 20, 8.5702559e-6), (one, 31, 9.4183065e-8),
                            (three, 34, 9.7082862e-5), (three, 36, 1.9461639e-5),
                            (three, 63, 7.6723147e-8)):
        np.testing.assert_allclose(f[at], expected, rtol=1e-6)
    np.testing.assert_allclose([one.sum(), three.sum()], [2.9682024, 5.3851823], rtol=1e-6)


def test_layers_of_gemma():
    two, three = (published.decoder(n).transformer for n in ("gemma2-2b", "gemma3-4b"))
    assert two.windows[:4] == (4096, 0, 4096, 0) and not two.rope_local_theta
    assert three.windows[:7] == (1024,) * 5 + (0, 1024)
    f = frequencies(three)
    np.testing.assert_allclose(f[0], 1e4 ** (-np.arange(128) / 128), rtol=1e-6)
    np.testing.assert_allclose(f[5], 1e6 ** (-np.arange(128) / 128) / 8, rtol=1e-6)


@pytest.mark.parametrize("wrong", [dict(activation="relu"), dict(windows=(1,)), dict(qk_norm="k"),
                                   dict(rope_scaling=(1.0, 2.0)), dict(kv_heads=3)])
def test_a_config_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TransformerConfig(width=8, layers=2, heads=4, **wrong)


def test_counting_computes_nothing():
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in shapes(
        published.decoder("gemma2-9b")).values())
