"""The samples that launch/arrange_samples.py lays out are read by the corpus readers."""

import importlib.util
import json
import lzma
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechdst.data import corpora
from speechdst.data.dialogue import Dialogue

SCRIPT = Path(__file__).parents[3] / "launch" / "arrange_samples.py"


def arrange(*args):
    spec = importlib.util.spec_from_file_location("arrange_samples", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    argv, sys.argv = sys.argv, [str(SCRIPT), *map(str, args)]
    try:
        module.main()
    finally:
        sys.argv = argv


def words(*said):
    return [
        {"speaker": speaker, "word": word, "start": i / 2, "end": i / 2 + 0.4}
        for i, (speaker, word) in enumerate(said)
    ]


def test_spokenwoz(tmp_path):
    sample, out = tmp_path / "sample", tmp_path / "out"
    for folder in ("audio", "text", "lists", "jga_reference", "speechbrain"):
        (sample / folder).mkdir(parents=True)
    said = words(
        ("A", "hi"), ("A", "there"), ("B", "yes"), ("A", "thai"), ("B", "ok"), ("A", "bye")
    )
    for id in ("SNG1", "SNG2", "SNG3", "SNG4"):
        (sample / "text" / f"{id}.json").write_text(json.dumps(said))
        if id != "SNG4":
            soundfile.write(sample / "audio" / f"{id}.wav", np.zeros((24000, 2), np.int16), 8000)
    states = [{}, {"restaurant": {"food": "Thai", "people": "2"}}]
    reference = {"SNG1": states, "SNG3": states * 2}  # four states do not fit three user turns
    (sample / "jga_reference" / "spokenwoz_dev_jga_reference.json.xz").write_bytes(
        lzma.compress(json.dumps(reference).encode())
    )
    (sample / "lists" / "valListFile.json").write_text("SNG1\nSNG9\n")
    soundfile.write(sample / "speechbrain" / "MUL5.flac", np.zeros((24000, 2), np.int16), 8000)
    (sample / "speechbrain" / "x_spokenwoz.csv").write_text(
        "turnID,wav,start,end,current_state\n"
        "0,a/MUL5.flac,0,8000,\n2,a/MUL5.flac,8000,16000,train-day=monday; hotel-stay=2\n"
    )
    arrange("spokenwoz", sample, out)
    (dev,) = corpora.read("spokenwoz", out, "dev")
    food = {"restaurant": {"food": "thai", "people": "2"}}
    assert [t.text for t in dev.turns] == ["hi there", "yes", "thai", "ok", "bye"]
    assert [t.state for t in dev.turns] == [{}, None, food, None, None]
    train = {d.id: d for d in corpora.read("spokenwoz", out, "train")}
    assert sorted(train) == ["MUL5", "SNG2", "SNG3"]
    assert not train["SNG2"].user_turns() and not train["SNG3"].user_turns()
    turns = train["MUL5"].turns
    assert [t.state for t in turns] == [
        *({}, None, {"train": {"day": "monday"}, "hotel": {"stay": "2"}}, None)
    ]
    assert [(t.audio.start, t.audio.end, t.audio.channel) for t in turns] == [
        *((0.0, 1.1, 0), (0.9, 2.1, 1), (0.9, 2.1, 0), (1.9, 3.0, 1))
    ]


def test_sgd(tmp_path):
    sample, out = tmp_path / "sample", tmp_path / "out"
    (sample / "jsonl").mkdir(parents=True)
    (sample / "schema").mkdir()
    schema = [{"service_name": "Hotels_1", "slots": [{"name": "star_rating"}]}]
    (sample / "schema" / "dev_schema.json").write_text(json.dumps(schema))
    turn = {
        "user": "three stars", "state": {"Hotels_1-star_rating": ["3"]}, "response": "ok",
        "services": ["Hotels_1"], "intent": {"Hotels_1": "FindHotels"},
    }  # fmt: skip
    later = {**turn, "state": {}, "services": [], "response": ""}
    record = {
        "dialogue_id": "1_0", "file": "dialogues_007.json", "services": ["Hotels_1"],
        "turns": [turn, later],
    }  # fmt: skip
    (sample / "jsonl" / "dev.jsonl.xz").write_bytes(lzma.compress(json.dumps(record).encode()))
    arrange("sgd", sample, out)
    (only,) = corpora.read("sgd", out, "dev")
    assert (out / "dev" / "dialogues_007.json").is_file()
    state = {"hotels_1": {"star_rating": "3"}}
    assert [t.state for t in only.turns] == [state, None, state]


@pytest.mark.skipif("SPEECHDST_DATA" not in os.environ, reason="SPEECHDST_DATA names no folder")
def test_multiwoz_val_of_a_data_folder():
    root = Path(os.environ["SPEECHDST_DATA"]) / "multiwoz21" / "raw"
    records = [
        record
        for split in ("train", "dev")
        for record in corpora.read("multiwoz", root, split, from_split="val")
    ]
    good = [r for r in records if isinstance(r, Dialogue)]
    assert len(good) == 999 and sum(len(d.user_turns()) for d in good) == 7365
    assert [r.record for r in records if r not in good] == ["PMUL4707"]
