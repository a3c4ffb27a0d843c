"""The benchmarks of joint training between two corpora: their splits, arms, and a tiny run."""

import ast
import hashlib
import json
import os
import runpy
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from speechdst.data import tts
from speechdst.data.corpora import common, multiwoz
from speechdst.data.dialogue import BadInput

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import cross_corpus as arms
    from benchmarks import text_budget
    from configs import cross_corpus

    return cross_corpus, arms, text_budget


@pytest.fixture(scope="module")
def golden():
    return runpy.run_path(str(GOLDEN / "make_cross_corpus_splits.py"))


def test_held_out_dialogues_stay_what_they_are(golden):
    found, kept = golden["splits"](), json.loads((GOLDEN / "cross_corpus_splits.json").read_text())
    assert found == {name: kept[name] for name in found}
    assert set(kept) - set(found) == {f"{preset}/{name}/{split}"
                                      for preset, names in golden["MULTIWOZ"].items()
                                      for name in names for split in ("dev", "test")}


def test_held_out_ids_of_multiwoz_are_those_of_its_folds():
    """By the hash of the id, whatever else is asked of a dialogue: without the corpus, those of the
    pairs of domains are among those of the whole, and no fold knows another's."""
    kept = json.loads((GOLDEN / "cross_corpus_splits.json").read_text())
    whole = {split: {*kept[f"sgd/b/{split}"].split()} for split in ("dev", "test")}
    assert len(whole["dev"]) == len(whole["test"]) == 100 and not whole["dev"] & whole["test"]
    digests = {split: sorted(common.by_hash(i) for i in ids) for split, ids in whole.items()}
    assert digests["dev"][-1] < digests["test"][0]
    for name, ids in kept.items():
        if name.split("/")[0] in ("restaurant-hotel", "train-taxi"):
            assert ids and {*ids.split()} <= whole[name.split("/")[2]]


@pytest.mark.skipif("SPEECHDST_DATA" not in os.environ, reason="SPEECHDST_DATA names no folder")
def test_held_out_ids_of_multiwoz_stay_what_they_are(golden, tmp_path):
    (tmp_path / "multiwoz").symlink_to(Path(os.environ["SPEECHDST_DATA"]) / "multiwoz21/raw")
    kept = json.loads((GOLDEN / "cross_corpus_splits.json").read_text())
    found = golden["multiwoz"](str(tmp_path))
    assert found == {name: kept[name] for name in found}


def test_nothing_held_out_is_trained_on(golden, modules):
    config = modules[0]
    read = golden["dialogues"]
    for name in config.CORPORA:
        ids = [{d.id for d in read("simulated", name, split)}
               for split in ("train", config.CHOOSING, config.HELD_OUT)]
        assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])
        told = [{tuple(t.text for t in d.turns) for d in read("simulated", name, split)}
                for split in ("train", config.HELD_OUT)]
        assert not told[0] & told[1]
    c = config.get_config("simulated")
    for spec in c.prepare.values():
        unheard = [tts.voices(spec.seed, spec.voices, held, spec.accents) for held in (0, 1)]
        assert not {v.name for v in unheard[0]} & {v.name for v in unheard[1]}
        assert set(spec.held_out_voices) >= set(spec.splits) - {"train"}
    # Of the base's and the arms' stages none reads anything but training data.
    assert {s["split"] for stage in c.stages.values() for b in stage.batches.values()
            for s in b.sources} == {"train"}


def test_folds_are_by_hash_of_the_id_alone(modules, tmp_path):
    """Which fold a dialogue is in depends on no dialogue's content, nor on the file's order."""
    ids = [f"MUL{i:04d}" for i in range(40)]
    order = sorted(ids, key=lambda i: hashlib.sha256(i.encode()).hexdigest())
    assert order == sorted(ids, key=common.by_hash)
    log = [{"text": "hi", "metadata": {}}, {"text": "ok", "metadata": {}}]
    (tmp_path / "val.json").write_text(json.dumps({i: {"log": log} for i in reversed(ids)}))
    folds = dict(train=30, dev=5, test=5)
    read = {split: [d.id for d in multiwoz.read(tmp_path, split, from_split="val", folds=folds)]
            for split in folds}
    assert read == {"train": order[:30], "dev": order[30:35], "test": order[35:]}
    assert sum(modules[0].FOLDS.values()) == 999


