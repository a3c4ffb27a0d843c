"""Folders that one process writes to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from speechdst.data.dialogue import BadInput
from speechdst.files import alone

# Forks a child that outlives it, as worker processes may.
HOLDER = """
import os, sys, time
from pathlib import Path
from speechdst.files import alone
alone(Path(sys.argv[1]))
if os.fork():
    print("mine", flush=True)
time.sleep(60)
"""


def test_a_folder_has_one_writer_until_it_ends_however_it_does(tmp_path, monkeypatch,
                                                                 capsys):
    folder = tmp_path / "runs/one"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE,
                          cwd=Path(__file__).parents[1], text=True,
                          start_new_session=True) as process:
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(BadInput, match=f"{process.pid} on .* writes here .*another folder"):
            alone(folder)
        monkeypatch.setattr("platform.node", lambda: "another")
        with pytest.raises(BadInput, match=f"process {process.pid} on "):
            alone(folder, lease=0.1)
        assert "waiting" in capsys.readouterr().out
        process.kill()
        process.wait()
        alone(folder)
        alone(folder)
        os.killpg(process.pid, signal.SIGKILL)  # the child
