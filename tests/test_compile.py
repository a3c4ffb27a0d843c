"""Ahead-of-time compilation: what can be told without libtpu, and with it a whole small study."""

import importlib.util
import json
import types

import jax
import numpy as np
import pytest
from golden import shardings
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console

from configs import joint_dst, published
from speechdst import compile as ahead
from speechdst import flops, roofline, sharding, standin
from speechdst.config import axes_of, model_config
from speechdst.data.dialogue import BadInput
from speechdst.hlo import Collective, Program

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='compiling for TPUs needs the libtpu wheel: pip install "jax[tpu]"')
V5E, V5P = flops.CHIPS["v5e"], flops.CHIPS["v5p"]


def grid(*shape, slices=1):
    """Places of a slice's devices, row by row."""
    coords = np.argwhere(np.ones(shape)).tolist()
    coords = [tuple(c) + (0,) * (3 - len(c)) for c in coords]
    return [roofline.Place(s, c) for s in range(slices) for c in coords]


def seconds(kind, group, at, chip=V5E, size=10**9):
    return roofline.collective_seconds(Collective(kind, size, tuple(group), 1), chip, at)


def test_collectives_take_what_their_rings_take():
    small, pod = grid(4, 4), grid(16, 16)
    # One axis that is open: a link; all of both axes: two; closed axes: both ways round.
    assert seconds("all-gather", range(4), small) == (1e9 * 3 / 4 / V5E.link, 0)
    assert seconds("all-gather", range(16), small) == (1e9 * 15 / 16 / (2 * V5E.link), 0)
    assert seconds("all-reduce", range(256), pod) == (2e9 * 255 / 256 / (4 * V5E.link), 0)
    assert seconds("reduce-scatter", range(0, 256, 16), pod) == (1e9 * 15 / 16 / (2 * V5E.link), 0)
    cube = grid(4, 4, 4)
    assert seconds("all-gather", range(64), cube, V5P) == (1e9 * 63 / 64 / (6 * V5P.link), 0)
    assert seconds("all-reduce", (3,), small) == (0, 0)


def test_what_crosses_slices_also_takes_the_network():
    two = grid(4, 4, slices=2)
    inside, between = seconds("all-reduce", range(32), two)
    assert inside == 2e9 * 15 / 16 / (2 * V5E.link)
    assert between == 2e9 / 16 / 2 / V5E.dcn
    assert seconds("all-reduce", (0, 16), two) == (0, 2e9 / 2 / V5E.dcn)


def test_a_step_takes_as_long_as_its_scarcest_resource():
    reduce = Collective("all-reduce", 10**9, tuple(range(16)), 3)
    program = Program((reduce,), flops=V5E.flops, bytes=V5E.hbm_bandwidth / 2, unknown_loops=0,
                      kernels=0)
    e = roofline.estimate(program, 8 * V5E.flops, V5E, grid(4, 4))
    assert (e.compute, e.memory, e.limit, e.seconds, e.mfu) == (1.0, 0.5, "compute", 1.0, 0.5)
    assert e.communication == e.links == pytest.approx(3 * 2e9 * 15 / 16 / (2 * V5E.link))
    slow = roofline.estimate(program, 8 * V5E.flops, flops.CHIPS["v6e"], grid(4, 4))
    assert slow.limit == "memory" and slow.mfu < 0.5


@pytest.mark.parametrize("name", ["v5e-16", "v5e", "h100:2x2", "v9:2x2", "2v5e:2x2"])
def test_a_topology_that_is_none_is_one_line(name):
    with pytest.raises(BadInput, match=r"is no topology .*GENERATION:SHAPE"):
        ahead.devices_of(name)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs the libtpu wheel .*jax.tpu"):
        ahead.devices_of("v5e:4x4")


def test_the_compilers_reason_is_one_line_with_its_figure():
    text = ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
            " hbm.\nUsed 18.50G of 15.75G hbm. Exceeded hbm capacity by 2.75G.\n\nTotal hbm usage"
            " >= 18.75G:\n    reserved 256.00M\n")
    assert ahead.reason(RuntimeError(text)) == (
        "Used 18.50G of 15.75G hbm. Exceeded hbm capacity by 2.75G", 18.5)
    text = ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (512.00M) exceeds available HBM (15.75G).")
    assert ahead.reason(RuntimeError(text)) == (
        "memory required for HLO temporaries (512.00M) exceeds available HBM (15.75G)", 0.5)
    assert ahead.reason(RuntimeError("something\nelse")) == ("something else", None)


def test_memory_is_counted_by_the_share_of_a_device():
    mesh = sharding.make_mesh(1, 4, 1, jax.devices()[:4])
    of = lambda *axes: jax.ShapeDtypeStruct((8, 2**20), np.float32,
                                            sharding=NamedSharding(mesh, P(*axes)))
    assert ahead.held([of("fsdp"), of()]) == (8 + 32) / 1024


def test_chunks_without_a_target_are_not_counted():
    mesh = sharding.make_mesh(4, 1, 1, jax.devices()[:4])
    weight = np.zeros((8, 512), np.float32)
    weight[0, :10] = weight[3, :200] = weight[5, :129] = 1  # of 2 rows a device: 1, 2, 2, 0 chunks
    batch = types.SimpleNamespace(tokens=weight, loss_weight=weight)
    assert ahead.chunks_taken({"a": batch}, mesh) == 5 / 16


