"""The project's commands, started by benchmarks: one after the other or side by side."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jax

from speechdst.data import workers
from speechdst.data.dialogue import BadInput

_running: set[subprocess.Popen] = set()
_stopping = threading.Event()  # what starts from now on leaves at once


def compiled_in(out: Path) -> dict[str, str]:
    """The environment in which commands find what others below `out` have compiled."""
    return {"JAX_COMPILATION_CACHE_DIR": str(out.absolute() / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def command(name: str, options: Iterable[str], log: Path, out: Path) -> None:
    """Runs `python -m speechdst.NAME` with what it prints in `log`. Raises `BadInput` if it
    fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file, subprocess.Popen(
            [sys.executable, "-m", f"speechdst.{name}", *options],
            env=os.environ | compiled_in(out), stdout=file, stderr=subprocess.STDOUT) as process:
        _running.add(process)
        if _stopping.is_set():  # by another thread, which may not have seen this one
            process.terminate()
        try:
            status = process.wait()
        finally:
            _running.discard(process)
    if status:
        raise BadInput(f"{name} ended with {status}", file=log)


def stop() -> None:
    """Asks the commands that run to save and leave, as a preemption does."""
    _stopping.set()
    for process in tuple(_running):
        process.terminate()


def stop_with_us() -> None:
    """From now on SIGTERM to this process reaches the commands that it has started, too; Ctrl-C
    does so by itself."""
    def leave(number, frame):
        stop()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, leave)


def side_by_side(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs jobs that start commands and wait for them: on CPUs as many at a time as there are
    cores, which they divide among them (a model this small does not fill two); elsewhere one.
    When one fails the others' commands are stopped."""
    count = min(len(jobs), workers.cores()) if jax.default_backend() == "cpu" else 1
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    free = queue.SimpleQueue()
    for i in range(count):
        free.put(own[i::count])

    def run(job: Callable[[], None]) -> None:
        cores = free.get()
        try:
            if cores:
                os.sched_setaffinity(0, cores)  # of this thread, and of the commands that it starts
            job()
        finally:
            free.put(cores)

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except Exception:
            pool.shutdown(wait=False, cancel_futures=True)
            stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            _stopping.clear()
