"""Many hosts as one run: how they find each other, and what they do together or only once.

Every host runs the same command. TPU pods and SLURM steps say themselves who belongs together;
elsewhere every process is told (or by the environment variables in brackets):

    --coordinator_address=HOST:PORT   of process 0     [JAX_COORDINATOR_ADDRESS]
    --num_processes=N --process_id=I                   [JAX_NUM_PROCESSES, JAX_PROCESS_ID]

[JAX_COORDINATOR_PORT] changes the port where the address is found out. The hosts share --workdir
and the data (one file system): checkpoints are written by all of them, all else by the first,
which alone prints.
"""

import hashlib
import importlib.util
import os
import socket
import sys
import time
from glob import glob
from pathlib import Path

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from orbax.checkpoint.multihost import get_barrier_sync_fn

from speechdst.data.dialogue import BadInput

_ADDRESS = flags.DEFINE_string(
    "coordinator_address", os.environ.get("JAX_COORDINATOR_ADDRESS", ""),
    "HOST:PORT of process 0, where neither a TPU pod nor SLURM tells it.")
_COUNT = flags.DEFINE_integer(
    "num_processes", os.environ.get("JAX_NUM_PROCESSES"), "Processes of the run.", lower_bound=1)
_INDEX = flags.DEFINE_integer(
    "process_id", os.environ.get("JAX_PROCESS_ID"), "Which of them this is.", lower_bound=0)
_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 600, "Seconds to wait for the other processes at the start.", lower_bound=1)


def start() -> None:
    """Joins the other processes of the run, if there are any; before anything else uses JAX.

    Raises:
      BadInput: it is not said who belongs together, or they do not come together in time.
    """
    given = (_ADDRESS.value or None, _COUNT.value, _INDEX.value)
    if _ADDRESS.value:
        options = _explicit(*given)
    elif given != (None, None, None):
        raise BadInput("--num_processes and --process_id say nothing without a coordinator",
                       field="--coordinator_address", mend="give HOST:PORT of process 0")
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        options = dict(cluster_detection_method="slurm", local_device_ids=_slurm_devices())
    elif _tpu():
        options = {}
    else:
        return
    try:
        if options.get("process_id"):
            _reach(options["coordinator_address"])
        jax.distributed.initialize(initialization_timeout=_TIMEOUT.value, **options)
    except (RuntimeError, ValueError, OSError) as error:
        if not options and "should be defined" in str(error):
            return  # a TPU that belongs to no pod
        where = options.get("coordinator_address", "the coordinator")
        raise BadInput(
            f"could not start with the other processes at {where} within {_TIMEOUT.value} s: "
            f"{' '.join(str(error).split())[:300]}", mend="check that the same command runs on "
            "every host and none of an earlier run is left, that the address is that of process 0 "
            "and its port is free there and open in the firewall, that no *_proxy variable is set; "
            "hosts that are slow to come up need a higher --start_timeout") from error
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process


def _explicit(address: str, count: int | None, index: int | None) -> dict:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"is {address!r}", field="--coordinator_address",
                       mend="give HOST:PORT of process 0")
    if count is None or index is None or index >= count:
        raise BadInput(f"--num_processes is {count} and --process_id {index}",
                       field="--coordinator_address", mend="with a coordinator give both, the "
                       "processes being numbered from 0 to --num_processes - 1")
    return dict(coordinator_address=address, num_processes=count, process_id=index,
                cluster_detection_method="deactivate")


def _reach(address: str) -> None:
    """Waits until process 0 listens there: JAX's own client ends the program if it never does.
    Raises `OSError` after --start_timeout seconds."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _TIMEOUT.value
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _slurm_devices() -> list[int] | None:
    """All GPUs of a node for the one task on it; None: JAX takes one for each task."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return list(range(int(gpus))) if tasks == "1" and gpus.isdigit() and int(gpus) else None


def _tpu() -> bool:
    """Whether this is a host with TPUs, which JAX then asks for its pod."""
    return (os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")
            and importlib.util.find_spec("libtpu") is not None
            and bool(glob("/dev/accel*") or glob("/dev/vfio/*")))


def first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def meet(where: str) -> None:
    """Waits for all processes, however long another compiles: in a collective of the devices it
    would be given up after seconds on some platforms (30 on CPUs)."""
    get_barrier_sync_fn()(key=where, timeout_ms=3_600_000)


def total(values: dict[str, float]) -> dict[str, float]:
    """Sums over all hosts, of values with the same names on each."""
    if jax.process_count() == 1:
        return values
    sums = multihost_utils.process_allgather(np.array([*values.values()], np.float64)).sum(0)
    return dict(zip(values, sums.tolist(), strict=True))


def agree(what: str, value: object, mend: str) -> None:
    """Raises `BadInput` on all hosts if `value` does not read the same on each."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(str(value).encode()).digest()[:8], np.uint32)
    found = multihost_utils.process_allgather(digest)
    if others := [i for i, x in enumerate(found) if (x != found[0]).any()]:
        raise BadInput(f"not the same on process 0 and on {others}", field=what, mend=mend)


def written(file: Path) -> None:
    """Waits for what the first host wrote; raises `BadInput` on all if another does not see it."""
    if jax.process_count() == 1:
        return
    multihost_utils.sync_global_devices(str(file))
    seen = multihost_utils.process_allgather(np.array(file.exists()))
    if not seen.all():
        raise BadInput(f"processes {np.flatnonzero(~seen).tolist()} do not see what process 0 "
                       "wrote", file=file, mend="--workdir must be on a file system of all hosts")
