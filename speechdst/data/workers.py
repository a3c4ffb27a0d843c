"""Worker processes, for work that one process's lock on Python would do one after the other."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pool(count: int, begin: Callable | None = None, *arguments) -> ProcessPoolExecutor:
    """`count` processes that start with the first task; each first calls `begin(*arguments)`.

    spawn: a fork of a process in which JAX or Grain run threads may hang.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"),
                               initializer=_begin, initargs=(begin, arguments))


def _begin(begin: Callable | None, arguments: tuple) -> None:
    """A worker leaves Ctrl-C to its parent, and goes when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if begin:
        begin(*arguments)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Processes started within have one thread for linear algebra each.

    With one for each core in every worker they wait for one another (measured: four times slower
    on two cores), and the last bits of a product may depend on how many share the work.
    """
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
