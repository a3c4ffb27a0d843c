"""Whole files or none, and JSON read from them."""

import contextlib
import json
import os
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
