#!/usr/bin/env python3
"""Runs the commands of this package that standard input has, one a line, in their order.

usage: echo "python -m speechdst.train --config=..." | launch/commands.py

Each is a process of its own, forked from one that has loaded the libraries and started nothing:
that spares it the seconds in which a new Python loads them. The first that fails ends it, with its
exit code.
"""

import gc
import importlib
import os
import runpy
import shlex
import sys
import warnings

LIBRARIES = ("flax.nnx", "grain", "librosa.core", "librosa.feature", "orbax.checkpoint",
             "speechdst.training.checkpoint", "tensorboardX")


def main() -> None:
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX: it has no threads yet
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # what all share is neither looked through nor copied
    for line in sys.stdin.read().splitlines():
        print(line, flush=True)
        words = shlex.split(line, comments=True)
        if not words:
            continue
        child = os.fork()
        if not child:
            sys.argv = words[2:]
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            return
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(code)


if __name__ == "__main__":
    sys.path.insert(0, "")  # as of `python -m`
    main()
