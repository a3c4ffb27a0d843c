"""What enters and leaves the decoder: scaled embeddings, soft vectors, logits."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from speechdst.config import model_config
from speechdst.data.dialogue import BadInput
from speechdst.models.decoder import Decoder, DecoderConfig
from speechdst.models.transformer import TransformerConfig
from speechdst.training import state


def decoder(**settings):
    tower = TransformerConfig(width=9, layers=1, heads=3)
    return Decoder(DecoderConfig(tower, vocabulary=5, **settings), nnx.Rngs(0))


def test_the_scale_of_embeddings_is_rounded_to_the_compute_dtype():
    """As in the reference, where 3072**0.5 = 55.4256 is 55.5 in bfloat16."""
    for dtype, scale in ((jnp.bfloat16, 55.5), (jnp.float32, 3072**0.5)):
        d = decoder(embedding_scale=3072**0.5)
        found = d.embed(jnp.arange(5), dtype)
        expected = d.embedding[...].astype(dtype) * jnp.asarray(scale, dtype)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == dtype


@pytest.mark.parametrize(("name", "scale"), [("gemma2", 32**0.5), ("gemma3", 1), ("plain", 1)])
def test_soft_vectors_are_scaled_in_gemma_2_alone(name, scale):
    config = tiny.config(decoder=name)
    graph, _ = state.abstract(config)
    model = state.model_of(graph, tiny.parameters(config))
    tree = tiny.builder("single").trees(tiny.dialogue(np.random.default_rng(0), 1))[0]
    batch = tiny.row([tree], tiny.shape(positions=128))
    x, soft, at = model.embed(batch), model.soft(batch), batch.soft[0]
    assert (at >= 0).sum() > 1
    np.testing.assert_allclose(x[0, at >= 0], soft[0, at[at >= 0]] * scale, rtol=1e-6)


def test_logits_are_float32_and_capped():
    for settings in (dict(tied=True), dict(tied=False)):
        plain, capped = decoder(**settings), decoder(**settings, logit_cap=0.5)
        hidden = 3 * jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 9)), jnp.bfloat16)
        logits = plain.logits(hidden)
        assert logits.dtype == jnp.float32 and logits.shape == (2, 4, 5)
        assert float(jnp.abs(logits).max()) > 0.5
        np.testing.assert_allclose(capped.logits(hidden), 0.5 * np.tanh(logits / 0.5), rtol=1e-6)


def test_the_vocabulary_may_be_larger_than_the_tokenizer_s_but_not_smaller():
    c = tiny.config()
    values = dataclasses.asdict(c)
    size = tiny.tokenizer().size
    values["decoder"]["vocabulary"] = size + 100
    assert model_config(values, size).decoder.vocabulary == size + 100
    values["decoder"]["vocabulary"] = size - 1
    with pytest.raises(BadInput, match=r"model.decoder.vocabulary: the config says \d+ and the"):
        model_config(values, size)
    values["decoder"]["vocabulary"] = 0
    assert model_config(values, size).decoder.vocabulary == size
    values["decoder"]["transformer"]["windows"] = [1, 2, 3]
    with pytest.raises(BadInput, match=r"model.decoder.transformer: 3 windows for 2 layers"):
        model_config(values, size)
