"""What every test shares: CPU only, exact float32 products, eight virtual devices for meshes.

Tests marked slow are more of what another test covers (further families, meshes, benchmarks); they
run with SPEECHDST_SLOW=1 in the environment.
"""

import os

from launch import chips

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Also for the commands that tests start.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {chips.line('quick')}"

import jax
import pytest

# Tests of one device place nothing on the others, so that they cost nothing.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "float32")


# Begun first where files are shared out, so that none is left to one worker at the end.
LONG = ("test_commands", "test_distributed", "test_pretrained", "test_sharding", "test_memory")


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        place = {name: i for i, name in enumerate(LONG)}
        items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))
    if os.environ.get("SPEECHDST_SLOW"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(autouse=True)
def few_programs(request):
    """All slow tests in one process would hold more compiled programs than a process can map."""
    yield
    if request.node.get_closest_marker("slow"):
        jax.clear_caches()
