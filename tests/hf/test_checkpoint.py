"""Checkpoints that are damaged, of another model or hostile: one line each, nothing half-loaded."""

import json
import tracemalloc

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from speechdst.data.dialogue import BadInput
from speechdst.hf import checkpoint, files
from speechdst.hf.table import CONV1D, LINEAR, Tensor

TABLE = {
    "embedding": Tensor("embed.weight"),
    "blocks/q/kernel": Tensor("layers.{i}.q.weight", LINEAR, ("encoder.layers.{i}.q.weight",)),
    "conv/kernel": Tensor("conv.weight", CONV1D),
}
SHAPES = {"embedding": (6, 4), "blocks/q/kernel": (3, 4, 5), "conv/kernel": (3, 2, 7)}
TEMPLATE = {p: jax.ShapeDtypeStruct(s, "float32") for p, s in SHAPES.items()}


def params():
    rng = np.random.default_rng(0)
    return {p: jax.numpy.asarray(rng.standard_normal(s), "float32") for p, s in SHAPES.items()}


def load(folder, **more):
    return checkpoint.load(folder, TABLE, TEMPLATE, **more)


@pytest.fixture
def single(tmp_path):
    checkpoint.save(tmp_path, params(), TABLE)
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    checkpoint.save(tmp_path, params(), TABLE, shard_bytes=100)
    return tmp_path


def refused(folder, message, **more):
    with pytest.raises(BadInput, match=message) as error:
        load(folder, **more)
    assert "\n" not in str(error.value)


def test_layout(sharded):
    """Names, shapes and orientation are the reference's: nn.Linear is [out, in]."""
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {"embed.weight", "conv.weight",
                                        *(f"layers.{i}.q.weight" for i in range(3))}
    assert index["metadata"]["total_size"] == 4 * sum(np.prod(s) for s in SHAPES.values())
    assert sorted(set(index["weight_map"].values())) == [
        f"model-{i + 1:05}-of-00005.safetensors" for i in range(5)]
    stored = {k: v for p in sharded.glob("*.safetensors") for k, v in load_file(p).items()}
    np.testing.assert_array_equal(stored["layers.1.q.weight"], params()["blocks/q/kernel"][1].T)
    assert stored["conv.weight"].shape == (7, 2, 3)
    jax.tree.map(np.testing.assert_array_equal, load(sharded), params())


def test_aliases_are_read_and_some_extras_are_known(single):
    stored = load_file(single / "model.safetensors")
    renamed = {k.replace("layers", "encoder.layers"): v for k, v in stored.items()}
    save_file(renamed | {"head.weight": np.ones(2, np.float32)}, single / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load(single, ignored=(r"^head\.",)), params())
    refused(single, "1 tensors of the checkpoint do not fit this model: head.weight extra")


def test_missing_extra_and_misshapen_tensors_are_listed(single):
    stored = load_file(single / "model.safetensors")
    del stored["layers.1.q.weight"]
    stored |= {"embed.weight": np.zeros((6, 5), np.float32), "layers.3.q.weight": np.zeros((5, 4))}
    save_file(stored, single / "model.safetensors")
    refused(single, r"3 tensors .*embed.weight \(6, 5\) instead of \(6, 4\); layers.1.q.weight "
                    r"missing; layers.3.q.weight extra")


@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_other_dtypes(single, dtype):
    stored = load_file(single / "model.safetensors")
    save_file(stored | {"embed.weight": np.zeros((6, 4), dtype)}, single / "model.safetensors")
    refused(single, r"record embed.weight: is (I8|F64), expected one of F32, F16, BF16")


