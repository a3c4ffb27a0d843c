"""The commands in BUILD.md and README.md run: those that install or take long in a form that
needs neither network nor minutes, the rest as they stand."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands(document: str) -> list[str]:
    """The lines of a document's ```sh blocks, continuation lines joined, comments cut."""
    text = (ROOT / document).read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [c for line in lines if (c := line.split("#")[0].strip())]


def runnable(command: str, folder: Path) -> list[str]:
    """The command as it is run here."""
    words = shlex.split(command)
    if words[0] == "make":
        return ["make", "-n", *words[1:]]
    scripts = [w for w in words if w.startswith("launch/")]
    if scripts and scripts[0] != "launch/chips.py":
        program = sys.executable if scripts[0].endswith(".py") else "bash"
        return [program, scripts[0], "--dry_run", *words[words.index(scripts[0]) + 1 :]]
    python = words[0].endswith("python") or words[0] == "python3"
    assert python, f"no rule to run {command!r}"
    words[0] = sys.executable
    if "pip" in words[:3]:
        # The lock must be what is installed here, and the package must build without a network.
        return [*words, "--no-index", "--dry-run"]
    if "venv" in words[:3]:
        return [*words[:-1], "--without-pip", str(folder / "venv")]
    return words


DOCUMENTED = sorted({(d, c) for d in ("BUILD.md", "README.md") for c in commands(d)})


def run(line: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=500)


@functools.cache
def explained(command: str) -> str:
    """What `python -m speechdst.COMMAND` says of all its flags; and soon: parts of libraries that
    take long to load are loaded where they are used."""
    result = run([sys.executable, "-X", "importtime", "-m", command, "--helpfull"])
    assert result.returncode == 1 and f"python -m {command}" in result.stdout, result.stderr
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "speechdst.command" in loaded
    assert not loaded & {"scipy.signal", "scipy.stats", "librosa.core", "numba"}
    return result.stdout


def test_every_command_is_documented():
    shown = {word for _, command in DOCUMENTED for word in command.split()}
    for name in ("prepare", "train", "evaluate", "export", "generate", "report"):
        assert f"speechdst.{name}" in shown


@pytest.mark.parametrize("document, command", DOCUMENTED)
def test_documented_command_runs(document, command, tmp_path):
    """Our own are asked for their flags only, and know every one that the document gives."""
    words = shlex.split(command)
    if len(words) > 2 and words[2].startswith("speechdst."):
        out = explained(words[2])
        for flag in (w for w in words[3:] if w.startswith("--")):
            name = flag[2:].split("=")[0].split(".")[0]
            assert f"--{name}" in out or f"--[no]{name}" in out
    else:
        result = run(runnable(command, tmp_path))
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_lock_names_no_index_and_covers_both_pythons():
    lock = (ROOT / "requirements.txt").read_text()
    assert "://" not in lock and "--index" not in lock
    assert re.search(r"^numpy==.*python_full_version < '3\.12'", lock, re.M)
    assert re.search(r"^numpy==.*python_full_version >= '3\.12'", lock, re.M)
    # The same programs on both.
    assert re.search(r"^jax==[\d.]+$", lock, re.M)
