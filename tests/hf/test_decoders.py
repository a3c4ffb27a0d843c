"""Decoders of every family compute what the reference does, and go in and out of checkpoints."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from golden import decoders as golden
from golden import decoders_ours as ours
from safetensors.numpy import load_file

from speechdst import sharding
from speechdst.data.dialogue import BadInput
from speechdst.hf import decoders as hf

FIRST = [f"{family}0" for family in golden.CASES]


@functools.cache
def stored(family) -> dict[str, np.ndarray]:
    with np.load(Path(golden.__file__).parent / f"decoders_{family}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", golden.NAMES)
def test_every_layer_is_the_reference_s(name, tmp_path):
    found = ours.outputs(name, tmp_path)
    expected = {k: v for k, v in stored(name[:-1]).items() if k.startswith(f"{name}.")}
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].shape == value.shape
        # Layer by layer, each against its own largest entry.
        for a, b in zip(*(x if key.endswith("states") else x[None] for x in (found[key], value)),
                        strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def all_tensors(folder) -> dict[str, np.ndarray]:
    return {k: v for p in sorted(folder.glob("*.safetensors")) for k, v in load_file(p).items()}


@pytest.mark.parametrize("name", golden.NAMES)
def test_a_round_trip_changes_no_bit(name, tmp_path):
    """Single or sharded, the same names and the same tensors come back."""
    before = ours.write(tmp_path / "in", name)
    _, config, params = ours.load(tmp_path / "in")
    for shard_bytes, files in ((10**9, 1), (6000, 2)):
        out = tmp_path / str(shard_bytes)
        hf.save(out, params, config, golden.values(name), shard_bytes=shard_bytes)
        assert len(list(out.glob("*.safetensors"))) >= files
        after = all_tensors(out)
        assert set(after) == set(before)
        for key, value in before.items():
            np.testing.assert_array_equal(after[key], value, err_msg=key)
        assert hf.decoder_config(hf.read_config(out)) == config
    if name in FIRST:
        jax.tree.map(np.testing.assert_array_equal, ours.load(out)[2], params)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_comes_and_goes_exactly(dtype, tmp_path):
    before = ours.write(tmp_path / "in", "qwen20", dtype)
    _, config, params = ours.load(tmp_path / "in")
    assert params["embedding"].dtype == np.float32, "loaded as the template says"
    hf.save(tmp_path / "out", params, config, golden.values("qwen20"), dtype=np.dtype(dtype))
    after = all_tensors(tmp_path / "out")
    assert all(x.dtype == dtype for x in after.values())
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == np.dtype(dtype).name


@pytest.mark.parametrize("mesh", [(4, 1, 1), (1, 4, 1), (1, 2, 2)], ids=str)
def test_loading_straight_into_shards(mesh, tmp_path):
    ours.write(tmp_path, "qwen21")
    _, config, params = ours.load(tmp_path)
    _, shapes = ours.shapes(config)
    where = sharding.parameters(shapes, sharding.make_mesh(*mesh))
    found = hf.load(tmp_path, config, {p: jax.ShapeDtypeStruct(x.shape, "bfloat16",
                                                               sharding=where[p])
                                       for p, x in shapes.items()})
    for path, value in params.items():
        assert found[path].sharding.is_equivalent_to(where[path], value.ndim), path
        np.testing.assert_array_equal(found[path], value.astype("bfloat16"), err_msg=path)


@pytest.mark.parametrize("name", FIRST)
def test_multi_modal_and_bare_names_are_read(name, tmp_path):
    before = ours.write(tmp_path / "in", name)
    _, config, params = ours.load(tmp_path / "in")
    for i, rename in enumerate((lambda n: f"language_model.{n}",
                                lambda n: n.replace("model.", "model.language_model.", 1),
                                lambda n: n.removeprefix("model."))):
        folder = tmp_path / str(i)
        others = {"vision_tower.x.weight": np.zeros(3, np.float32),
                  "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}
        write(folder, name, {rename(n): x for n, x in before.items()} | others)
        found = hf.load(folder, config, ours.shapes(config)[1])
        jax.tree.map(np.testing.assert_array_equal, found, params)


def write(folder, name, tensors, values=None):
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values or golden.values(name)))


def test_the_text_part_of_gemma_3(tmp_path):
    """As the hub writes it: nearly all is left to the defaults, and the text part has no tying."""
    values = dict(model_type="gemma3", eos_token_id=[1, 106], text_config=dict(
        hidden_size=2560, intermediate_size=10240, model_type="gemma3_text", num_hidden_layers=34,
        rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window=1024),
        vision_config=dict(hidden_size=1152))
    from speechdst.hf import published

    assert hf.decoder_config(values) == published.decoder("gemma3-4b")


def test_both_ways_of_writing_rotary_settings():
    """Of transformers 4 and of transformers 5."""
    old = golden.values("gemma3_text2")
    new = {k: v for k, v in old.items() if not k.startswith("rope")}
    new["rope_parameters"] = dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=5e4),
        sliding_attention=dict(rope_type="default", rope_theta=100.0))
    new["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    assert hf.decoder_config(new) == hf.decoder_config(old)
    old = golden.values("llama0")
    new = {k: v for k, v in old.items() if not k.startswith("rope")}
    new["rope_parameters"] = dict(old["rope_scaling"], rope_theta=old["rope_theta"])
    assert hf.decoder_config(new) == hf.decoder_config(old)


@pytest.mark.parametrize(("change", "message"), [
    (dict(model_type="gpt2"), r"config.json, field model_type: 'gpt2' is no family.*llama"),
    (dict(model_type=None), "None is no family"),
    (dict(hidden_size=None), "field hidden_size: missing"),
    (dict(hidden_size="many"), "not a config of llama"),
    (dict(num_key_value_heads=2), "3 heads are no multiple of 2"),
    (dict(hidden_act="relu"), "hidden_act: 'relu', expected one of silu"),
    (dict(attention_bias=True), "attention_bias: is True, which we do not compute"),
    (dict(quantization_config={"bits": 4}), "quantization_config"),
    (dict(rope_scaling=dict(rope_type="yarn")), "rotary scaling 'yarn', expected one of default"),
    (dict(rope_scaling=dict(rope_type="linear")), "field factor: missing"),
])
def test_configs_that_we_cannot_compute(change, message, tmp_path):
    values = golden.values("llama0") | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(BadInput, match=message) as error:
        hf.decoder_config(hf.read_config(tmp_path), tmp_path / "config.json")
    assert "\n" not in str(error.value)


def test_no_config_or_no_json(tmp_path):
    with pytest.raises(BadInput, match=r"config.json: cannot be read .*downloaded"):
        hf.read_config(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BadInput, match=r"not (a )?JSON"):
            hf.read_config(tmp_path)


def test_a_checkpoint_of_another_model_is_refused_before_it_is_read(tmp_path):
    ours.write(tmp_path, "qwen20")
    (tmp_path / "model.safetensors").unlink()
    _, config, _ = load_config("qwen30")
    with pytest.raises(BadInput, match=r"another model: .*qkv_bias True instead of False"):
        hf.load(tmp_path, config, {})
    # LoRA and rematerialisation are the recipe's own.
    own = hf.decoder_config(golden.values("qwen20"))
    wrapped = dataclasses.replace(own, transformer=dataclasses.replace(
        own.transformer, lora_rank=4, lora_alpha=4.0, remat=True))
    hf.check(own, wrapped, tmp_path)


def load_config(name):
    config = hf.decoder_config(golden.values(name))
    return (*ours.shapes(config)[:1], config, ours.shapes(config)[1])