def test_presets_are_made_and_wrong_ones_refused(modules):
    config = modules[0]
    for preset in ("simulated", "german", "sgd@raw", "restaurant-hotel@raw", "tiny_simulated",
                   "simulated+large+gpt"):
        c = config.get_config(preset)
        assert set(config.CORPORA) <= set(c.prepare) and "joint" in c.stages
    assert config.get_config("simulated+small").model.decoder.transformer.width == 64
    for wrong in ("nowhere", "simulated+huge"):
        with pytest.raises(ValueError, match=r"no preset|no size"):
            config.get_config(wrong)
    prepare = config.get_config().prepare
    domains = lambda *names: {d for name in names for d in prepare[name].splits.train.domains}
    assert domains("a") == {"restaurant"} and domains("b") == {"events"}
    assert not domains("a", "b") & domains("other_a", "other_b")


def test_arms_read_what_they_say(modules):
    config, arms, budget = modules
    c = config.get_config("tiny_simulated")
    made = arms.arms(c, "a", "b")
    assert tuple(made) == arms.ARMS

    def read(arm, batch):
        return [{(s["data"], s["split"]) for s in stage.batches[batch].sources if s["share"]}
                if batch in stage.batches else set() for stage in made[arm].stages]

    a, b, held = ("a", "train"), ("b", "train"), ("b", config.HELD_OUT)
    assert (read("source_only", "speech"), read("source_only", "text")) == ([{a}], [{a}])
    assert (read("text_only", "speech"), read("text_only", "text")) == ([set()], [{b}])
    assert (read("joint", "speech"), read("joint", "text")) == ([{a}], [{a, b}])
    weights = {s["data"]: s["weight"] for s in made["joint"].stages[0].batches.text.sources
               if s["share"]}
    assert weights["a"] < weights["b"], "what is heard as well is read less often"
    assert read("joint_separate_stages", "speech") == [set(), {a}]
    assert read("joint_separate_stages", "text") == [{b}, {a}]
    assert (read("target_speech", "speech"), read("oracle", "text")) == ([{b}], [{a, b, held}])
    assert not any(held in read(arm, batch)[-1] for arm in arms.ARMS for batch in
                   ("speech", "text") if arm != "oracle")
    assert made["joint_no_text_encoder"].stages[0].batches.text.context.path == "tokens"
    # The speech of b is what the other direction has for its source.
    back = arms.arms(c, "b", "a")
    assert made["target_speech"].name == back["source_only"].name
    assert len({arm.name for arm in (*made.values(), *back.values())}) == 12
    few = budget.text_arm(c, "written", 5).stages[0].batches
    assert {s["data"]: s["share"] for s in few.text.sources if s["share"]} == {
        "a": 1.0, "b_written": 0.05}
    assert budget.speech_arm(c, 0).name == budget.text_arm(c, "spoken", 0).name == "nothing"
    with pytest.raises(BadInput, match="no setting 'big-llama-spoken'"):
        budget.parts("big-llama-spoken")


@pytest.mark.slow
def test_a_budget_is_answered_told_and_drawn(modules):
    budget, turns = modules[2], np.full(40, 3)
    arm = lambda rate, seed: np.random.default_rng(seed).binomial(3, rate, (2, 40))
    text = {0: arm(0.1, 0), 15: arm(0.3, 1), 300: arm(0.5, 2)}
    recorded = {0: arm(0.1, 0), 5: arm(0.5, 3), 1500: arm(0.8, 4)}
    found = budget.answer(text, recorded, turns, 0.5)
    low, high = found["recorded"]["points"][0][0], found["recorded"]["points"][1500][0]
    assert found["accuracy"] == pytest.approx((low + high) / 2)
    assert found["recorded"]["needed"][0] < found["text"]["needed"][0]
    assert found["text"]["smallest"] == 15 and found["text"]["falls"] == []
    result = {"middle-llama-spoken": found, "middle-llama-written": found}
    assert budget.table(result).row_count == 4
    assert "dialogues of text, or " in budget.told("middle-llama-spoken", found)
    worse = budget.answer(text | {1500: arm(0.2, 5)}, recorded, turns, 0.5)
    assert budget.told("", worse).endswith("; more text did worse from 300 to 1,500")
    assert set(budget.charts(result)) == {"Text against recorded dialogues", "Style of the text"}


