"""Attention over several devices, and compiled ahead of time for chips that are not here."""

import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.experimental import topologies
from jax.sharding import NamedSharding
from test_attention import positions

from speechdst import sharding
from speechdst.data.batch import Blocks
from speechdst.data.tree import block_lists
from speechdst.models import attention

# What the compiler has to know of a GPU (public figures of an H100).
H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 13 }"""
ROWS, T = 8, 512
# Two trees, the second with two branches, then padding.
LAYOUT = np.array([(0, 0, 0)] * 150 + [(150, 150, 150)] * 130 + [(150, 210, 280)] * 60
                  + [(150, 280, 340)] * 70 + [(0, 0, i) for i in range(410, T)], np.int32).T


def arguments(heads, groups, d, dtype, window=None):
    """Of `step`, numpy; a row differs from the next."""
    rng = np.random.default_rng(0)
    draw = lambda n: rng.standard_normal((ROWS, T, n, d)).astype(dtype)
    layouts = [LAYOUT if r % 2 else np.array([(0, 0, 0)] * (40 * r + 8) + [
        (0, 0, i) for i in range(40 * r + 8, T)], np.int32).T for r in range(ROWS)]
    lists = [block_lists(*layout, 128) for layout in layouts]
    blocks = Blocks(**{name: np.stack([b[name] for b in lists]) for name in lists[0]})
    where = tuple(np.stack([layout[i] for layout in layouts]) for i in range(3))
    at = np.stack([positions(layout) for layout in layouts])
    return (draw(heads), draw(groups), draw(groups)), draw(heads), where, blocks, at, window


def step(qkv, cotangent, where, blocks, at, window):
    out, back = jax.vjp(lambda *x: attention.walk(*x, *where, blocks, at, window=window), *qkv)
    return out, back(cotangent)


def lowered(devices, shape, platform, *args):
    """`step` for a mesh of this shape, rows and heads over its axes."""
    devices = jax.devices()[: math.prod(shape)] if devices is None else devices
    mesh = sharding.make_mesh(*shape, devices=devices)

    def laid(x):
        axes = (sharding.ROWS, None, "tensor")[: 3 if np.ndim(x) == 4 else 1]
        split = NamedSharding(mesh, sharding._fitted(axes, np.shape(x), mesh))
        return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=split)

    with jax.set_mesh(mesh), jax.default_matmul_precision("default"):
        return jax.jit(step).trace(*jax.tree.map(laid, args)).lower(lowering_platforms=(platform,))


def gathers(text: str) -> list[str]:
    return re.findall(r"\S+ = \S+ (?:all-gather|all-to-all|collective-permute)\S*\(.*", text)


# Key heads as many as devices on `tensor`; fewer, so that they are repeated; of no use to split.
@pytest.mark.parametrize(("shape", "groups"), [((2, 2, 1), 1), ((1, 2, 2), 2), ((2, 1, 2), 1)])
def test_devices_take_their_own_rows_and_heads(shape, groups):
    """As on one device, and nothing is gathered."""
    args = arguments(4, groups, 8, np.float32, np.int32(100))
    compiled = lowered(None, shape, "cpu", *args).compile(tiny.QUICK)
    assert not gathers(compiled.as_text())
    found = compiled(*jax.device_put(args, compiled.input_shardings[0]))
    expected = jax.jit(step, compiler_options=tiny.QUICK)(*args)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_compiles_ahead_of_time_for_tpu(monkeypatch):
    """A real compiler, no chip: forward, dq and dk/dv are kernels, on every device its own part."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install 'speechdst[tpu]'")
    for name, value in dict(TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE="v5litepod-16",
                            TPU_WORKER_HOSTNAMES="localhost", ALLOW_MULTIPLE_LIBTPU_LOAD="1",
                            TPU_MIN_LOG_LEVEL="3").items():
        monkeypatch.setenv(name, value)
    for topology, shape, *rest in (
            ("v5e:4x4", (2, 2, 4), 4, 1, 80, jnp.bfloat16, np.int32(100)),
            ("v5p:2x2x1", (4, 1, 1), 2, 2, 128, jnp.float32),
            ("v6e:2x2", (1, 2, 2), 8, 2, 256, jnp.bfloat16)):
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        text = lowered(devices, shape, "tpu", *arguments(*rest)).compile().as_text()
        assert text.count('custom_call_target="tpu_custom_call"') == 3, topology
        assert not gathers(text), topology


def test_compiles_ahead_of_time_for_gpu():
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        pytest.skip("no CUDA plugin is installed: pip install 'speechdst[gpu]'")
    devices = topologies.get_topology_desc(
        platform="cuda", topology_name="H100", topology="1x1x1", target_config=H100).devices
    program = lowered(devices, (1, 1, 1), "cuda", *arguments(4, 2, 80, jnp.bfloat16, np.int32(9)))
    text = program.compile({"xla_gpu_autotune_level": 0}).as_text()
    assert len(re.findall('custom_call_target="[^"]*triton', text)) == 3