def test_presets_are_placed_on_topologies():
    c = joint_dst.get_config("gemma3_12b@v6e:8x8")
    rows, split = published.TOPOLOGIES["gemma3_12b"]["v6e:8x8"]
    assert {b.rows for s in c.stages.values() for b in s.batches.values()} == {64 * rows}
    assert axes_of(c, c.stages.joint) == dict(data=-1, fsdp=1, tensor=1)
    assert axes_of(c, c.stages.asr) == dict(data=-1, fsdp=split["asr"], tensor=1)
    with pytest.raises(ValueError, match="no settings for 'v4:2x2x2', there are v5e:8x8"):
        joint_dst.get_config("gemma3_4b@v4:2x2x2")


def test_parameters_lie_where_they_lay():
    found = shardings.shardings()
    expected = shardings.read("shardings")
    for preset in expected:
        assert found[preset] == expected[preset], (
            f"{preset}: if this is meant, run python tests/golden/shardings.py")
    split = [a for p, a in found["gemma3_12b"].items() if p.startswith("decoder") and "kernel" in p]
    assert split and all({"fsdp", "tensor"} <= {*a} for a in split)


def test_a_stand_in_goes_through_the_recipes_own_code(monkeypatch):
    monkeypatch.setattr(standin, "DIALOGUES", 6)
    c = joint_dst.get_config("tiny")
    model = model_config(c.model, c.tokenizer.size)
    batches, origin = ahead.batches_of(c, c.stages.joint, c.tokenizer.size, model)
    assert "stand-in" in origin and set(batches) == {"speech", "text"}
    assert batches["speech"].tables[0].spoken and not batches["text"].tables[0].spoken
    for batch in batches.values():
        assert (batch.tree >= 0).any() and batch.tokens.max() < c.tokenizer.size
        assert (batch.loss_weight > 0).any()
    encoded = c.stages.joint.copy_and_resolve_references()
    encoded.encoded = True
    table = ahead.batches_of(c, encoded, c.tokenizer.size, model)[0]["speech"].tables[0]
    heard = batches["speech"].tables[0].features
    assert table.features is None and table.encoded.shape == (
        *heard.shape[:2], model.encoder.length(heard.shape[2]), model.encoder.width)
    assert 0 < table.lengths.max() <= table.encoded.shape[2]
    assert len(standin.silence("one two three", None)) == int(16_000 * (0.5 + 3 * 0.45))


def study(stage, monkeypatch, capsys):
    monkeypatch.setattr(standin, "DIALOGUES", 6)
    c = joint_dst.get_config("tiny")
    c.mesh.fsdp = 2
    for batch in c.stages[stage].batches.values():
        batch.rows = 4
    r = json.loads(json.dumps(ahead.study(c, stage, "v5e:2x2", -1.0)))
    ahead.show(r, Console(width=110))
    printed = capsys.readouterr().out
    assert "never run" in printed and f"stage {stage}, on v5e:2x2 (4 devices" in printed
    return r, printed


def check(r, printed):
    assert r["fits"] and r["reason"] == "" and "fits with" in printed
    assert sum(r["hbm_gib_by_kind"].values()) <= r["hbm_gib"] + 0.01 < 1
    assert r["flops_compiled"] > sum(r["flops_by_tower"].values()) == r["flops"] > 0
    assert {k["kind"] for k in r["collectives"]} >= {"all-gather", "all-reduce"}
    assert r["step_seconds_estimate"] == max(r["seconds"].values()) and 0 < r["mfu_estimate"] < 1


def test_a_whole_study_on_this_machines_devices(monkeypatch, capsys):
    monkeypatch.setattr(ahead, "devices_of", lambda topology: (jax.devices()[:4], V5E))
    monkeypatch.setattr(roofline, "places", lambda devices: grid(2, 2))
    batches_of, made = ahead.batches_of, []

    def once(*args):
        if not made:
            made.append(batches_of(*args))
        return made[0]

    monkeypatch.setattr(ahead, "batches_of", once)
    check(*study("text", monkeypatch, capsys))

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 18.50G of 15.75G hbm. Exceeded "
                                         "hbm capacity by 2.75G.")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    r, printed = study("text", monkeypatch, capsys)
    assert not r["fits"] and r["hbm_gib"] == 18.5 and r["collectives"] is None
    assert "does NOT fit: Used 18.50G of 15.75G hbm" in printed


@needs_libtpu
@pytest.mark.timeout(1800)
def test_a_study_of_a_small_step(monkeypatch, capsys):
    check(*study("align", monkeypatch, capsys))


@needs_libtpu
@pytest.mark.timeout(3600)
def test_the_first_recipe_says_what_it_said():
    assert shardings.collectives() == shardings.read("collectives"), (
        "if this is meant, run python tests/golden/shardings.py --collectives")


@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:8x8", "v5p:4x4x4", "v6e:8x8"])
def test_a_mesh_may_split_the_axes_of_a_slice(topology):
    devices, _ = ahead.devices_of(topology)
    mesh = sharding.make_mesh(fsdp=4, tensor=2, devices=devices)
    assert mesh.devices.shape == (8, 4, 2)
    # Whoever speaks most stands side by side.
    apart = lambda a, b: np.abs(np.subtract(a.coords, b.coords)).sum()
    assert all(apart(*pair) == 1 for row in mesh.devices for pair in row)
