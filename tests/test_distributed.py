"""Real processes as many hosts: one run, whatever their number, and a clean end on all."""

import json
import re
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import test_commands
from absl import flags
from absl.testing import flagsaver
from processes import Command

from configs import joint_dst
from speechdst import distributed, prepare
from speechdst.data.dialogue import BadInput

# One stage over speech with random masks and a frozen decoder, saved at every step.
STEPS = 6
STAGE = ("--config.order=('asr',)", f"--config.stages.asr.steps={STEPS}",
         "--config.stages.asr.batches.speech.rows=4",
         "--config.stages.asr.batches.speech.positions=256", "--config.mesh.fsdp=2")


STARTED: list[Command] = []


@pytest.fixture(autouse=True)
def none_is_left():
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()
    STARTED.clear()


@pytest.fixture(autouse=True)
def parsed():
    flags.FLAGS.mark_as_parsed()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def launch(folder, workdir, processes: int, devices: int = 4, joined: bool = True, config=None
           ) -> list[Command]:
    """`train` as `processes` processes with so many devices together; STAGE of the tiny preset, or
    what a `config` of one's own says. On CPUs joined processes, be it one, add up over their
    devices in another order than one that is on its own."""
    environment = test_commands.environment(folder)
    environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices // processes}"
    given = (f"--config={config}", f"--config.data_dir={folder}/data") if config else (
        *STAGE, f"--config.mesh.tensor={devices // 2}")
    line = test_commands.line("train", (*given, f"--workdir={workdir}"), folder, config=not config)
    port = free_port()
    many = lambda i: (f"--coordinator_address=localhost:{port}", f"--num_processes={processes}",
                      f"--process_id={i}") if joined else ()
    made = [Command([*line, *many(i)], environment) for i in range(processes)]
    STARTED.extend(made)
    return made


def until(process, start: str) -> str:
    """What the process prints until a line that starts so."""
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith(start):
            return printed
    pytest.fail(f"never printed {start!r}: {process.communicate()[1][-2000:]}")


def ended(processes) -> list[str]:
    """What the processes printed, all of them having left cleanly."""
    out = [p.communicate() for p in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), out
    return [printed for printed, _ in out]


