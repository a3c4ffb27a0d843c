import json

import numpy as np
import pytest
import soundfile

from speechdst.data import corpora
from speechdst.data.dialogue import AudioRef, BadInput, Dialogue, Turn, Word

STATE = {"restaurant": {"people": "2"}}


def user(**more):
    return {"speaker": "user", "text": "for two", **more}


def record(id="call-1", turns=None, **more):
    return {"id": id, "turns": [user(state=STATE)] if turns is None else turns, **more}


@pytest.fixture
def root(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((16000, 2), np.int16), 8000)  # 2 s
    (tmp_path / "schema.json").write_text('{"Restaurant": ["People", "food"]}')
    return tmp_path


def write(root, *lines):
    text = (line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (root / "manifest.jsonl").write_text("".join(text))
    return root


def read(root, split="train"):
    return list(corpora.read("manifest", root, split))


def test_everything_a_record_may_hold(root):
    full = user(
        audio="a.wav", start=0.5, end=1.5, channel=1,
        words=[["for", 0, 0.4], ["two", 0.4, 1.0]], state={"Restaurant": {"People": " Two "}},
    )  # fmt: skip
    agent = {"speaker": "agent", "text": "ok"}
    write(root, record(turns=[full, agent]), record("call-2", split="dev"), "\n")
    assert read(root) == [
        Dialogue(
            "call-1",
            "manifest",
            "train",
            (
                Turn(
                    "user",
                    "for two",
                    (Word("for", 0.0, 0.4), Word("two", 0.4, 1.0)),
                    AudioRef(str(root / "a.wav"), 0.5, 1.5, 1),
                    {"restaurant": {"people": "two"}},
                    start=0.5,
                ),
                Turn("agent", "ok"),
            ),
        )
    ]
    assert [d.id for d in read(root, "dev")] == ["call-2"]


def test_whole_files_empty_states_and_no_schema(root):
    (root / "schema.json").unlink()
    write(root, record(turns=[user(audio="a.wav", state={"zoo": {"cat": "1"}}), user(state={})]))
    (only,) = read(root)
    assert only.turns[0].audio == AudioRef(str(root / "a.wav"), 0.0, None)
    assert [t.state for t in only.turns] == [{"zoo": {"cat": "1"}}, {}]
    (root / "manifest.jsonl").rename(root / "mine.jsonl")
    assert read(root / "mine.jsonl") == [only]


BAD = {
    "unknown speaker": (record(turns=[user(speaker="bot")]), "unknown speaker 'bot'"),
    "unknown slot": (
        record(turns=[user(state={"restaurant": {"zip": "1"}})]),
        "unknown slot restaurant-zip",
    ),
    "domain": (record(turns=[user(state={"zoo": {"a": "1"}})]), "unknown domain 'zoo'"),
    "leaves": (record(turns=[user(audio="../a.wav")]), "leaves the folder"),
    "absolute": (record(turns=[user(audio="/etc/hostname")]), "leaves the folder"),
    "missing audio": (record(turns=[user(audio="b.wav")]), "the audio file 'b.wav' is missing"),
    "no audio": (record(turns=[user(audio="schema.json")]), "not readable as audio"),
    "words": (
        record(turns=[user(audio="a.wav", words=[["two", 0, 2.5]])]),
        "'two' runs from 0.00 s to 2.50 s, outside the turn's audio of 2.00 s",
    ),
    "words of a part": (
        record(turns=[user(audio="a.wav", start=1, words=[["two", 0, 1.5]])]),
        "outside the turn's audio of 1.00 s",
    ),
    "word form": (record(turns=[user(words=[["two", 0]])]), "expected [text, start, end]"),
    "times": (record(turns=[user(audio="a.wav", start=1.5, end=1)]), "do not lie in the 2.00 s"),
    "past the end": (record(turns=[user(audio="a.wav", end=3)]), "do not lie in the 2.00 s"),
    "value": (record(turns=[user(state={"restaurant": {"people": 2}})]), "expected a string"),
    "state": (record(turns=[user(state={"restaurant": "two"})]), "expected {slot: value}"),
    "agent state": (
        record(turns=[{"speaker": "agent", "text": "ok", "state": STATE}]),
        "only user turns carry a state",
    ),
    "nothing said": (record(turns=[user(text=" ")]), "neither text nor audio"),
    "no turns": (record(turns=[]), "has no turns"),
    "no text": (record(turns=[{"speaker": "user"}]), "'text' is missing"),
    "no id": ({"turns": []}, "'id' is missing"),
    "malformed": ("{'id': 1}\n", "malformed JSON"),
    "no object": ("[1]\n", "expected an object, got list"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_the_next_one_read(root, name):
    bad_line, message = BAD[name]
    bad, good = read(write(root, bad_line, record("good")))
    assert isinstance(bad, BadInput) and message in str(bad)
    assert "manifest.jsonl:1" in bad.file or bad.record == "manifest/call-1"
    assert good.id == "good"


def test_a_line_cut_off_at_the_end(root):
    good, bad = read(write(root, record(), json.dumps(record("call-2"))[:-9]))
    assert good.id == "call-1"
    assert "manifest.jsonl:2" in str(bad) and "line cut off" in str(bad)


def test_an_id_may_appear_once(root):
    good, bad = read(write(root, record(), record()))
    assert good.id == "call-1" and "appears twice" in str(bad)


def test_unusable_folders(tmp_path):
    with pytest.raises(BadInput, match=r"manifest.jsonl: the file is missing"):
        read(tmp_path)
    write(tmp_path, record())
    (tmp_path / "schema.json").write_text('{"restaurant": "food"}')
    with pytest.raises(BadInput, match=r"schema.json: expected {domain"):
        read(tmp_path)
