import json

import h5py
import numpy as np
import pytest

from speechdst.data import corpora
from speechdst.data.dialogue import BadInput

STATES = {
    1: ("restaurant-food=new zealand; taxi-leaveat=08:45", 0),
    3: ("restaurant-food=new zealand; restaurant-book people=2", 1),
}
FIRST = {"restaurant": {"food": "new zealand"}, "taxi": {"leaveat": "08:45"}}
SECOND = {"restaurant": {"food": "new zealand", "people": "2"}}


def lines(id, states=True):
    out = []
    for turn in (1, 2, 3):
        speaker = "user" if turn % 2 else "agent"
        state = STATES[turn][0] if states and turn in STATES else ""
        out.append(
            f"line_nr: {turn} dialog_id: {id}.json turn_id: {turn} "
            f"text: {speaker}: turn {turn}, is this it: yes? state: {state}"
        )
    return [*out, f"line_nr: 4 dialog_id: {id}.json END_OF_DIALOG"]


def recording(folder, id, turns=(1, 3)):
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{id}.hd5", "w") as file:
        for turn in turns:
            group = file.create_group(f"tpe_line_nr: {turn} dialog_id: {id}.json turn_id: {turn}")
            group["audio"] = np.zeros(1600, np.int16)
            group.attrs["hyp"] = f"heard {turn}"


def train(root, *ids, text=None):
    listed = text if text is not None else [line for id in ids for line in lines(id)]
    (root / "train.tts-verbatim.2022-07-27.txt").write_text("\n".join(listed) + "\n")
    for voice in ("tpa", "tpb", "tpc", "tpd"):
        for id in ids:
            recording(root / "train.tts-verbatim.2022-07-27" / voice, id)
    return root


def read(root, split="train", **options):
    return list(corpora.read("dstc11", root, split, **options))


def test_train(tmp_path):
    first, second = read(train(tmp_path, "mul0001", "sng0002"), voice="tpb")
    assert (first.id, second.id) == ("mul0001", "sng0002")
    assert [(t.speaker, t.text) for t in first.turns] == [
        ("user", "turn 1, is this it: yes?"),
        ("agent", "turn 2, is this it: yes?"),
        ("user", "turn 3, is this it: yes?"),
    ]
    assert [t.state for t in first.turns] == [FIRST, None, SECOND]
    assert [t.audio is None for t in first.turns] == [False, True, False]
    ref = first.turns[2].audio
    assert ref.path.endswith("tpb/mul0001.hd5") and ref.voice == "tpb"
    with h5py.File(ref.path) as file:
        assert file[ref.key]["audio"].shape == (1600,)
    assert ref.key.endswith("turn_id: 3")


def test_mixed_voices_are_several_and_always_the_same(tmp_path):
    root = train(tmp_path, *(f"mul{i}" for i in range(8)))
    voices = [t.audio.voice for d in read(root) for t in d.turns if t.audio]
    assert set(voices) == {"tpa", "tpb", "tpc", "tpd"}
    assert voices == [t.audio.voice for d in read(root) for t in d.turns if t.audio]


@pytest.mark.parametrize("wrapped", [False, True])
def test_dev_takes_gold_states_and_the_variant(tmp_path, wrapped):
    (tmp_path / "dev-dstc11.2022-07-27.txt").write_text("\n".join(lines("mul1", states=False)))
    gold = [{**FIRST}, {"restaurant": {"food": "New Zealand", "bookpeople": 2}}]
    gold = [{"state": s, "active_domains": []} for s in gold] if wrapped else gold
    (tmp_path / "dev-dstc11.2022-1102.gold.json").write_text(json.dumps({"MUL1.json": gold}))
    recording(tmp_path / "dev-dstc11.tts-verbatim.2022-07-27", "mul1")
    recording(tmp_path / "dev-dstc11.human-verbatim.2022-09-29" / "inner", "mul1")
    (tts,) = read(tmp_path, "dev")
    (human,) = read(tmp_path, "dev", variant="human-verbatim")
    assert [t.state for t in tts.turns] == [FIRST, None, SECOND]
    assert "tts-verbatim" in tts.turns[0].audio.path
    assert "human-verbatim" in human.turns[0].audio.path
    assert human.turns[0].text.startswith("turn 1")


def test_paraphrased_text_is_what_was_heard_and_states_may_be_unknown(tmp_path):
    (tmp_path / "test-dstc11.2022-09-21.txt").write_text("\n".join(lines("mul1", states=False)))
    recording(tmp_path / "test-dstc11.human-paraphrased.2022-10-17", "mul1")
    (only,) = read(tmp_path, "test", variant="human-paraphrased")
    assert [t.text for t in only.turns] == ["heard 1", "turn 2, is this it: yes?", "heard 3"]
    assert [t.state for t in only.turns] == [None] * 3


def test_text_only(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(lines("mul1")))
    (only,) = read(tmp_path, audio=False)
    assert only.turns[0].audio is None and only.turns[0].state == FIRST


def test_bad_records_are_named_and_the_rest_read(tmp_path):
    text = [*lines("mul1"), "line_nr: 9 dialog_id: mul2", *lines("mul3")[1:], *lines("mul4")]
    root = train(tmp_path, "mul1", "mul3", "mul5", text=text)
    recording(root / "train.tts-verbatim.2022-07-27" / "tpa", "mul6", turns=(1,))
    with open(root / "train.tts-verbatim.2022-07-27.txt", "a") as more:
        more.write("\n".join([*lines("mul5"), *lines("mul6")]))
    broken = root / "train.tts-verbatim.2022-07-27" / "tpa" / "mul5.hd5"
    broken.write_bytes(b"not HDF5")
    out = read(root, voice="tpa")
    problems = [str(r) for r in out if isinstance(r, BadInput)]
    assert [r.id for r in out if not isinstance(r, BadInput)] == ["mul1"]
    expected = [
        ":5: expected 'line_nr:",
        "do not run from 1 without a gap",
        "mul4: the dialogue is listed but its .hd5 file is absent",
        "mul5: not readable as HDF5",
        "user turn 3 has no audio",
    ]
    assert len(problems) == len(expected)
    for problem, part in zip(problems, expected, strict=True):
        assert part in problem


def test_unknown_speaker_and_malformed_state(tmp_path):
    text = [line.replace("agent:", "operator:") for line in lines("mul1")]
    text += [line.replace("food=", "food:") for line in lines("mul2")]
    speaker, state = read(train(tmp_path, "mul1", "mul2", text=text))
    assert "unknown speaker 'operator'" in str(speaker)
    assert "expected domain-slot=value" in str(state)


def test_unusable_releases(tmp_path):
    with pytest.raises(BadInput, match=r"expected one list train\*.txt, found 0"):
        read(tmp_path)
    train(tmp_path, "mul1")
    with pytest.raises(BadInput, match="unknown voice 'tpx'"):
        read(tmp_path, voice="tpx")
    with pytest.raises(BadInput, match="unknown variant"):
        read(tmp_path, variant="asr")
    recording(tmp_path / "copy" / "tpa", "mul1")
    with pytest.raises(BadInput, match=r"train tpa, found 2"):
        read(tmp_path, voice="tpa")
