"""WavLM and Whisper checkpoints: configs, names and prefixes, as their files have them."""

import dataclasses
import json
import re

import numpy as np
import pytest
from golden import encoders, encoders_ours
from safetensors.numpy import load_file, save_file

from speechdst.data.dialogue import BadInput
from speechdst.hf import encoders as encoder_files
from speechdst.hf import wavlm, whisper
from speechdst.hf.checkpoint import their_shape
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
            for name in [t.aliases[0] if old and "original" in t.name else t.name]
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


def family(name):
    if name.startswith("whisper"):
        return whisper, encoders.WHISPER, Whisper
    return wavlm, encoders.WAVLM, WavLM


@pytest.mark.parametrize("name", ["base1", "large0", "whisper1"])
def test_every_parameter_has_its_tensor(name):
    hf, values, cls = family(name)
    config = hf.config(values[name])
    _, shapes = encoders_ours.shapes(cls, config)
    table = hf.table(config)
    assert table.keys() == shapes.keys()
    params = encoders_ours.drawn(table, shapes)
    assert {p: x.shape for p, x in params.items()} == {p: x.shape for p, x in shapes.items()}
    assert all(x.dtype == np.float32 for x in params.values())


def checkpoint(folder, name, prefix="", old=False, extra=(), without=()):
    """A folder as the hub has it: the tensors by the rule under the reference's names."""
    hf, values, cls = family(name)
    config = hf.config(values[name])
    _, shapes = encoders_ours.shapes(cls, config)
    tensors = dict.fromkeys(extra, np.zeros(3, np.float32))
    for path, tensor in hf.table(config).items():
        their = their_shape(tensor, shapes[path].shape)
        for i in range(shapes[path].shape[0] if "{i}" in tensor.name else 1):
            bare = encoders_ours.bare(tensor.name.format(i=i))
            stored = bare
            if old:
                stored = stored.replace("parametrizations.weight.original0", "weight_g").replace(
                    "parametrizations.weight.original1", "weight_v")
            tensors[prefix + stored] = encoders.draw(bare, their)
    folder.mkdir()
    save_file({n: x for n, x in tensors.items() if n not in without}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values[name]))
    return config, shapes


@pytest.mark.parametrize(("name", "prefix", "old", "extra"), [
    ("base1", "", True, ("masked_spec_embed",)),
    ("large1", "wavlm.", False, ("wavlm.masked_spec_embed", "lm_head.weight")),
    ("whisper1", "model.encoder.", False, ("model.decoder.embed_tokens.weight",)),
    ("whisper1", "encoder.", False, ("decoder.layers.0.fc1.weight",)),
])
def test_checkpoints_are_read_and_written_back_bit_for_bit(tmp_path, name, prefix, old, extra):
    hf, values, _ = family(name)
    config, shapes = checkpoint(tmp_path / "in", name, prefix, old, extra)
    assert encoder_files.encoder_config(tmp_path / "in") == config
    params = encoder_files.load(tmp_path / "in", config, shapes)
    for path, expected in encoders_ours.drawn(hf.table(config), shapes).items():
        np.testing.assert_array_equal(params[path], expected, err_msg=path)
    encoder_files.save(tmp_path / "out", params, config, values[name])
    written = load_file(tmp_path / "out/model.safetensors")
    assert len(written) == len(load_file(tmp_path / "in/model.safetensors")) - len(extra)
    for stored, x in written.items():
        np.testing.assert_array_equal(x, encoders.draw(encoders_ours.bare(stored), x.shape))
    assert encoder_files.encoder_config(tmp_path / "out") == config


def test_checkpoints_that_do_not_fit_are_one_clear_line(tmp_path):
    config, shapes = checkpoint(tmp_path / "whole", "base1")
    read = lambda folder, c=config: encoder_files.load(tmp_path / folder, c, shapes)
    checkpoint(tmp_path / "extra", "base1", extra=("encoder.unheard_of",))
    checkpoint(tmp_path / "less", "base1", without=("encoder.layer_norm.weight",))
    checkpoint(tmp_path / "other", "base0")
    checkpoint(tmp_path / "hubert", "base1")
    (tmp_path / "hubert/config.json").write_text('{"model_type": "hubert"}')
    checkpoint(tmp_path / "preprocessor", "base1")
    (tmp_path / "preprocessor/preprocessor_config.json").write_text("{")
    for folder, words in (
            ("extra", "encoder.unheard_of extra"), ("less", "encoder.layer_norm.weight missing"),
            ("other", "width 24 instead of 20"), ("hubert", "'hubert' is no speech encoder"),
            ("preprocessor", "not JSON"), ("nowhere", "cannot be read")):
        with pytest.raises(BadInput, match=re.escape(words)) as error:
            read(folder)
        assert folder in str(error.value)


def test_what_a_recipe_may_choose_is_not_held_against_the_checkpoint(tmp_path):
    config, _ = checkpoint(tmp_path / "large", "large1")
    assert config.normalize
    (tmp_path / "large/preprocessor_config.json").write_text('{"do_normalize": false}')
    assert not encoder_files.encoder_config(tmp_path / "large").normalize
    chosen = dataclasses.replace(config, normalize=False, leak_padding=True, remat=True)
    encoder_files.check(config, chosen, "config.json")
    with pytest.raises(BadInput, match="layers 2 instead of 3"):
        encoder_files.check(config, dataclasses.replace(config, layers=3), "config.json")
