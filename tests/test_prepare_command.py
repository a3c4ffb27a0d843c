import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from speechdst import prepare
from speechdst.data.dialogue import BadInput
from speechdst.data.prepared import Prepared
from speechdst.data.tokenizer import Tokenizer
from speechdst.decoding.parse import target

CONFIG = '''
"""A recipe of two small data sets."""
from ml_collections import ConfigDict

def get_config(folder):
    c = ConfigDict()
    c.data_dir = folder + "/data"
    text = dict(corpus="simulated", root="", speech="none", seed=0, limit=0,
                splits=dict(train=dict(dialogues=20), test=dict(dialogues=4)))
    slow = text | dict(speech="slow_voice:speak", features="none",
                       splits=dict(train=dict(dialogues=130)))
    c.prepare = dict(words=text, slow=slow)
    c.tokenizer = dict(size=500, train_on=("words",), path="")
    return c
'''

SLOW = """
import os, pathlib, time
import numpy as np

def speak(text, voice):
    folder = pathlib.Path(os.environ["PIDS"])
    (folder / str(os.getpid())).touch()
    if (folder / "slow").exists():
        time.sleep(0.005)
    return (3000 * np.sin(np.arange(1600 + len(text)) * 0.1)).astype(np.int16)
"""


@pytest.fixture
def command(tmp_path):
    """Starts `python -m speechdst.prepare` with the config above."""
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "slow_voice.py").write_text(SLOW)
    (tmp_path / "pids").mkdir()
    root = Path(prepare.__file__).parents[1]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}", "PIDS": str(tmp_path / "pids")}

    def start(*arguments):
        config = f"--config={tmp_path / 'config.py'}:{tmp_path}"
        return subprocess.Popen(
            [sys.executable, "-m", "speechdst.prepare", config, *arguments],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # A shell's background jobs, perhaps these tests, ignore Ctrl-C, and so would a child.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    return start


def finish(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def test_command_prepares_data_and_tokenizer_and_finds_them_again(command, tmp_path):
    out, err = finish(command("--only=words", "--config.prepare.words.limit=6", "--processes=1"))
    assert "words: train 6 dialogues" in out or "train 6 dialogues" in out
    assert "words: 2 of 2 shards" in err  # plain lines where there is no terminal
    prepared = Prepared(tmp_path / "data" / "words")
    assert [len(prepared.dialogues(s)) for s in ("train", "test")] == [6, 4]
    tokenizer = Tokenizer.load(tmp_path / "data" / "tokenizer.model")
    assert json.loads((tmp_path / "data" / "tokenizer.json").read_text()) == {
        "fingerprint": tokenizer.fingerprint, "size": 500,
        "trained_on": {"words": prepared.fingerprint},
    }  # fmt: skip
    out, _ = finish(command("--only=words", "--config.prepare.words.limit=6"))
    assert out.count("up to date") == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--only=nosuch", "no data set 'nosuch'"),
        ("--config.prepare.words.corpus=nosuch", "config.prepare.words.corpus: unknown corpus"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, argument, message):
    out, err = finish(command("--only=words", argument), code=2)
    assert not out and message in err and len(err.splitlines()) == 1


def test_help_explains(command):
    process = command("--help")
    out, _ = process.communicate(timeout=60)
    for what in ("--config", "--only", "--processes", "--overwrite", "exit code 2", "tokenizer"):
        assert what in out


def test_workers_have_no_jax():
    code = "import speechdst.prepare, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_command_goes_on_to_the_same_bytes(command, tmp_path, monkeypatch, how):
    arguments = ("--only=slow",)
    (tmp_path / "pids" / "slow").touch()
    process = command(*arguments, "--processes=1")
    partial, limit = tmp_path / "data" / "slow.partial", time.monotonic() + 100
    while not list(partial.glob("*.arrayrecord")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(how)
    _, err = process.communicate(timeout=100)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert how == signal.SIGKILL or "goes on where this one stopped" in err
    (tmp_path / "pids" / "slow").unlink()
    workers = [int(p.name) for p in (tmp_path / "pids").iterdir()]
    while any(map(alive, workers)):  # workers do not outlive the command
        assert time.monotonic() < limit
        time.sleep(0.02)
    kept = {p: p.stat().st_mtime_ns for p in partial.glob("*.arrayrecord")}
    assert 1 <= len(kept) < 3 and not (tmp_path / "data" / "slow").exists()
    if how == signal.SIGINT:
        assert not list(partial.rglob("*.tmp"))
        return
    finish(command(*arguments, "--processes=1"))
    again = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "data" / "slow").iterdir()}
    assert all(again[p.name] == written for p, written in kept.items())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    straight = runpy.run_path(tmp_path / "config.py")["get_config"](str(tmp_path))
    straight.data_dir = str(tmp_path / "whole")
    prepare.run(straight, only=["slow"], processes=0)
    read = lambda folder: {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}
    assert read(tmp_path / "whole") == read(tmp_path / "data")


def config(data_dir, **tokenizer):
    splits = {"test": {"dialogues": 2}, "train": {"dialogues": 12}}
    c = ConfigDict({"data_dir": str(data_dir), "prepare": {}})
    c.prepare.a = {"corpus": "simulated", "splits": splits, "speech": "none", "seed": 0}
    c.prepare.b = {"corpus": "simulated", "splits": {"dev": {"schema": "b", "dialogues": 5}},
                   "speech": "none"}  # fmt: skip
    c.tokenizer = {"size": 600, "train_on": ("a", "b"), "path": ""} | tokenizer
    return c


def test_tokenizer_is_trained_on_training_splits_and_knows_every_schema(tmp_path, monkeypatch):
    seen = []
    train = prepare.train
    monkeypatch.setattr(
        prepare, "train",
        lambda texts, *rest, **how: train(seen.extend(texts) or seen, *rest, **how)
    )
    prepare.run(config(tmp_path))
    a, b = Prepared(tmp_path / "a"), Prepared(tmp_path / "b")
    expected = []
    for dialogue in [*a.dialogues("train"), *b.dialogues("dev")]:
        for turn in dialogue.turns:
            expected.append(f"{turn.speaker.upper()}: {turn.text}")
            if turn.state is not None:
                expected.append(target(turn.text, turn.state))
    assert seen == expected
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.model")
    for prepared in (a, b):
        for domain in prepared.schema:
            assert len(tokenizer.encode(f'"{domain}"')) == 1
    text = target("hello", a.dialogues("test")[0].user_turns()[-1][1].state)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_waits_for_its_data_sets(tmp_path, capsys):
    prepare.run(config(tmp_path), only=["a"])
    assert "tokenizer: waits until b is prepared" in capsys.readouterr().out
    assert not (tmp_path / "tokenizer.model").exists()
    prepare.run(config(tmp_path), only=["b"])
    assert (tmp_path / "tokenizer.model").exists()


def test_tokenizer_of_other_data_is_not_replaced_unasked(tmp_path, capsys):
    prepare.run(config(tmp_path))
    before = (tmp_path / "tokenizer.model").read_bytes()
    changed = config(tmp_path, train_on=("a",))
    with pytest.raises(BadInput, match=r"another size or other data.*--overwrite"):
        prepare.run(changed)
    assert (tmp_path / "tokenizer.model").read_bytes() == before
    prepare.run(changed, overwrite=True)
    assert (tmp_path / "tokenizer.model").read_bytes() != before
    prepare.run(config(tmp_path, path=str(tmp_path / "tokenizer.model"), train_on=()))
    assert "pieces" in capsys.readouterr().out


def test_tokenizer_that_cannot_be_trained_or_found(tmp_path):
    with pytest.raises(BadInput, match=r"config.tokenizer.size.*5 pieces"):
        prepare.run(config(tmp_path, size=5))
    assert not (tmp_path / "tokenizer.model").exists()
    with pytest.raises(BadInput, match="no tokenizer there"):
        prepare.run(config(tmp_path, path=str(tmp_path / "none.model")))


def test_names_of_data_sets_stay_within_the_folder(tmp_path):
    c = config(tmp_path)
    c.prepare["~up"] = c.prepare.a
    with pytest.raises(BadInput, match="letters, digits"):
        prepare.run(c)