RATES = {"speech": 0.2, "text": 0.1, "joint": 0.5}


def made_up(base, arms, seeds, data, split, out, say=print, processes=0):
    """Cells as `sweep.cells` gives them, of models that are as good as their arm's name."""
    def score(arm, rng, name):
        own = 0.8 if arm in (f"speech-{name}", "recorded-100") else next(
            (r for start, r in RATES.items() if arm.startswith(start)), 0.4)
        return {"right": rng.binomial(3, own, 40).tolist(), "turns": [3] * 40, "wer": 20.0,
                "matched": (2 * rng.binomial(9, own, 40)).tolist(), "named": [18] * 40,
                "alignment": {"retrieval_at_1": 0.5, "same": 0.9, "other": 0.1}}

    assert len({arm.name for arm in arms}) == len(arms), "no cell is made twice"
    found = {}
    for arm in arms:
        rng = np.random.default_rng(sum(map(ord, arm.name)))
        found[arm.name] = [{name: score(arm.name, rng, name) for name in data}
                           | {"end": {}, "train_seconds": 1.0} for _ in range(seeds)]
    return found


def test_arms_are_told_with_the_gap_that_is_closed(modules, monkeypatch, tmp_path):
    config, arms, _ = modules
    monkeypatch.setattr(arms.sweep, "cells", made_up)
    base = types.SimpleNamespace(config=config.get_config("tiny_simulated"))
    result = arms.measure(base, tmp_path, 3, arms.ARMS)
    assert list(result) == ["a to b", "b to a"]
    for way, rows in result.items():
        for closed in ("gap_closed", "gap_closed_slot_f1"):
            value, low, high = rows[closed]
            assert low < value < high and value == pytest.approx(0.5, abs=0.15)
        assert rows["joint"]["slot_f1"][0] == pytest.approx(50, abs=5)
        assert rows["gain_over_source_only"]["joint"][1] > 0
        assert rows["source_only"]["source"][0] > 70 > rows["joint"]["joint_goal"][0] > 40
        assert arms.table(way, rows).row_count == len(arms.ARMS)
    # Speech of one corpus is the same cell in both directions, whatever it is called there.
    assert result["a to b"]["target_speech"]["joint_goal"] == (
        result["b to a"]["source_only"]["source"])
    few = arms.measure(base, tmp_path, 1, ("joint",))
    assert "gap_closed" not in few["a to b"] and arms.table("a to b", few["a to b"]).row_count == 1


@pytest.mark.slow
def test_settings_of_one_decoder_share_its_base(modules, monkeypatch, tmp_path):
    config, arms, budget = modules
    asked = []

    def cells(base, arms, seeds, data, split, out, say, processes):
        asked.append((base.name, out.name))
        return made_up(base, arms, seeds, data, split, out)

    monkeypatch.setattr(arms.sweep, "cells", cells)
    monkeypatch.setattr(arms.sweep, "Prepared", lambda path: types.SimpleNamespace(
        dialogues=lambda split: range(1500)))
    bases = {tmp_path / folder: types.SimpleNamespace(
        config=config.get_config("tiny_simulated"), name=name)
        for folder, name in (("middle-llama", "one"), ("small-llama", "two"))}
    result = budget.measure(bases, budget.SETTINGS[:3], (5, 100), (100,), 2, 0.5, tmp_path)
    assert asked == [("one", "middle-llama")] * 2 + [("two", "small-llama")]
    assert list(result) == list(budget.SETTINGS[:3])
    for found in result.values():
        assert list(found["text"]["points"]) == [0, 75, 1500]
        assert list(found["recorded"]["points"]) == [0, 1500]


