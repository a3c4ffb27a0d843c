"""LoRA in peft's adapter format (that peft itself loads it: `tests/golden/make_decoders.py`)."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from golden import decoders as golden
from golden import decoders_ours as ours
from safetensors.numpy import load_file, save_file

from speechdst.data.dialogue import BadInput
from speechdst.hf import decoders as hf
from speechdst.hf import lora
from speechdst.models.lora import merge

BASE = hf.decoder_config(golden.values("qwen20"))
CONFIG = dataclasses.replace(BASE, transformer=dataclasses.replace(
    BASE.transformer, lora_rank=2, lora_alpha=6.0))
GRAPH, SHAPES = ours.shapes(CONFIG)
TEMPLATE = {p: x for p, x in SHAPES.items() if lora.is_lora(p)}
TABLE = hf.table(BASE)


def drawn():
    return {p: jax.numpy.asarray(golden.draw(p, x.shape)) for p, x in TEMPLATE.items()}


@pytest.fixture
def adapter(tmp_path):
    lora.save(tmp_path, drawn(), TABLE, 2, 6.0, "Qwen/Qwen2.5-0.5B")
    return tmp_path


def refused(folder, message):
    with pytest.raises(BadInput, match=message):
        lora.load(folder, TEMPLATE, TABLE, 2, 6.0)


def test_layout(adapter):
    stored = load_file(adapter / "adapter_model.safetensors")
    kernels = 7 * BASE.transformer.layers
    assert len(stored) == 2 * kernels
    a = stored["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"]
    np.testing.assert_array_equal(a, drawn()["transformer/blocks/q/lora_a"][1].T)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj",
                                        "up_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 6.0, "LORA")


def test_round_trip(adapter):
    found = lora.load(adapter, TEMPLATE, TABLE, 2, 6.0)
    jax.tree.map(np.testing.assert_array_equal, found, drawn())


def test_merged_computes_what_the_adapter_does(tmp_path):
    ours.write(tmp_path / "in", "qwen20")
    graph, _, params = ours.load(tmp_path / "in")
    beside = ours.run(GRAPH, params | drawn())
    merged = merge(params | drawn(), 2, 6.0)
    assert set(merged) == set(params)
    for key, value in ours.run(graph, merged).items():
        np.testing.assert_allclose(value, beside[key], atol=1e-4 * np.abs(value).max())
    assert not np.allclose(beside["logits"], ours.run(graph, params)["logits"])
    half = {p: v.astype("bfloat16") for p, v in params.items()}
    assert {v.dtype.name for v in merge(half | drawn(), 2, 6.0).values()} == {"bfloat16"}


@pytest.mark.parametrize(("change", "message"), [
    (dict(peft_type="IA3"), "peft_type: is 'IA3', expected 'LORA'"),
    (dict(r=4), r"field r: is 4, this model has 2 \(set lora_rank"),
    (dict(lora_alpha=1), "lora_alpha: is 1, this model has 6.0"),
    (dict(use_dora=True), "use_dora: is True, which we do not compute"),
    (dict(use_rslora=True), "use_rslora"),
    (dict(rank_pattern={"q_proj": 4}), "rank_pattern"),
    (dict(modules_to_save=["lm_head"]), "modules_to_save"),
])
def test_adapters_that_are_not_ours(adapter, change, message):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(adapter, message)


def test_incomplete_or_damaged_adapters(adapter):
    path = adapter / "adapter_model.safetensors"
    stored = load_file(path)
    gone = stored.popitem()[0]
    save_file(stored, path)
    refused(adapter, f"1 tensors .*{gone} missing")
    path.unlink()
    refused(adapter, "no adapter_model.safetensors there")
    (adapter / "adapter_config.json").write_text("{")
    refused(adapter, "point at the folder of a peft adapter")
    (adapter / "adapter_config.json").unlink()
    refused(adapter, "point at the folder of a peft adapter")
