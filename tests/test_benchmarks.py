"""The benchmarks, at a tiny size."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console


@pytest.fixture
def tree_vs_turns(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import tree_vs_turns

    return tree_vs_turns


@pytest.mark.slow
def test_both_arms_train_alike_and_are_timed(tree_vs_turns):
    width, layers, block, bucket = tree_vs_turns.QUICK_SIZE
    result = tree_vs_turns.measure(
        width,
        layers,
        tree_vs_turns.QUICK_DIALOGUE,
        repeats=2,
        bucket=bucket,
        block=block,
        quick=True,
        kinds=("spoken_history",),
        say=lambda line: None,
    )
    result = json.loads(json.dumps(result))["spoken_history"]
    # The measurement refuses arms that differ; here it is looked at how closely they agree.
    assert result["loss_error"] < 1e-5
    assert 0 < result["gradient_error"] < 1e-4
    assert result["utterances"] == {"tree": 5, "turns": 1 + 3 + 5, "turns_shared_audio": 5}
    assert result["positions"]["tree"] < result["positions"]["turns"]
    assert {len(s) for s in result["seconds"].values()} == {2}
    assert result["ratio"] > 0 and result["ratio_shared_audio"] > 0
    assert result["flops_ratio"] > result["flops_ratio_shared_audio"] > 1


def test_arms_that_differ_are_refused(tree_vs_turns, monkeypatch):
    from benchmarks import step_time

    found = iter([(1.0, {"w": np.ones(3)}), (1.0, {"w": np.array([1, 1, 1.01])})])
    monkeypatch.setattr(step_time, "first_step", lambda arm: next(found))
    with pytest.raises(AssertionError, match="gradients by 1"):
        tree_vs_turns._errors({"tree": None, "turns": None})


def test_flops_of_trees_and_turns_by_hand(tree_vs_turns):
    from benchmarks import shapes, step_time
    from speechdst.flops import step_flops

    sizes = dataclasses.replace(tree_vs_turns.QUICK_DIALOGUE, turns=2)
    config = shapes.model(32, 2, sizes)
    tree = shapes.dialogue("text_history", sizes, config, np.random.default_rng(0))
    soft = config.soft_length("speech", sizes.frames)
    branch = soft + 12  # speech, bos, state; the last token is only a target
    trunk = 1 + 2 * sizes.text
    pairs = (trunk * (trunk + 1) + 2 * branch * (branch + 1)) // 2 + branch * (1 + trunk)
    alone = shapes.alone(tree)
    assert [len(t.utterances) for t in alone] == [1, 1]
    together, apart = (shapes.rows(trees, 256, 32, config) for trees in ([tree], alone))
    assert (together.positions + 1)[together.tree >= 0].sum() == pairs
    count = lambda batch: sum(step_flops(config, step_time.STAGE, {"": batch}).values())
    more = count(apart) - count(together)
    c = config.decoder.transformer
    # Alone, the first turn reads bos once more, and nothing else is read twice.
    weights = 2 * (c.width * 32 * 3 + 3 * c.width * c.mlp_width)
    assert more == 3 * c.layers * (weights + 4 * 32)


def spoken_setup():
    import tiny

    from benchmarks import equal_time_spoken

    rng = np.random.default_rng(0)
    model = tiny.config()
    return equal_time_spoken.Spoken(
        model, tiny.tokenizer(), tiny.parameters(model),
        *([tiny.dialogue(rng, users=4, name=f"{part}{i}") for i in range(n)]
          for part, n in (("train", 5), ("test", 2))))


def one_branch_each(batch) -> bool:
    return all(len(np.unique(batch.branch[0][batch.tree[0] == t])) == 2  # trunk and one branch
               for t in np.unique(batch.tree[0]) if t >= 0)


@pytest.mark.slow
@pytest.mark.parametrize("spoken", [False, True])
def test_accuracy_after_equal_time(tree_vs_turns, spoken):
    from benchmarks import equal_time, step_time

    setup = spoken_setup() if spoken else equal_time.fresh(16, 1, 8, 2)
    setup = dataclasses.replace(setup, max_new=4, compiler_options=step_time.quick_options())
    result = json.loads(json.dumps(equal_time.compare(setup, 0.2, say=lambda line: None)))
    for arm in ("trees", "single_turns"):
        r = result[arm]
        assert r["steps"] >= 1 and r["answers"] >= r["steps"]
        assert 0.2 <= r["seconds"] < 60  # at least one step, however busy the machine
        assert 0 <= r["jga"] <= 100 and np.isfinite(r["held_out_loss"])
    equal_time.show(Console(), result)
    if not spoken:
        assert one_branch_each(next(setup.batches()["single_turns"])["text"])
        trees = setup.trees(setup.train)
        assert sum(len(t.branches) for t in trees) > len(trees)


def test_spoken_turns_alone_hear_what_their_tree_does(tree_vs_turns):
    setup = spoken_setup()
    streams = setup.batches()
    seen = {name: next(stream)["speech"] for name, stream in streams.items()}
    assert one_branch_each(seen["single_turns"]) and not one_branch_each(seen["trees"])
    from benchmarks.equal_time_spoken import CONTEXT, OneByOne
    from speechdst.data.contexts import TreeBuilder

    rest = setup.tokenizer, setup.config.soft_length
    for dialogue in setup.train:
        (tree,) = TreeBuilder(CONTEXT, *rest).trees(dialogue)
        apart = OneByOne(CONTEXT, *rest).trees(dialogue)
        assert [len(t.utterances) for t in apart] == list(range(1, len(tree.branches) + 1))
        assert [t.branches[0].segments[-1].ids for t in apart] == [
            b.segments[-1].ids for b in tree.branches]


@pytest.mark.slow
def test_cached_features_train_alike_and_are_timed(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    import tiny

    from benchmarks import cached_features

    result = json.loads(json.dumps(cached_features.measure(
        *cached_features.QUICK, repeats=1, say=lambda line: None, compiler_options=tiny.QUICK)))
    assert result["ratio"] > 0 and result["audio_seconds"] == pytest.approx(1.2)
    assert {len(s) for s in result["seconds"].values()} == {1}
    assert result["loss"]["cached"] == pytest.approx(result["loss"]["audio"], rel=1e-2)


def test_attention_arms_agree_and_are_timed(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import attention

    result = json.loads(json.dumps(attention.measure("text_history", **attention.QUICK)))
    assert set(result["milliseconds"]) == {"attend", "dense"}
    assert 0 < result["difference"] < 1e-4 and 0 < result["visible"] < 1
    assert result["ratio"]["train"] == pytest.approx(
        result["milliseconds"]["dense"]["train"] / result["milliseconds"]["attend"]["train"])

    calls = {name: {"train": lambda x=x: (np.array([1, x]),)}
             for name, x in (("dense", 1.0), ("attend", 1.1))}
    with pytest.raises(AssertionError, match="attend differs"):
        attention.agree(calls, np.float32)


@pytest.mark.slow
def test_a_full_size_step_is_refused_here_and_tried_small(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    import tiny

    from benchmarks import equal_time, gpu_step
    from configs import joint_dst, published
    from speechdst.data.dialogue import BadInput

    with pytest.raises(BadInput, match="too large for the only device"):
        gpu_step.check_device(quick=False)
    c = joint_dst.get_config("olmo_1b")
    published.shrink(c, gpu_step.QUICK_WAVLM, gpu_step.QUICK_LLM)
    q = gpu_step.QUICK
    dialogues = gpu_step.spoken(q["dialogues"], q["turns"], q["seconds"])
    assert all(t.audio.seconds == 0.5 for d in dialogues for _, t in d.user_turns())
    stages = gpu_step.stages_of(c, q["rows"], q["positions"])
    r = json.loads(json.dumps(gpu_step.measure(
        c, stages["decoder"], dialogues, equal_time.tokenizer_for(dialogues), 640, 1, tiny.QUICK)))
    assert r["mfu"] is None and r["step_seconds"] > 0 and 0 < r["input_wait"] < 1
    assert set(r["flops"]) == {"decoder", "head"} and r["positions/s"] > 0


def test_loaders_are_timed_against_the_step(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    import tiny

    from benchmarks import loader as benchmark
    from speechdst.data import loader
    from speechdst.flops import CHIPS

    rng = np.random.default_rng(0)
    data = [tiny.dialogue(rng, 2, name=f"d{i}") for i in range(6)]
    made = {kind: loader.make([loader.Source(data)], tiny.builder(kind), positions=256, rows=2,
                              seed=0, block=64, channels=tiny.CHANNELS)
            for kind in ("single", "text_history")}
    rates = {kind: benchmark.rate(value, 0.05) for kind, value in made.items()}
    for r in rates.values():  # two answers a dialogue, in one tree or in two
        assert r.counts["batches"] >= 1 and r.cpu_seconds > 0 and r.wall_seconds >= 0.05
        assert r.counts["dialogues"] == pytest.approx(r.counts["answers"] / 2)
        assert r.counts["audio hours"] > 0
    step = sum(r.cpu_seconds / r.counts["batches"] for r in rates.values())
    assert benchmark.cores(rates, 10, 4) == pytest.approx(3 * 10 * step / 4)
    # At the chips' peak: twice the chips, twice the steps; a batch of twice the work, half.
    stage = ConfigDict(dict(trainable=(".*",), weights=dict(text=1.0)))
    one = {"a": next(iter(made["single"]))}
    given, hosts = benchmark.at_peak(stage, tiny.config(), one, "v5e:4x4")
    assert hosts == 4
    flops = sum(benchmark.step_flops(tiny.config(), stage, one).values())
    assert given * flops == pytest.approx(16 * CHIPS["v5e"].flops)
    assert benchmark.at_peak(stage, tiny.config(), one, "v5e:4x8") == (pytest.approx(2 * given), 8)
    twice = one | {"b": one["a"]}
    assert benchmark.at_peak(stage, tiny.config(), twice, "v5e:4x4")[0] == pytest.approx(given / 2)


@pytest.mark.slow
def test_pairs_as_trees_train_like_two_sequences_and_are_timed(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    import tiny

    from benchmarks import preference_tree

    result = json.loads(json.dumps(preference_tree.measure(
        **preference_tree.QUICK, say=lambda line: None, compiler_options=tiny.QUICK)))
    # The measurement refuses arms that differ; here it is looked at how closely they agree.
    assert result["loss_error"] < 1e-5 and 0 < result["gradient_error"] < 1e-4
    assert result["positions"] == {"trees": 48 + 2 * 8, "sequences": 2 * (48 + 8)}
    assert result["ratio"] > 0 and {len(s) for s in result["seconds"].values()} == {1}
