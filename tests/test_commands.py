"""The commands as a user runs them: prepare, train, kill, resume, evaluate, export, generate."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from processes import Command
from safetensors.numpy import load_file, save_file

from speechdst import generate
from speechdst.api import load
from speechdst.data import tokenizer, tts
from speechdst.data.dialogue import BadInput
from speechdst.files import alone

CONFIG = "configs/joint_dst.py:tiny"
ORDER = "--config.order=('asr', 'joint')"  # `make smoke` goes through all stages
SMALL = ("--config.prepare.simulated.splits.train.dialogues=8",
         "--config.prepare.simulated.splits.test.dialogues=2",
         "--config.prepare.simulated_text.splits.train.dialogues=8")
STEPS = "--config.stages.joint.steps=8"


def command(name, *arguments, folder: Path, config=True, check=True):
    """Runs `python -m speechdst.<name>`; what one compiles, the next finds in the cache."""
    words = line(name, arguments, folder, config)
    process = Command(words, environment(folder))
    out, err = process.communicate()
    if check:
        assert process.returncode == 0, out + err
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def line(name, arguments, folder, config=True):
    words = [sys.executable, "-m", f"speechdst.{name}"]
    if config:
        words += [f"--config={CONFIG}", f"--config.data_dir={folder}/data"]
        if not any(argument.startswith("--config.order=") for argument in arguments):
            words.append(ORDER)
    return [*words, *arguments]


def environment(folder):
    return os.environ | {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                         "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared data set, and a run that went through all stages without a break: the last over
    speech and text with dropout-like masking, saved at every step."""
    folder = tmp_path_factory.mktemp("commands")
    command("prepare", *SMALL, folder=folder)
    out = command("train", STEPS, f"--workdir={folder}/run", folder=folder).stdout
    assert "time: " in out
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    """The run's model, its LoRA merged."""
    command("export", f"--workdir={folder}/run", f"--out={folder}/merged", folder=folder)
    return folder / "merged"


def before_the_last_stage(folder, name) -> Path:
    """A copy of the run, to go on with the stage `joint` from its start."""
    shutil.copytree(folder / "run", folder / name, ignore=shutil.ignore_patterns(
        "joint", "metrics.jsonl"))
    return folder / name


