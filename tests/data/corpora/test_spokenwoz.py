import json

import numpy as np
import pytest
import soundfile

from speechdst.data import corpora
from speechdst.data.corpora import spokenwoz
from speechdst.data.dialogue import AudioRef, BadInput, Word

STATE = {"profile": {"semi": {"name": "Ann"}}, "hotel": {"semi": {}, "book": {"stay": "2"}}}


def entry(tag, *words, **more):
    """`words`: (text, begin, end) in seconds."""
    timed = [
        {"Word": w, "BeginTime": int(1000 * b), "EndTime": int(1000 * e), "ChannelId": 0}
        for w, b, e in words
    ]
    return {"tag": tag, "text": " ".join(w for w, *_ in words), "words": timed, **more}


def log():
    return [
        entry("user", ("hello", 0.05, 0.5), ("there", 0.5, 1.0)),
        entry("system", ("yes", 1.5, 1.75), metadata=STATE),
        entry("user", ("bye", 2.5, 3.1)),
        entry("system", ("bye", 2.75, 2.9)),  # no metadata: the turn before is not annotated
    ]


def release(root, dialogues, dev=(), part="train_dev", seconds=3.0, recorded=None):
    text, audio = root / f"text_5700_{part}", root / f"audio_5700_{part}"
    text.mkdir(parents=True)
    audio.mkdir()
    (text / "data.json").write_text(json.dumps({i: {"log": turns} for i, turns in dialogues}))
    if part == "train_dev":
        (text / "valListFile.json").write_text("\n".join(dev))
    for i in [i for i, _ in dialogues] if recorded is None else recorded:
        soundfile.write(audio / f"{i}.wav", np.zeros((int(8000 * seconds), 2), np.int16), 8000)
    return root


def read(root, split="train", **options):
    return list(corpora.read("spokenwoz", root, split, **options))


def test_turns_audio_words_and_states(tmp_path):
    root = release(tmp_path, [("MUL1", log()), ("SNG2", log())], dev=["SNG2"])
    (root / "audio_5700_train_dev" / "._MUL1.wav").write_bytes(b"")
    (only,) = read(root)
    wav = str(root / "audio_5700_train_dev" / "MUL1.wav")
    first, second, third, _ = only.turns
    assert (only.id, only.split) == ("MUL1", "train")
    assert [t.speaker for t in only.turns] == ["user", "agent", "user", "agent"]
    assert first.text == "hello there"
    # from the start of the file, for the margin would begin before it
    assert first.audio == AudioRef(wav, 0.0, 1.1, channel=0, channels=2)
    assert first.words == (Word("hello", 0.05, 0.5), Word("there", 0.5, 1.0))
    assert first.state == {"profile": {"name": "ann"}, "hotel": {"stay": "2"}}
    assert second.audio == AudioRef(wav, 1.4, 1.85, channel=1, channels=2)
    assert second.start == 1.4 and second.words[0].start == pytest.approx(0.1)
    assert third.audio.end == 3.0  # the recogniser's 3.1 s, within the slack, cut to the file
    assert third.state is None
    assert [d.id for d in read(root, "dev")] == ["SNG2"]


def test_empty_metadata_is_an_empty_state(tmp_path):
    turns = [entry("user", ("hi", 0, 1)), entry("system", ("yes", 1, 2), metadata={})]
    (only,) = read(release(tmp_path, [("A", turns)]))
    assert only.turns[0].state == {}


def test_margin_and_text_only(tmp_path):
    root = release(tmp_path, [("A", log())], recorded=[])
    (only,) = read(root, audio=False)
    assert only.turns[0].audio is None and only.turns[0].state is not None
    (bad,) = read(root)
    assert isinstance(bad, BadInput) and "the recording is missing" in str(bad)
    assert bad.record == "A" and bad.file.endswith("A.wav")


def test_faulty_dialogues_are_reported_with_their_turns(tmp_path):
    root = release(tmp_path, [("SNG0601", log()), ("SNG0602", log())], part="test")
    bad, good = read(root, "test")
    assert good.id == "SNG0602"
    assert (bad.record, "version 1: 4 turns left out" in str(bad)) == ("SNG0601", True)
    kept = read(root, "test", keep_faulty=True)
    assert [d.id for d in kept] == ["SNG0601", "SNG0602"]
    assert len(spokenwoz.FAULTY) == 9


def test_words_outside_the_recording(tmp_path):
    root = release(tmp_path, [("A", log())], seconds=2.5)
    (bad,) = read(root)
    assert bad.field == "log[2].words"
    assert "'bye' ends at 3.10 s, outside the recording of 2.50 s" in str(bad)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (entry("guest", ("hi", 0, 1)), "unknown speaker 'guest'"),
        (entry("user", ("hi", 1, 0.5)), "'hi' runs from 1.00 s to 0.50 s"),
        ({"tag": "user", "text": "hi", "words": [{"Word": "hi"}]}, "'BeginTime' is missing"),
        ({"tag": "user", "text": "hi"}, "'words' is missing"),
        ({"tag": "user", "words": []}, "'text' is missing"),
    ],
)
def test_bad_turns(tmp_path, turn, message):
    bad, good = read(release(tmp_path, [("A", [turn]), ("B", log())]))
    assert isinstance(bad, BadInput) and message in str(bad)
    assert "A" in bad.record and good.id == "B"


def test_listed_but_absent_and_recorded_but_untold(tmp_path):
    root = release(tmp_path, [("A", log())], dev=["A", "B"], recorded=["A", "C"])
    good, bad = read(root, "dev")
    assert good.id == "A" and bad.record == "B" and "listed" in str(bad)
    (orphan,) = read(root, "train")
    assert "C.wav" in orphan.file and "no text" in str(orphan)


def test_broken_recording(tmp_path):
    root = release(tmp_path, [("A", log())])
    (root / "audio_5700_train_dev" / "A.wav").write_bytes(b"RIFF")
    (bad,) = read(root)
    assert "not readable as audio" in str(bad)


def test_unusable_releases(tmp_path):
    with pytest.raises(BadInput, match=r"data.json: the file is missing"):
        read(tmp_path)
    root = release(tmp_path, [("A", log())])
    with pytest.raises(BadInput, match="the file is missing"):
        read(root, "test")
    (root / "text_5700_train_dev" / "valListFile.json").unlink()
    with pytest.raises(BadInput, match="list of dev dialogues is missing"):
        read(root)
