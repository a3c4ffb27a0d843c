"""The sweep over variants of preference alignment, at a tiny size."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs import preference_data
from speechdst.config import build
from speechdst.data import preference_pairs, speech
from speechdst.data.dialogue import BadInput
from speechdst.preference import stage
from speechdst.preference.recordings import conversation_of
from speechdst.preference.settings import Settings


@pytest.fixture
def alignment(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.chdir(Path(__file__).parents[1])
    from benchmarks import alignment

    return alignment


def test_rates_are_those_of_all_seeds_and_changes_are_paired(alignment):
    rng = np.random.default_rng(0)
    base = [{"unanswered": [[p, 10] for p in rng.integers(4, 6, 20).tolist()]} for _ in range(3)]
    better = [{"unanswered": [[p - 2, n] for p, n in cell["unanswered"]]} for cell in base]
    value, low, high = alignment.rates(base)["unanswered"]
    parts = [p for cell in base for p, _ in cell["unanswered"]]
    assert value == pytest.approx(10 * np.mean(parts)) and low < value < high
    # Every conversation of every seed has lost as much, so that nothing is left to chance.
    assert alignment.rates(better, base)["unanswered"] == pytest.approx((-20, -20, -20))
    for side in better:
        side["win_rate"] = [[1, 1], [0, 1]]
    assert "win_rate" in alignment.rates(better)
    assert "win_rate" not in alignment.rates(better, base), "the base prefers nothing"


def test_variants_are_stages_of_the_config(alignment, tmp_path):
    runs = alignment.Runs(tmp_path, "tiny", steps=50, limit=2)
    stages = {arm: runs.variant(arm).stages.preference for arm in alignment.VARIANTS}
    assert len({s.to_json() for s in stages.values()}) == len(stages)
    assert {s.steps for s in stages.values()} == {50}
    assert stages["far voices"].batches.pairs.sources[0]["data"] == "pairs_far"
    assert stages["DPO-LN text with CE"].weights.audio == 0.1
    assert len({runs.cell(arm, 0) for arm in stages}) == len(stages)


@pytest.mark.slow
def test_cells_are_trained_once_and_their_voices_are_what_they_say(alignment, tmp_path):
    runs = alignment.Runs(tmp_path / "out", "tiny", steps=2, limit=2)
    arms = ["DPO-LN text", "original voices"]
    found = alignment.measure(runs, arms, 1, quick=True)
    assert list(found["arms"]) == ["base", *arms] and list(found["changes"]) == arms
    assert {"win_rate", "wrong_turns", "replay_in_a_row"} <= set(found["arms"]["original voices"])
    assert found["recorded_wer"][0] > 0 and "wer" in found["changes"]["DPO-LN text"]
    assert alignment.table("", found["arms"]).row_count == 3
    before = {p: p.stat().st_mtime_ns for p in (
        tmp_path / "out/cells").glob("*/preference/steps/*")}
    again = alignment.measure(runs, arms, 1, quick=True)
    assert alignment.sweep.plain(again) == alignment.sweep.plain(found)
    assert before and before == {p: p.stat().st_mtime_ns for p in before}
    # Only where the benchmark has kept them are users heard in the voice of the recording.
    logs = build(Settings, preference_data.get_config("tiny").to_dict(), "config").recordings
    own = {c.id: speech.decode(c.user.audio) for c, *_ in (
        conversation_of(logs, "train", i) for i in range(logs.conversations["train"]))}
    for name, same in (("pairs", False), ("pairs_original", True)):
        work = tmp_path / f"out/data/{name}_work/resynthesis"
        users = {d["id"]: preference_pairs.unpack(d["user"]) for d in stage.documents(work)}
        assert set(own) <= set(users)
        for id, samples in own.items():
            heard = speech.decode(users[id].audio)
            assert (len(heard) == len(samples) and np.array_equal(heard, samples)) == same
    alignment.sweep.settle(runs.out, {"steps": 2})
    with pytest.raises(BadInput, match="cells made with"):
        alignment.sweep.settle(runs.out, {"steps": 3})
    assert json.loads(alignment.sweep.plain(found)).keys() == found.keys()
