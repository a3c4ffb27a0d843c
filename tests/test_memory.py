"""Memory of steps on a CPU."""

import statistics
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from speechdst import memory
if sys.argv[1] == "kept":
    memory.keep()
    memory.start_devices()
import jax, jax.numpy as jnp
between = jax.jit(lambda x: ((x[:, None] * x[None]) @ x[:, None]).max())  # 100 MB on the way
x = jnp.ones(5000)
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    between(x).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
c = ctypes.CDLL(None)
c.fdopen.restype = ctypes.c_void_p
c.malloc_info(0, ctypes.c_void_p(c.fdopen(2, b"w")))
c.fflush(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_a_step_frees_is_there_for_the_next():
    faults, arenas = {}, {}
    for how in ("kept", "given back"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], text=True, check=True,
                              capture_output=True)
        # Of the later ones: where a small block lies in the way, room is made anew, seldom.
        faults[how] = statistics.median(map(int, done.stdout.split()[10:]))
        arenas[how] = done.stderr.count("<heap nr=")
    assert faults["kept"] < 1000 < 10_000 < faults["given back"], faults
    # Threads that share one wait for each other there, and search what compilation left.
    assert arenas["kept"] > 1, arenas
