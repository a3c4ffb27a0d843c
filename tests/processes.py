"""`python -m speechdst.<name>` as a process forked from one that has loaded the libraries, in the
shape of a `subprocess.Popen`: two seconds less of a core each time."""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import jax

from launch.commands import LIBRARIES

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver")  # the tests' own process runs JAX's threads
FORKS.set_forkserver_preload(list(LIBRARIES))


class Command:
    """`line`: a Python, "-m", the module and its arguments; it runs in the project's folder."""

    def __init__(self, line, environment: dict[str, str]):
        read, write = os.pipe()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # A Connection is what travels to another process as an open file.
        out, err = (Connection(fd, readable=False)
                    for fd in (write, os.dup(self._errors.fileno())))
        self._process = FORKS.Process(target=_run, args=(line[2:], environment, out, err))
        self._process.start()
        out.close()
        err.close()
        self.pid, self.stdout = self._process.pid, os.fdopen(read)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = lambda self: self.returncode

    def wait(self, timeout: float = 500) -> int | None:
        self._process.join(timeout)
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """What it printed since what was read, to its end, and all of its errors; killed if that
        takes more than 500 s."""
        late = threading.Timer(500, self.kill)
        late.start()
        out = self.stdout.read()
        self.wait()
        late.cancel()
        self._errors.seek(0)
        return out, self._errors.read()


def _run(words, environment, out, err) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, (name, file) in enumerate({"stdout": out, "stderr": err}.items(), 1):
        os.dup2(file.fileno(), number)
        file.close()
        setattr(sys, name, os.fdopen(number, "w", closefd=False))
    # Read when JAX was loaded.
    jax.config.update("jax_compilation_cache_dir", environment.get("JAX_COMPILATION_CACHE_DIR"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # such a process leaves without
