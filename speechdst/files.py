"""Whole files or none."""

import os
from pathlib import Path


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """`write_bytes` of UTF-8. `errors`: what happens to text that it cannot hold (lone
    surrogates), as for `str.encode`."""
    write_bytes(path, text.encode("utf-8", errors))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes aside, then renames; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(data)
    aside.replace(path)
