"""WavLM and Whisper checkpoints: configs, names and prefixes, as their files have them."""

import re

import numpy as np
import pytest
from golden import encoders, encoders_ours

from speechdst.data.dialogue import BadInput
from speechdst.hf import wavlm, whisper
from speechdst.models.audio_encoder.wavlm import WAVLM_BASE, WAVLM_LARGE, WavLM
from speechdst.models.audio_encoder.whisper import SIZES, Whisper

# What the hub's config.json says of the released models, as far as it differs from the defaults.
LARGE = dict(model_type="wavlm", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
             intermediate_size=4096, feat_extract_norm="layer", do_stable_layer_norm=True)


def test_the_released_configs_are_ours():
    assert wavlm.config(dict(model_type="wavlm")) == WAVLM_BASE
    assert wavlm.config(LARGE) == WAVLM_LARGE
    assert not wavlm.config(LARGE, dict(do_normalize=False)).normalize
    assert whisper.config(dict(model_type="whisper")) == SIZES["tiny"]
    v3 = dict(model_type="whisper", d_model=1280, encoder_layers=32, encoder_attention_heads=20,
              encoder_ffn_dim=5120, num_mel_bins=128)
    assert whisper.config(v3) == SIZES["large-v3"]
    assert whisper.config(v3, window="pad30").window == "pad30"


@pytest.mark.parametrize(("read", "values", "words"), [
    (wavlm.config, dict(model_type="hubert"), "model_type: 'hubert', expected 'wavlm'"),
    (wavlm.config, {}, "model_type: None"),
    (wavlm.config, LARGE | dict(add_adapter=True), "add_adapter: True, expected False"),
    (wavlm.config, LARGE | dict(hidden_act="relu"), "hidden_act"),
    (wavlm.config, LARGE | dict(num_attention_heads=7), "7 heads"),
    (whisper.config, dict(model_type="wavlm"), "expected 'whisper'"),
    (whisper.config, dict(model_type="whisper", activation_function="relu"), "activation"),
])
def test_another_family_or_setting_is_one_clear_line(read, values, words):
    with pytest.raises(BadInput, match=re.escape(words)) as error:
        read(values, file="model/config.json")
    assert "model/config.json" in str(error.value) and "\n" not in str(error.value)


def names(table, layers, old=False):
    """All tensors of a checkpoint without prefix, weight norm in its old spelling or the new."""
    return {name.format(i=i) for t in table.values()
            for name in [t.aliases[0] if old and t.aliases else t.name]
            for i in range(layers if "{i}" in name else 1)}


def test_both_spellings_of_weight_norm():
    table = wavlm.table(WAVLM_BASE)
    new, old = names(table, 12), names(table, 12, old=True)
    conv = "encoder.pos_conv_embed.conv"
    assert new - old == {f"{conv}.parametrizations.weight.original{i}" for i in (0, 1)}
    assert old - new == {f"{conv}.weight_g", f"{conv}.weight_v"}
    assert len(new) == 248 - 1 and len(names(wavlm.table(WAVLM_LARGE), 24)) == 488 - 1


@pytest.mark.parametrize(("module", "used", "ignored"), [
    (wavlm, ("wavlm.encoder.layer_norm.weight", "feature_extractor.conv_layers.0.conv.weight"),
     ("masked_spec_embed", "wavlm.masked_spec_embed", "lm_head.weight", "tdnn.0.kernel.weight",
      "feature_extractor.weight")),
    (whisper, ("model.encoder.conv1.weight", "encoder.layer_norm.bias", "conv1.weight"),
     ("model.decoder.embed_tokens.weight", "decoder.layers.0.fc1.bias", "proj_out.weight")),
])
def test_what_is_ignored_is_named(module, used, ignored):
    dropped = lambda name: any(re.search(pattern, name) for pattern in module.IGNORED)
    assert all(map(dropped, ignored)) and not any(map(dropped, used))
    assert not dropped("encoder.layers.0.attention.unheard_of.weight")


@pytest.mark.parametrize("name", ["base1", "large0", "whisper1"])
def test_every_parameter_has_its_tensor(name):
    hf, values, cls = ((whisper, encoders.WHISPER, Whisper) if name.startswith("whisper") else
                       (wavlm, encoders.WAVLM, WavLM))
    config = hf.config(values[name])
    _, shapes = encoders_ours.shapes(cls, config)
    table = hf.table(config)
    assert table.keys() == shapes.keys()
    params = encoders_ours.drawn(table, shapes)
    assert {p: x.shape for p, x in params.items()} == {p: x.shape for p, x in shapes.items()}
    assert all(x.dtype == np.float32 for x in params.values())
