"""How glibc hands out memory: what a step on a CPU frees is kept for the next one.

Left to itself it maps and unmaps the arrays of every step anew, and their page faults take up to a
third of it. Elsewhere than on Linux nothing is done.
"""

import ctypes
import os
import sys

_TRIM, _TOP_PAD, _MMAPS, _ARENAS = -1, -2, -4, -8  # of mallopt, see malloc.h


def keep() -> None:
    """Nothing is given back, and large blocks come from where small ones do."""
    _set({_MMAPS: 0, _TRIM: -1, _TOP_PAD: 256 << 20})


def start_devices() -> None:
    """Starts JAX's devices, so that their threads take memory from the main arena.

    In an arena of its own a thread maps each block of more than 64 MiB, such as all that a step
    computes in between, whatever `keep` says. Threads of later, as the compiler's, get their own
    again: they would wait for each other.
    """
    import jax  # not for commands that only keep memory

    _set({_ARENAS: 1})
    jax.devices()
    _set({_ARENAS: 8 * (os.cpu_count() or 1)})  # as it was


def _set(options: dict[int, int]) -> None:
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in options.items():
            mallopt(what, value)
