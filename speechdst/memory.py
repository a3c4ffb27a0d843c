"""How glibc hands out memory: what a step on a CPU frees is kept for the next one.

Left to itself it maps and unmaps the arrays of every step anew, and their page faults take up to a
third of it. Elsewhere than on Linux nothing is done.
"""

import ctypes
import sys

_TRIM, _TOP_PAD, _MMAPS = -1, -2, -4  # of mallopt, see malloc.h


def keep() -> None:
    """Nothing is given back, and large blocks come from where small ones do."""
    _set({_MMAPS: 0, _TRIM: -1, _TOP_PAD: 256 << 20})


def start_devices() -> None:
    """Starts JAX's devices, so that the arrays of a step come from where `keep` keeps them.

    That is glibc's main arena, which the main thread has: in those of other threads a block of more
    than 64 MiB, such as all that a step computes in between, is mapped anew each time. So the
    thread that calls a program runs it (no asynchronous dispatch). One arena for all threads would
    do as well, but they would wait for each other there, and compilation leaves so many small free
    blocks that finding one takes long: a step then lasted up to twice as long in the process that
    compiled it as in one that found it in the cache.
    """
    import jax  # not for commands that only keep memory

    if sys.platform == "linux":
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.devices()


def _set(options: dict[int, int]) -> None:
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in options.items():
            mallopt(what, value)
