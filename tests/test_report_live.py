"""Full-duplex models in the report: tables, the curve, conversations and pairs to hear."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import tiny_preferences
from test_report import HOSTILE, Tags, data_of, written

from speechdst import report, report_live
from speechdst.data import speech
from speechdst.data.dialogue import BadInput, Word
from speechdst.evaluation import live, preferences, spoken_sets, stopping
from speechdst.evaluation.live import Observed
from speechdst.evaluation.stopping import Bound, Curve, Point
from speechdst.files import write_text
from speechdst.metrics.duplex import Reply
from speechdst.metrics.scores import Rate


def rates(**values) -> dict[str, Rate]:
    return {n: Rate(v, v - 1, v + 1, 5) for n, v in values.items()}


def evaluation(run, step: int, names=("c1", "c2"), **values):
    """What the evaluation of one checkpoint leaves."""
    folder = run / "evaluation" / f"set-test-live-preference-{step:06d}"
    observed = []
    for i, name in enumerate(names):
        user = (Word("hello", 0.1, 0.4), Word(HOSTILE, 0.4, 0.9))
        replies = (Reply(12, False, 5, (1, 1)), Reply(20, False, None, None),
                   Reply(30, True, None, (2, 2)))
        observed.append(Observed(name, 3.0, 12.5, (Word("hi", 1.3, 1.5),), user, replies,
                                 {"latency": (0.4, 1)}, HOSTILE, f"{i:05d}.flac"))
        speech.write_stereo(folder / live.AUDIO / f"{i:05d}.flac", np.zeros(16_000), np.zeros(9))
    write_text(folder / live.CONVERSATIONS, "".join(
        json.dumps(dataclasses.asdict(o)) + "\n" for o in observed))
    live.write_scores(folder, {live.MODEL: rates(**values), live.RECORDED: rates(unanswered=0.0)},
                      stage="preference", step=step, set=HOSTILE)
    return folder


def a_run(tmp_path):
    run = tmp_path / "run"
    steps = {0: 50.0, 10: 20.0, 20: 15.0, 50: 1.0}
    for step, unanswered in steps.items():
        evaluation(run, step, unanswered=unanswered, replay_in_a_row=10.0 + step)
    points = tuple(Point(s, rates(unanswered=u, replay_in_a_row=10.0 + s))
                   for s, u in steps.items())
    bounds = {"replay_in_a_row": Bound(2.0, 2.0)}
    stopping.write(run / "evaluation" / "set-test-curve-preference", Curve(
        "preference", "unanswered", points, bounds,
        stopping.choose(points, "unanswered", bounds=bounds)))
    pairs = run / "evaluation" / "pairs-test-pairs"
    write_text(pairs / preferences.PAIRS, "")
    plain = lambda of: {n: dataclasses.asdict(r) for n, r in of.items()}
    write_text(pairs / preferences.SCORES, json.dumps(
        {"arms": {"step 10": plain(rates(**{"win_rate": 61.5, "win_rate: silent": 70.0}))}}))
    sets = run / "evaluation" / "xstest"
    write_text(sets / spoken_sets.REPLIES, "")
    write_text(sets / spoken_sets.SCORES, json.dumps({"scores": plain(rates(accuracy=43.5))}))
    return run


@functools.cache
def records():
    return tiny_preferences.records()


def test_all_of_it_is_on_the_page(tmp_path):
    *_, section = report.read_run(a_run(tmp_path))
    section.pairs = records()
    page = written(tmp_path / "out", live=section)
    seen = Tags(page)
    text = " ".join(" ".join(seen.text).split())
    assert "Chosen by turns not answered, %: step 10." in text
    assert "From step 20 on a bound is broken (replay length, words (in a row))" in text
    for shown in ("win_rate: silent", "61.50", "43.50", "recorded agent", "step 50"):
        assert shown in text, shown
    assert page.count('aria-label="turns not answered, % by step"') == 1
    data = data_of(page)["live"]
    # The first, the chosen and the last are heard; the table has them all.
    assert [n.rsplit(", ", 1)[1] for n in data["names"]] == ["step 0", "step 10", "step 50"]
    card = data["conversations"][0]
    assert card["unanswered"] == card["early"] == 1 and card["latency"] == [0.4]
    assert [(x["speaker"], x["text"]) for x in card["lines"]] == [
        ("user", f"hello {HOSTILE}"), ("agent", "hi")]
    pair = data["pairs"][0]
    assert [s["name"] for s in pair["sides"]] == ["chosen", "rejected"]
    clips = [c["clip"] for c in data["conversations"]] + [
        s["clip"] for p in data["pairs"] for s in p["sides"]]
    assert sorted(clips) == list(range(len(data_of(page)["clips"])))
    # And nothing of it is markup.
    assert seen.scripts == 2 and not any(tag == "img" for tag, _ in seen.tags)
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert "No dialogues" not in text


def test_how_many_are_shown(tmp_path):
    run = tmp_path / "run"
    evaluation(run, 0, names=[f"c{i}" for i in range(6)])
    *_, section = report.read_run(run)
    page = written(tmp_path / "out", live=section, audio_dialogues=1, max_dialogues=3)
    cards = data_of(page)["live"]["conversations"]
    assert [c["id"] for c in cards] == ["c0", "c2", "c4"]
    assert [c["clip"] is None for c in cards] == [False, True, True]


def test_what_cannot_be_read(tmp_path):
    folder = evaluation(tmp_path / "run", 0)
    (folder / live.AUDIO / "00000.flac").unlink()
    *_, section = report.read_run(tmp_path / "run")
    with pytest.raises(BadInput, match="no such recording"):
        report_live.conversations(section, lambda samples: 0, 9, 9)
    (folder / live.SCORES).write_text("[")
    with pytest.raises(BadInput, match=r"live\.json"):
        report.read_run(tmp_path / "run")
