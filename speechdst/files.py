"""Whole files or none."""

import os
from pathlib import Path


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes aside, then renames; makes the folder. `errors`: what happens to text that UTF-8
    cannot hold (lone surrogates), as for `str.encode`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    aside.write_text(text, "utf-8", errors)
    aside.replace(path)