def parameters(stage: Path) -> dict:
    """The arrays of a stage's latest checkpoint, as stored."""
    import jax
    import orbax.checkpoint as ocp

    step = max((p for p in (stage / "steps").iterdir() if p.name.isdigit()),
               key=lambda p: int(p.name))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as reader:
        at = (step / "params").absolute()
        shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=here)
                  for k, v in reader.metadata(at).item_metadata.tree.items()}
        return {k: np.asarray(v) for k, v in reader.restore(at, shapes).items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_killed_at_any_moment_the_run_ends_bitwise_the_same(folder):
    there = before_the_last_stage(folder, "killed")
    seed = random.randrange(10_000)
    print("seed of the kill moments:", seed)
    moments = random.Random(seed)
    killed = 0
    for _ in range(3):
        process = Command(line("train", (STEPS, f"--workdir={there}"), folder),
                          environment(folder))
        # From the first step on: before it there is nothing to lose.
        for printed in process.stdout:
            if re.match(r"joint \d+/", printed):
                break
        time.sleep(moments.uniform(0, 0.8))
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed, "the run was over before it was killed: make it longer"
    command("train", STEPS, f"--workdir={there}", folder=folder)
    assert same(parameters(folder / "run/joint"), parameters(there / "joint"))
    rows = [json.loads(line) for line in (there / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row in rows:
        assert 0 < row["goodput"] < 1 and row["time/step"] > 0 and row["model TFLOP/s"] > 0
        assert "mfu" not in row  # a CPU has no peak that we know of


@pytest.mark.slow  # test_distributed has it of two processes
def test_sigterm_saves_and_leaves_cleanly(folder):
    there = before_the_last_stage(folder, "term")
    process = Command(line("train", (STEPS, f"--workdir={there}"), folder), environment(folder))
    for printed in process.stdout:
        if re.match(r"joint \d+/", printed):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(60) == 0
    found = re.search(r"stopped at step (\d+)", rest)
    assert found, rest
    assert (there / f"joint/steps/{found[1]}").is_dir()


@pytest.mark.slow
def test_a_profile_is_written(folder):
    there = before_the_last_stage(folder, "profiled")
    command("train", STEPS, "--profile=3:5", f"--workdir={there}", folder=folder)
    assert list((there / "profile/joint").rglob("*.xplane.pb"))


def test_a_second_run_in_a_folder_is_refused(folder, tmp_path):
    alone(tmp_path / "run")
    refused = command("train", STEPS, f"--workdir={tmp_path}/run", folder=folder, check=False)
    assert refused.returncode == 2
    assert f"process {os.getpid()} on " in refused.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["running.lock"]


@pytest.mark.slow
def test_a_frozen_encoder_is_asked_once(folder):
    """The joint stage over what `prepare --features` stored; without it, one clear line."""
    there = before_the_last_stage(folder, "encoded")
    stage = (STEPS, "--config.stages.joint.encoded=True", f"--workdir={there}",
             *(f"--config.stages.joint.batches.speech.spec_augment.{masks}=0"
               for masks in ("time_masks", "channel_masks")))
    refused = command("train", *stage, folder=folder, check=False)
    assert refused.returncode == 2 and "prepare --features" in refused.stderr
    stored = command("prepare", "--features", f"--workdir={folder}/run", "--stage=asr",
                     folder=folder).stdout
    assert "simulated: encoded by" in stored and "simulated_text" not in stored
    command("train", *stage, folder=folder)
    found, plain = (parameters(run / "joint") for run in (there, folder / "run"))
    assert found.keys() == plain.keys() and not same(found, plain)


def test_evaluate_export_generate(folder, exported):
    out = command("evaluate", f"--workdir={folder}/run", folder=folder).stdout
    assert "always empty" in out and "text oracle" in out
    written = folder / "run/evaluation/simulated-test-speech/predictions.json"
    predicted = json.loads(written.read_text())
    assert len(predicted) == 2 and all("state" in t for turns in predicted.values() for t in turns)
    apart = folder / "apart"
    command("export", f"--workdir={folder}/run", f"--out={apart}", "--nomerge", folder=folder)
    assert "simulated-test-speech" in (apart / "README.md").read_text()
    assert not any("lora" in name for name in load_file(exported / "model.safetensors"))
    assert any("lora" in name for name in load_file(apart / "model.safetensors"))
    turns = ("--turns=launch/smoke_turns.json", "--json")
    lines = [command("generate", f"--model={model}", *turns, folder=folder,
                     config=False).stdout.splitlines()[-3:] for model in (exported, apart)]
    assert lines[0] == lines[1]
    assert [json.loads(line)["speaker"] for line in lines[0]] == ["user", "agent", "user"]


@pytest.mark.slow
def test_generate_from_a_recording(folder, exported, tmp_path):
    said = [tts.espeak(text) for text in ("i need a cheap hotel", "on monday please")]
    pause = np.zeros(16_000, np.int16)
    user = np.concatenate([said[0], pause, np.zeros(8_000, np.int16), pause, said[1]])
    agent = np.zeros_like(user)
    agent[len(said[0]) + 16_000 :][:4_000] = (3_000 * np.sin(np.arange(4_000) / 9)).astype(np.int16)
    soundfile.write(tmp_path / "call.wav", np.stack([user, agent], 1), 16_000)
    out = command("generate", f"--model={exported}", f"--audio={tmp_path}/call.wav", "--json",
                  folder=folder, config=False).stdout
    turns = [json.loads(line) for line in out.splitlines()]
    assert [t["speaker"] for t in turns] == ["user", "agent", "user"]
    assert turns[0]["start"] < turns[1]["start"] < turns[2]["start"]


def refused(name, *arguments, folder, config=True) -> str:
    result = command(name, *arguments, folder=folder, config=config, check=False)
    assert result.returncode not in (0, None)
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr


def test_a_typo_in_an_override_is_named(folder):
    message = refused("train", "--config.stages.joint.stepz=1", f"--workdir={folder}/x",
                      folder=folder)
    assert "stepz" in message and "steps" in message


def test_a_checkpoint_of_another_config_is_refused(folder):
    message = refused("train", "--config.model.decoder.transformer.width=32",
                      "--config.model.connector.outputs=32", f"--workdir={folder}/run",
                      "--config.stages.joint.steps=16", folder=folder)
    assert str(folder / "run") in message and len(message.strip().splitlines()) == 1


def test_a_vocabulary_that_does_not_match_is_refused(folder, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model/tokenizer.model").write_bytes(
        tokenizer.train(["quite other words in here"] * 20, ["USER:"], 300))
    message = refused("generate", f"--model={tmp_path}/model", "--turns=launch/smoke_turns.json",
                      folder=folder, config=False)
    assert "tokenizer.model" in message and "vocabulary" in message


def test_missing_and_misshapen_tensors_are_listed(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    tensors = load_file(file)
    del tensors["decoder/embedding"]
    tensors["connector/out/bias"] = tensors["connector/out/bias"][:-1]
    save_file(tensors, file)
    with pytest.raises(BadInput) as raised:
        load(tmp_path / "model")
    message = str(raised.value)
    assert "decoder/embedding missing" in message and "connector/out/bias" in message


@pytest.mark.parametrize(("turns", "expected"), [
    ([{"speaker": "user", "audio": "../call.wav"}], "leaves the folder"),
    ({"speaker": "user"}, "expected a list of turns"),
    (["hello"], "expected a list of turns")], ids=str)
def test_turns_stay_in_their_folder_and_are_turns(turns, expected, tmp_path):
    file = tmp_path / "turns.json"
    file.write_text(json.dumps(turns))
    with pytest.raises(BadInput, match=expected) as raised:
        generate.read_turns(file)
    assert str(file) in str(raised.value)


def test_a_command_explains_itself(tmp_path):
    result = command("train", "--help", folder=tmp_path, config=False, check=False)
    assert "python -m speechdst.train" in result.stdout and "--workdir" in result.stdout


def test_a_reader_who_leaves_early_is_no_error():
    done = subprocess.run(f"{sys.executable} -m speechdst.train --helpfull | head -n 1",
                          shell=True, text=True, capture_output=True)
    assert done.stdout.startswith("Train") and not done.stderr
