"""Commands that benchmarks start do not outlive them."""

import functools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from speechdst.data.dialogue import BadInput

ROOT = Path(__file__).parents[1]
# In the place of Python: `-m speechdst.fails` fails, others run until they are asked to leave.
STAND_IN = """#!/bin/sh
[ $2 = speechdst.fails ] && exit 3
sleep 60 &
trap 'echo left; kill $!; exit 1' TERM
echo begun
wait
echo over
"""
STARTS = """
import sys
from pathlib import Path
from benchmarks import commands
folder = Path(sys.argv[1])
sys.executable = str(folder / "python")
commands.stop_with_us()
commands.command("train", (), folder / "train.log", folder)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def says(log: Path, word: str) -> None:
    until = time.monotonic() + 60
    while not (log.exists() and word in log.read_text()):
        assert time.monotonic() < until, f"{log} does not say {word!r}"
        time.sleep(0.01)


def test_when_one_fails_the_others_are_asked_to_leave(folder, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import commands

    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    run = functools.partial(commands.command, options=(), out=folder)

    def fails():
        says(folder / "train.log", "begun")
        run("fails", log=folder / "fails.log")

    with pytest.raises(BadInput, match="fails ended with 3"):
        commands.side_by_side([functools.partial(run, "train", log=folder / "train.log"), fails])
    assert (folder / "train.log").read_text() == "begun\nleft\n"


def test_what_starts_while_the_others_leave_leaves_too(folder, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import commands

    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    run = functools.partial(commands.command, options=(), out=folder)

    begun = threading.Event()

    def fails():
        assert begun.wait(60)
        run("fails", log=folder / "fails.log")

    def late():
        begun.set()
        assert commands._stopping.wait(60)
        run("train", log=folder / "train.log")

    with pytest.raises(BadInput, match="fails ended with 3"):
        commands.side_by_side([fails, late])
    assert "over" not in (folder / "train.log").read_text()
    assert not commands._stopping.is_set(), "what is started later runs"


def test_sigterm_reaches_them(folder):
    with subprocess.Popen([sys.executable, "-c", STARTS, str(folder)], cwd=ROOT) as process:
        says(folder / "train.log", "begun")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    says(folder / "train.log", "left")


def test_a_stage_that_was_stopped_is_not_done(folder, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import sweep

    monkeypatch.setattr(sweep, "command", lambda *_: None)  # left before the last step, with 0
    config = ConfigDict({"data_dir": "data", "stages": {"asr": {"steps": 3}}})
    with pytest.raises(BadInput, match="asr was stopped at step 0"):
        sweep._part(folder, "asr", "config.py", config, shared=folder, say=pytest.fail)