def test_one_run_trains_the_encoder_whichever_bases_are_asked_for(modules, monkeypatch, tmp_path):
    """A base asked for later goes on from it: it and what it encoded are of another decoder."""
    config, sweep = modules[0], modules[1].sweep
    stages, commands = config.get_config("tiny_simulated").stages, []

    def command(name, options, log, out):
        given = dict(o.partition("=")[::2] for o in options)
        commands.append((name, given))
        if name == "train":
            (stage,) = ast.literal_eval(given["--config.order"])
            last = Path(given["--workdir"], stage, "steps", str(stages[stage].steps))
            last.mkdir(parents=True)

    monkeypatch.setattr(sweep, "command", command)
    monkeypatch.setattr(sweep.Base, "loaded", lambda config, folder: folder.name)
    (tmp_path / "small/base").mkdir(parents=True)
    made = sweep.bases({tmp_path / "small": ("small.py", config.get_config("tiny_simulated"))},
                       ("first.py", config.get_config("tiny_simulated")), tmp_path, lambda _: None)
    assert list(made.values()) == ["small"]
    trained = {options["--workdir"]: options for name, options in commands if name == "train"}
    assert {folder: o["--config"] for folder, o in trained.items()} == {
        f"{tmp_path}/asr": "first.py", f"{tmp_path}/small/text": "small.py",
        f"{tmp_path}/small/base": "small.py"}
    assert trained[f"{tmp_path}/small/base"]["--config.base"] == str(
        (f"{tmp_path}/small/text/text", f"{tmp_path}/asr/asr"))
    encodes = [o for name, o in commands if name == "prepare" and "--features" in o]
    assert [(o["--config"], o["--workdir"]) for o in encodes] == [("first.py", f"{tmp_path}/asr")]


def test_cells_of_other_settings_are_refused_and_figures_are_json(modules, tmp_path):
    sweep = modules[1].sweep
    sweep.settle(tmp_path, {"steps": 3})
    sweep.settle(tmp_path, {"steps": 3})
    with pytest.raises(BadInput, match="there are cells made with"):
        sweep.settle(tmp_path, {"steps": 4})
    assert json.loads(sweep.plain({"a": float("inf"), "b": (1.0, float("nan"))})) == {
        "a": None, "b": [1.0, None]}


@pytest.mark.slow
def test_tiny_runs_end_in_figures_and_go_on_where_they_were_stopped(tmp_path):
    def last(name, *options):
        line = [sys.executable, "-m", f"benchmarks.{name}", "--quick", *options]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert not done.returncode, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    out = f"--out={tmp_path}/cross"
    found = last("cross_corpus", out, "--arms=source_only,joint,target_speech")
    assert {"source_only", "joint", "target_speech", "gap_closed"} <= set(found)
    assert set(found["directions"]) == {"a to b", "b to a"} and found["seeds"] == 1
    cells = sorted((tmp_path / "cross/cells").glob("*.json"))
    assert [p.stem for p in cells] == ["joint-ab-0", "joint-ba-0", "speech-a-0", "speech-b-0"]
    before = {p: p.stat().st_mtime_ns for p in cells}
    cells[0].unlink()
    again = last("cross_corpus", out, "--arms=source_only,joint,target_speech")
    assert again["directions"]["b to a"]["joint"]["joint_goal"] == (
        found["directions"]["b to a"]["joint"]["joint_goal"])
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if p != cells[0])
    budget = last("text_budget", f"--out={tmp_path}/budget", "--shares=0,100", "--recorded=100")
    (setting,) = budget["settings"].values()
    assert len(setting["text"]["points"]) == 2 and setting["text"]["needed"]
    assert "<svg" in (tmp_path / "budget/text_budget.html").read_text()


@pytest.mark.slow
def test_seeds_in_one_program_learn_what_they_learn_alone():
    line = [sys.executable, "-m", "benchmarks.together", "--quick", "--seeds=2", "--steps=5",
            "--turns=1"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["difference"] < 1e-4 and len(found["seconds"]) == 2