def losses(workdir) -> list[float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, len(rows) + 1))
    return [r["loss"] for r in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared data, and runs that nothing broke (see `whole`)."""
    folder = tmp_path_factory.mktemp("distributed")
    config = joint_dst.get_config("tiny")
    config.data_dir = f"{folder}/data"
    prepare.run(config, processes=0)
    return folder


def whole(folder, processes: int) -> Path:
    """A run of so many processes that nothing broke."""
    workdir = folder / f"whole{processes}"
    if not workdir.exists():
        first = ended(launch(folder, workdir, processes))[0]
        assert "4 cpu device(s)" in first and f"asr {STEPS}/{STEPS}" in first
    return workdir


# The processes of the unbroken run, and those that go on with the one that two processes began:
# all but the last are killed. Slow: exactly as many, or one that is killed and then two.
CASES = [(1, (dict(processes=1),)), *(
    pytest.param(2, (*killed, dict(processes=2)), marks=pytest.mark.slow) for killed in (
        (), (dict(processes=1),), (dict(processes=1, joined=False),),
        (dict(processes=1, devices=2, joined=False),)))]


@pytest.mark.parametrize(("unbroken", "then"), CASES, ids=str)
def test_processes_that_come_and_go_are_one_run(folder, tmp_path, unbroken, then):
    """Preempted on two processes, gone on with on others: as if nothing had happened."""
    straight, broken = whole(folder, unbroken), tmp_path / "broken"
    pair = launch(folder, broken, 2)
    # While it compiles, so that the signal has made its way before the last step. The process that
    # is signalled is the one that does not write.
    assert "4 cpu device(s), 2 host(s)" in until(pair[0], "stage asr")
    pair[1].send_signal(signal.SIGTERM)
    first, second = ended(pair)
    assert "asr" not in second, "only the first process reports"
    stopped = int(re.search(r"stopped at step (\d+)", first)[1])
    assert stopped < STEPS - 1, "the run was over before it was stopped: make it longer"
    saved = broken / f"asr/steps/{stopped}"
    # The data position is one small number, kept once.
    assert json.loads((saved / "data/metadata").read_text()) == {"speech": {"next_index": stopped}}

    *killed, last = then
    for alone in killed:
        (one,) = launch(folder, broken, **alone)
        until(one, f"asr {stopped + 1}/")
        one.kill()
        one.communicate()
    ended(launch(folder, broken, **last))

    expected, found = losses(straight), losses(broken)
    gaps = np.abs(np.diff(expected))
    assert gaps.min() > 1e-3, "batches that cannot be told apart show no order"
    a, b = (test_commands.parameters(run / "asr") for run in (straight, broken))
    assert a.keys() == b.keys()
    if (unbroken, then) == (2, (dict(processes=2),)):  # the same sums in the same order
        assert found == expected and test_commands.same(a, b)
        return
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for path, value in a.items():
        # Key biases have no gradient in exact arithmetic: Adam makes steps of the rounding.
        if not path.endswith("/k/bias"):
            np.testing.assert_allclose(b[path], value, rtol=1e-6, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_stages_may_lie_on_meshes_of_their_own(folder, tmp_path):
    """Two processes; the second stage reads the first one's parameters onto another mesh."""
    config = tmp_path / "config.py"
    config.write_text(
        "from configs import joint_dst\n\n"
        "def get_config(fsdp):\n"
        "    c = joint_dst.get_config('tiny')\n"
        "    c.order = ('asr', 'joint')\n"
        "    c.stages.asr.mesh = dict(data=-1, fsdp=int(fsdp), tensor=1)\n"
        "    for stage in c.stages.values():\n"
        "        for batch in stage.batches.values():\n"
        "            batch.rows = 4\n"
        "    return c\n")
    rows = {}
    for fsdp in (1, 4):
        printed = ended(launch(folder, tmp_path / str(fsdp), 2, config=f"{config}:{fsdp}"))[0]
        assert "stage asr" in printed and "stage joint" in printed
        written = (tmp_path / str(fsdp) / "metrics.jsonl").read_text().splitlines()
        rows[fsdp] = [json.loads(line) for line in written]
    assert [r["stage"] for r in rows[4]] == ["asr"] * 3 + ["joint"] * 3
    np.testing.assert_allclose(*([r["loss"] for r in rows[n]] for n in (4, 1)), rtol=1e-5)


def test_a_coordinator_that_is_not_there_is_explained(tmp_path):
    given = (f"--coordinator_address=localhost:{free_port()}", "--num_processes=2",
             "--process_id=1", "--start_timeout=1", f"--workdir={tmp_path}")
    result = test_commands.command("train", *given, folder=tmp_path, check=False)
    assert result.returncode == 2
    assert "within 1 s" in result.stderr and "open in the firewall" in result.stderr


@pytest.mark.parametrize(("given", "expected"), [
    (dict(coordinator_address="host", num_processes=2, process_id=0), "'host'"),
    (dict(coordinator_address="host:80", num_processes=2), "--process_id None"),
    (dict(coordinator_address="host:80", num_processes=2, process_id=2), "--process_id 2"),
    (dict(num_processes=2, process_id=0), "say nothing without a coordinator")], ids=str)
def test_a_start_that_cannot_be_is_refused(given, expected):
    none = dict(coordinator_address="", num_processes=None, process_id=None)
    with flagsaver.flagsaver(**none | given), pytest.raises(BadInput, match=expected):
        distributed.start()


@pytest.mark.parametrize(("tasks", "gpus", "expected"), [
    ("1(x2)", "8", list(range(8))), ("1", "4", [0, 1, 2, 3]), ("8(x2)", "8", None),
    ("1(x2)", "", None), ("1,2", "8", None)])
def test_one_slurm_task_takes_all_gpus_of_its_node(tasks, gpus, expected, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", gpus)
    assert distributed._slurm_devices() == expected


def test_one_process_asks_no_one(tmp_path):
    assert distributed.first()
    assert distributed.total({"trees": 3, "frames": 2.5}) == {"trees": 3, "frames": 2.5}
    distributed.agree("config", "a", "")
    distributed.written(tmp_path / "nothing")
