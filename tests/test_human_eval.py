"""The listening page hides who is who, and its ratings come back to the right side."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
import soundfile
from test_report import HOSTILE, Tags, data_of

from speechdst import human_eval
from speechdst.data import speech
from speechdst.data.dialogue import BadInput, Word
from speechdst.evaluation import live
from speechdst.evaluation.live import Observed
from speechdst.files import write_text
from speechdst.metrics.ratings import SCALES


def evaluation(folder, hertz: float, seconds=(4, 1, 1, 1), extra=()):
    """An evaluation of conversations in which the model hums."""
    made = []
    for i, length in enumerate(seconds):
        name = f"{i:05d}.flac"
        tone = 0.2 * np.sin(2 * np.pi * hertz * np.arange(length * 16_000) / 16_000)
        speech.write_stereo(folder / live.AUDIO / name, tone.astype(np.float32), np.zeros(9))
        made.append(Observed(f"{HOSTILE}{i}", length, 12.5, (Word("hm", 0, 1),), (), (), {}, None,
                             name))
    write_text(folder / live.CONVERSATIONS, "".join(
        json.dumps(dataclasses.asdict(o)) + "\n" for o in [*made, *extra]))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    only = Observed("only here", 1.0, 12.5, (), (), (), {}, None, "00000.flac")
    return evaluation(folder / "secret-a", 300), evaluation(folder / "secret-b", 900, extra=[only])


def hertz(uri: str) -> float:
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
    left = samples[:, 0]
    return float(np.abs(np.fft.rfft(left)).argmax() * rate / len(left)), len(left) / rate


def made(folders, count=9, seed=1):
    items = human_eval.drawn(*folders, count, (2, 3), seed)
    return items, *human_eval.page(items, *folders, HOSTILE)


def test_both_models_are_there_and_cut_and_the_key_says_which(folders):
    items, page, key = made(folders)
    data = data_of(page)
    assert [i["item"] for i in data["items"]] == ["item-001", "item-002", "item-003", "item-004"]
    assert {i.conversation for i in items} == {f"{HOSTILE}{i}" for i in range(4)}
    for shown, item, known in zip(data["items"], items, key["items"], strict=True):
        (first, seconds), (second, _) = map(hertz, shown["clips"])
        assert (first > second) == (item.first == "b") and known["first"] == item.first
        whole = 4 if item.conversation.endswith("0") else 1
        assert seconds == pytest.approx(min(item.until, whole), abs=0.1)
    assert {i.until for i in items} == {2, 3}
    draw = lambda seed: human_eval.drawn(*folders, 9, (2, 3), seed)
    assert {i.first for seed in range(6) for i in draw(seed)} == {"a", "b"}
    assert draw(1) == items and draw(2) != items
    assert len(human_eval.drawn(*folders, 2, (2, 3), 1)) == 2


def test_the_page_is_blind_whole_and_safe(folders):
    _, page, _ = made(folders)
    assert "secret" not in page
    seen = Tags(page)
    assert seen.scripts == 2 and not any(tag in ("img", "link") for tag, _ in seen.tags)
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert not re.findall(r"https?://", page) and "default-src 'none'" in page
    assert any(HOSTILE in text for text in seen.text)  # the title
    radios = [a for tag, a in seen.tags if tag == "input" and a.get("type") == "radio"]
    assert {a["name"] for a in radios} == {f"{k}-{s}" for k in (0, 1) for s in SCALES}
    assert {a["value"] for a in radios} == set("01234")
    assert sum(tag == "legend" for tag, _ in seen.tags) == 6


def rated(key, name, likes, tmp_path, **changes):
    """A file of a rater who gives 4 to one model and 1 to the other."""
    give = lambda side: dict.fromkeys(SCALES, 4 if side == likes else 1)
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps({"page": key["page"], "rater": name, "ratings": {
        i["name"]: [give(i["first"]), give("ab".replace(i["first"], ""))] for i in key["items"]}}
        | changes))
    return file


@pytest.fixture(scope="module")
def key(folders):
    return made(folders)[2]


def test_ratings_come_back_to_the_right_side(key, tmp_path):
    at = tmp_path / "page.key.json"
    at.write_text(json.dumps(key))
    files = [rated(key, "x", "b", tmp_path), rated(key, "y", "b", tmp_path)]
    scores = human_eval.score(human_eval.read(at, files))
    for scale in SCALES:
        assert list(scores[scale]) == ["2 s", "3 s", "all"]
        assert scores[scale]["all"]["a - b"].value == -2
        assert scores[scale]["all"]["a wins"].value == 0 and scores[scale]["all"]["a"].count == 8
    assert human_eval.table(scores).row_count == 9
    divided = human_eval.score(human_eval.read(at, [files[0], rated(key, "z", "a", tmp_path)]))
    assert divided["engagement"]["all"]["a - b"].value == 0


@pytest.mark.parametrize(("changes", "problem"), [
    ({"page": "other"}, "of page 'other'"), ({"rater": ""}, "no name"),
    ({"ratings": {"item-999": [{}, {}]}}, "no item 'item-999'"),
    ({"ratings": {"item-001": [{"coherence": 5}, {}]}}, "5, expected 0 to 4"),
    ({"ratings": {"item-001": [{"coherence": True}, {}]}}, "True, expected"),
    ({"ratings": {"item-001": [{"beauty": 1}, {}]}}, "'beauty'"),
    ({"ratings": {"item-001": 7}}, "first and second"),
    ({"ratings": {"item-001": [{}]}}, "first and second")])
def test_files_that_cannot_be_scored(key, tmp_path, changes, problem):
    (at := tmp_path / "key.json").write_text(json.dumps(key))
    file = rated(key, "x", "a", tmp_path, **changes)
    with pytest.raises(BadInput, match=rf"x\.json.*{problem}"):
        human_eval.read(at, [file])
    good = rated(key, "w", "a", tmp_path)
    with pytest.raises(BadInput, match="comes twice"):
        human_eval.read(at, [good, good])


def test_nothing_in_common(folders, tmp_path):
    other = evaluation(tmp_path / "c", 300, seconds=())
    with pytest.raises(BadInput, match="no conversation is in both"):
        human_eval.drawn(folders[0], other, 3, (30,), 0)