def test_damaged_files(single):
    path = single / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(single, r"model.safetensors: .*(cut off|not a safetensors).*again")
    path.write_bytes(whole + b"more")
    refused(single, "cut off or has been changed")
    path.write_bytes(b"\x80\x02}q\x00." * 50)
    refused(single, "not a safetensors file")
    path.write_bytes((4).to_bytes(8, "little") + b"[12]")
    refused(single, "not a safetensors file")
    wrong = whole.replace(b'"shape":[6,4]', b'"shape":[7,4]')
    assert wrong != whole
    path.write_bytes(wrong)
    refused(single, r"record embed.weight: F32 \(7, 4\) in 96 bytes")


@pytest.mark.parametrize("shard", ["/etc/passwd", "../model-00001-of-00005.safetensors", "..",
                                   "sub/model.safetensors", "a\\b", ""])
def test_an_index_that_points_elsewhere(sharded, shard):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["embed.weight"] = shard
    path.write_text(json.dumps(index))
    refused(sharded, r"index.json, field weight_map: shard .* is not a file name in this folder")


def test_an_index_and_shards_that_do_not_agree(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    file = index["weight_map"]["embed.weight"]
    index["weight_map"]["other.weight"] = file
    path.write_text(json.dumps(index))
    refused(sharded, r"index and shard differ in 1 tensors: other.weight")
    (sharded / file).unlink()
    refused(sharded, f"{file}: cannot be read")
    for text in ("{", "[]", "{}", '{"weight_map": {"a": [1]}}'):
        path.write_text(text)
        refused(sharded, "not an index of safetensors|is not a file name")


def test_no_checkpoint(tmp_path):
    refused(tmp_path, "no model.safetensors there .*point at")
    (tmp_path / "pytorch_model.bin").touch()
    refused(tmp_path, "only pytorch_model.bin .*convert")


def test_what_was_there_before_is_replaced(tmp_path):
    """A stale single file would be read instead of new shards, and the other way round."""
    for shard_bytes in (100, 10**9, 250):
        checkpoint.save(tmp_path, params(), TABLE, shard_bytes=shard_bytes)
        (tmp_path / "other.safetensors").touch()
        jax.tree.map(np.testing.assert_array_equal, load(tmp_path), params())
        names = {p.name for p in tmp_path.iterdir()} - {"other.safetensors"}
        assert ("model.safetensors" in names) == (shard_bytes == 10**9)
        assert not any("00005" in n for n in names) or shard_bytes == 100


def test_save_wants_exactly_the_table(tmp_path):
    with pytest.raises(ValueError, match="lora_a"):
        checkpoint.save(tmp_path, params() | {"blocks/q/lora_a": 0}, TABLE)
    assert not list(tmp_path.iterdir())


def test_the_host_holds_one_tensor_at_a_time(tmp_path):
    """Peak host memory stays far under that of a shard (what lies on devices is not counted)."""
    table = {"w/kernel": Tensor("l.{i}.w.weight", LINEAR), "e": Tensor("e.weight")}
    shapes = {"w/kernel": (16, 128, 256), "e": (256, 128)}
    made = {p: jax.numpy.ones(s) for p, s in shapes.items()}
    checkpoint.save(tmp_path, made, table, shard_bytes=1_100_000)
    shard = max(p.stat().st_size for p in tmp_path.glob("*.safetensors"))
    tensor = 128 * 256 * 4
    template = {p: jax.ShapeDtypeStruct(s, "float32") for p, s in shapes.items()}
    checkpoint.load(tmp_path, table, template)  # compiled
    tracemalloc.start()
    try:
        loaded = checkpoint.load(tmp_path, table, template)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert shard > 7 * tensor
    assert peak < 4 * tensor, f"{peak} bytes, a tensor has {tensor}, a shard {shard}"
    jax.tree.map(np.testing.assert_array_equal, loaded, made)


def test_progress_is_shown(single, capsys):
    load(single, progress=True)
    assert f"reading {single.name}" in capsys.readouterr().err


def test_a_tensor_is_read_only_in_known_dtypes(single):
    stored = files.header(single / "model.safetensors")["embed.weight"]
    assert stored.read().dtype == np.float32 and stored.shape == (6, 4)
