"""Whole files or none, JSON read from them, and folders that one process writes to."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from speechdst.data.dialogue import BadInput


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` if the block ends without an
    error, and is removed otherwise. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """`errors`: what happens to text that UTF-8 cannot hold (lone surrogates), as for
    `str.encode`."""
    with aside(path) as temporary:
        temporary.write_text(text, "utf-8", errors)


def read_object(path: Path, mend: str = "") -> dict:
    """The JSON object in a file. Raises `BadInput` with `mend` if there is none."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", file=path, mend=mend) from error
    except ValueError as error:
        raise BadInput(f"not JSON ({error})", file=path, mend=mend) from error
    if not isinstance(values, dict):
        raise BadInput("not a JSON object", file=path, mend=mend)
    return values


def alone(folder: Path, lease: float = 120) -> None:
    """Lets no other process go past this line for the same folder until this one ends, however it
    does. Raises `BadInput` naming the process that was first. Makes the folder.

    `lease`: seconds that another host is given to end; file servers let go of what a lost one held
    after some 90 s.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "running.lock", os.O_RDWR | os.O_CREAT, 0o666)  # never closed
    until = time.monotonic() + lease
    try:
        while not _locked(file):
            holder = os.pread(file, 300, 0).decode()
            if holder.endswith(f" on {platform.node()}") or time.monotonic() > until:
                raise BadInput(f"process {holder} writes here", file=folder,
                               mend="wait for it to end or stop it, or give another folder")
            print(f"{folder}: process {holder} writes here; waiting", flush=True)
            time.sleep(min(10, lease))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        print(f"{folder}: its files cannot be locked ({error.strerror}); start no second run here")
        return
    os.truncate(file, 0)
    os.write(file, f"{os.getpid()} on {platform.node()}".encode())


def _locked(file: int) -> bool:
    try:
        # Of the process alone (flock's would be its forked children's, too, who may outlive it).
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # as systems differ in what they say
        return False
    return True
